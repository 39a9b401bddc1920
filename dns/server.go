package dns

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/miekg/dns"
	"github.com/perigee-run/perigee/dns/door"
)

// Server is the resolver of one node's machines.
type Server struct {
	cfg       Config
	log       *slog.Logger
	cache     *cache
	upstreams *upstreams
	doors     []door.Door
	asks      sync.WaitGroup // upstream exchanges under way

	mu     sync.Mutex // guards asking
	asking map[asker]int
}

// New checks the configuration and takes the addresses. Call Run, or Close.
func New(cfg Config) (*Server, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, log: cfg.Logger, cache: newCache(cfg.CacheSize), asking: map[asker]int{}}
	var err error
	if s.doors, err = door.OpenAll(cfg.Listen, cfg.Open); err != nil {
		return nil, err
	}
	s.upstreams = &upstreams{fixed: cfg.Upstreams, files: cfg.resolvConfs(), self: s.Addrs(), log: s.log}
	return s, nil
}

// Addrs returns the addresses we listen on, with the ports that were picked.
func (s *Server) Addrs() []netip.AddrPort {
	var addrs []netip.AddrPort
	for _, d := range s.doors {
		addrs = append(addrs, d.Addr())
	}
	return addrs
}

// Close gives the addresses back, for a server that was never run.
func (s *Server) Close() {
	for _, d := range s.doors {
		d.Close()
	}
}

// Run answers until ctx ends or an address is lost. It returns nil on ctx's end,
// after the last answer is out.
func (s *Server) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) { s.serve(ctx, w, q) })
	err := door.Serve(ctx, s.doors, handler, func() { s.log.Info("resolver ready", "addresses", s.Addrs()) })
	cancel()
	s.asks.Wait()
	return err
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
		who := asker{from, true}
		if !s.enter(who) {
			return failure(dns.RcodeRefused)
		}
		defer s.leave(who)
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
