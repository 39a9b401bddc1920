package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	// portTries is how often to look for a port that is free for UDP and TCP alike.
	portTries = 10
	// maxQuery is the largest question read over UDP.
	maxQuery = 4096
	// tcpIdle is how long a client may keep a connection without asking.
	tcpIdle = 10 * time.Second
)

// Server is the resolver of one node's machines.
type Server struct {
	cfg       Config
	log       *slog.Logger
	cache     *cache
	upstreams *upstreams
	doors     []door
	asks      sync.WaitGroup // upstream exchanges under way

	mu     sync.Mutex // guards asking
	asking map[netip.Addr]int
}

// door is one address that we listen on.
type door struct {
	udp net.PacketConn
	tcp net.Listener
}

// New checks the configuration and takes the addresses. Call Run, or Close.
func New(cfg Config) (*Server, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, log: cfg.Logger, cache: newCache(cfg.CacheSize), asking: map[netip.Addr]int{}}
	for _, addr := range cfg.Listen {
		d, err := listen(addr)
		if err != nil {
			s.Close()
			return nil, fmt.Errorf("cannot listen for DNS on %s: %w", addr, err)
		}
		s.doors = append(s.doors, d)
	}
	s.upstreams = &upstreams{fixed: cfg.Upstreams, files: cfg.resolvConfs(), self: s.Addrs(), log: s.log}
	return s, nil
}

// listen takes the address for UDP and TCP. A port picked for one may be taken
// for the other; then another is picked.
func listen(addr netip.AddrPort) (door, error) {
	for try := 1; ; try++ {
		tcp, err := net.Listen("tcp", addr.String())
		if err != nil {
			return door{}, err
		}
		udp, err := net.ListenPacket("udp", tcp.Addr().String())
		if err == nil {
			return door{udp, tcp}, nil
		}
		tcp.Close()
		if addr.Port() != 0 || try == portTries {
			return door{}, err
		}
	}
}

// Addrs returns the addresses we listen on, with the ports that were picked.
func (s *Server) Addrs() []netip.AddrPort {
	var addrs []netip.AddrPort
	for _, d := range s.doors {
		addrs = append(addrs, d.tcp.Addr().(*net.TCPAddr).AddrPort())
	}
	return addrs
}

// Close gives the addresses back, for a server that was never run.
func (s *Server) Close() {
	for _, d := range s.doors {
		d.udp.Close()
		d.tcp.Close()
	}
}

// Run answers until ctx ends or an address is lost. It returns nil on ctx's end,
// after the last answer is out.
func (s *Server) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	servers, started := s.servers(ctx)
	ended := make(chan error, len(servers))
	for _, srv := range servers {
		go func() {
			err := srv.ActivateAndServe()
			srv.NotifyStartedFunc() // if it never was
			ended <- err
		}()
	}
	started.Wait()
	s.log.Info("resolver ready", "addresses", s.Addrs())
	var err error
	left := len(servers)
	select {
	case <-ctx.Done():
	case err = <-ended:
		left--
	}
	cancel()
	for _, srv := range servers {
		_ = srv.Shutdown() // the one that ended by itself says that it has
	}
	for range left {
		<-ended
	}
	s.asks.Wait()
	if err != nil {
		return fmt.Errorf("cannot go on serving DNS: %w", err)
	}
	return nil
}

func (s *Server) servers(ctx context.Context) ([]*dns.Server, *sync.WaitGroup) {
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) { s.serve(ctx, w, q) })
	idle := func() time.Duration { return tcpIdle }
	started := new(sync.WaitGroup)
	var servers []*dns.Server
	for _, d := range s.doors {
		started.Add(2)
		udpStarted, tcpStarted := sync.OnceFunc(started.Done), sync.OnceFunc(started.Done)
		servers = append(servers,
			&dns.Server{PacketConn: d.udp, Handler: handler, UDPSize: maxQuery, NotifyStartedFunc: udpStarted},
			&dns.Server{Listener: newFairListener(d.tcp), Handler: handler, IdleTimeout: idle, NotifyStartedFunc: tcpStarted})
	}
	return servers, started
}

func (s *Server) serve(ctx context.Context, w dns.ResponseWriter, q *dns.Msg) {
	from, err := netip.ParseAddrPort(w.RemoteAddr().String())
	if err != nil {
		return
	}
	m := s.answer(ctx, from.Addr().Unmap().WithZone(""), q)
	if m == nil {
		return
	}
	_, tcp := w.RemoteAddr().(*net.TCPAddr)
	fit(m, q, tcp)
	if err := w.WriteMsg(m); err != nil && !errors.Is(err, net.ErrClosed) {
		s.log.Debug("cannot answer", "to", from, "err", err)
	}
}

// answer decides; nil means that silence is the answer.
func (s *Server) answer(ctx context.Context, from netip.Addr, q *dns.Msg) *dns.Msg {
	if q.Response {
		return nil
	}
	m := s.judge(ctx, from, q)
	complete(m, q)
	return m
}

func (s *Server) judge(ctx context.Context, from netip.Addr, q *dns.Msg) *dns.Msg {
	if q.Opcode != dns.OpcodeQuery {
		return failure(dns.RcodeNotImplemented)
	}
	if len(q.Question) != 1 {
		return failure(dns.RcodeFormatError)
	}
	if opt := q.IsEdns0(); opt != nil && opt.Version() != 0 {
		return failure(dns.RcodeBadVers)
	}
	org, known := s.cfg.OrgOf(from)
	ask := q.Question[0]
	if !known || ask.Qclass != dns.ClassINET || ask.Qtype == dns.TypeAXFR || ask.Qtype == dns.TypeIXFR {
		return failure(dns.RcodeRefused)
	}
	if s.isPrivate(strings.ToLower(ask.Name)) {
		return s.private(org, ask)
	}
	return s.forward(ctx, from, q)
}

// complete makes m the reply to q, whoever it was made by.
func complete(m, q *dns.Msg) {
	m.Id, m.Response, m.Opcode = q.Id, true, q.Opcode
	m.RecursionDesired, m.RecursionAvailable = q.RecursionDesired, true
	m.CheckingDisabled, m.Truncated, m.Zero = q.CheckingDisabled, false, false
	m.Question, m.Compress = slices.Clone(q.Question), true
	m.Extra = slices.DeleteFunc(slices.Clone(m.Extra), func(rr dns.RR) bool { return rr.Header().Rrtype == dns.TypeOPT })
	if opt := q.IsEdns0(); opt != nil {
		m.SetEdns0(udpSize, opt.Do())
	}
}

// fit cuts what the client cannot take; it asks again over TCP.
func fit(m, q *dns.Msg, tcp bool) {
	size := dns.MinMsgSize
	if opt := q.IsEdns0(); opt != nil {
		size = min(max(size, int(opt.UDPSize())), udpSize)
	}
	if tcp {
		size = dns.MaxMsgSize
	}
	m.Truncate(size)
}
