//go:build linux

package upstream

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Routes is told what hosts announce. Calls for one host come one at a time.
type Routes interface {
	// Announce may refuse a prefix; the session goes on without it.
	Announce(host string, prefix netip.Prefix) error
	Withdraw(host string, prefix netip.Prefix) error
}

// Config says who the router is. Every field but HoldTime and Logger is
// required.
type Config struct {
	// ASN is the router's, up to 65535.
	ASN uint16
	// ID is an IPv4 address that no other speaker has.
	ID netip.Addr
	// HoldTime is how long a silent host stays in the routes, unless the host
	// wants it shorter. Default 90 s.
	HoldTime time.Duration
	// Host finds the host that has an address.
	Host func(netip.Addr) (string, bool)
	// Routes is told what hosts announce.
	Routes Routes
	// Logger defaults to slog.Default().
	Logger *slog.Logger
}

// Peer is a host that speaks BGP with the router.
type Peer struct {
	// Host and Addr say which it is, ASN and HoldTime what it said.
	Host     string        `json:"host"`
	Addr     netip.Addr    `json:"addr"`
	ASN      uint32        `json:"asn"`
	HoldTime time.Duration `json:"hold_time"`
	// Prefixes are those that it announces.
	Prefixes []netip.Prefix `json:"prefixes"`
}

// Server accepts sessions.
type Server struct {
	cfg Config

	mu       sync.Mutex // guards what follows
	sessions map[netip.Addr]*session
	claims   map[claim]int // how many sessions of a host announce a prefix
}

type claim struct {
	host   string
	prefix netip.Prefix
}

// New makes a router; it accepts nobody yet.
func New(cfg Config) *Server {
	cfg.HoldTime = cmp.Or(cfg.HoldTime, 90*time.Second)
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	return &Server{cfg: cfg, sessions: map[netip.Addr]*session{}, claims: map[claim]int{}}
}

// Serve accepts hosts until ctx ends, and ends every session then. It closes
// the listener.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	for {
		conn, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		case err != nil:
			time.Sleep(10 * time.Millisecond) // out of files, for now
			continue
		}
		wg.Go(func() { s.handle(ctx, conn) })
	}
}

// handle runs one session to its end.
func (s *Server) handle(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	addr := conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
	host, ok := s.cfg.Host(addr)
	if !ok {
		return
	}
	n := &session{server: s, conn: conn, host: host, addr: addr, prefixes: map[netip.Prefix]bool{}, ended: make(chan struct{})}
	defer close(n.ended)
	defer context.AfterFunc(ctx, func() { n.leave() })()
	err := n.run()
	s.cfg.Logger.Info("BGP session ended", "host", host, "peer", addr, "why", err)
}

// enter makes n the session of its address. A host that connects anew has lost
// its earlier session, even if nobody told us yet.
func (s *Server) enter(n *session) {
	s.mu.Lock()
	old := s.sessions[n.addr]
	s.sessions[n.addr] = n
	s.mu.Unlock()
	if old != nil {
		old.conn.Close()
		<-old.ended
	}
	s.cfg.Logger.Info("BGP session is up", "host", n.host, "peer", n.addr, "asn", n.asn, "hold", n.hold)
}

// exit withdraws what the session announced.
func (s *Server) exit(n *session) {
	s.mu.Lock()
	if s.sessions[n.addr] == n {
		delete(s.sessions, n.addr)
	}
	s.mu.Unlock()
	for _, p := range n.list() {
		s.withdraw(n, p)
	}
}

func (s *Server) announce(n *session, p netip.Prefix) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n.prefixes[p] {
		return
	}
	if err := s.cfg.Routes.Announce(n.host, p); err != nil {
		s.cfg.Logger.Warn("route refused", "host", n.host, "err", err)
		return
	}
	n.prefixes[p] = true
	s.claims[claim{n.host, p}]++
}

func (s *Server) withdraw(n *session, p netip.Prefix) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !n.prefixes[p] {
		return
	}
	delete(n.prefixes, p)
	c := claim{n.host, p}
	if s.claims[c]--; s.claims[c] > 0 {
		return
	}
	delete(s.claims, c)
	_ = s.cfg.Routes.Withdraw(n.host, p) // the host may be gone, and its routes with it
}

// Peers lists the hosts with a session.
func (s *Server) Peers() []Peer {
	s.mu.Lock()
	var all []*session
	for _, n := range s.sessions {
		all = append(all, n)
	}
	s.mu.Unlock()
	out := []Peer{}
	for _, n := range all {
		out = append(out, Peer{n.host, n.addr, n.asn, n.hold, n.list()})
	}
	slices.SortFunc(out, func(a, b Peer) int { return a.Addr.Compare(b.Addr) })
	return out
}

// list is what the session announces.
func (n *session) list() []netip.Prefix {
	n.server.mu.Lock()
	defer n.server.mu.Unlock()
	out := []netip.Prefix{}
	for p := range n.prefixes {
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
	return out
}
