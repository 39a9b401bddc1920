package zone

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/miekg/dns"
	"github.com/perigee-run/perigee/dns/door"
)

// udpSize is what we send over UDP at most: it fits one packet on any path.
const udpSize = 1232

// Server serves the zone. Its methods may be called from any goroutine.
type Server struct {
	cfg    Config
	log    *slog.Logger
	places *places
	picker picker
	limit  *limiter
	fixed  map[string][]dns.RR // the operator's records and ours, by name in lower case
	soa    dns.SOA             // but for the serial

	mu     sync.Mutex // guards what follows
	doors  []door.Door
	ran    bool   // the doors are closed
	seen   uint64 // fingerprint of the edges at the last look
	looked *Edge  // the first of their list
	serial uint32
}

// New checks the configuration, reads the files and takes the addresses. Call
// Run, or Close.
func New(cfg Config) (*Server, error) {
	cfg.NameServers = slices.Clone(cfg.NameServers)
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	s := &Server{
		cfg: cfg, log: cfg.Logger, picker: newPicker(cfg), limit: newLimiter(cfg.RateLimit),
		serial: uint32(time.Now().Unix()),
	}
	var err error
	if s.fixed, err = fixedRecords(cfg); err != nil {
		return nil, err
	}
	s.soa = startOfAuthority(cfg)
	if s.places, err = newPlaces(cfg); err != nil {
		return nil, err
	}
	s.doors, err = door.OpenAll(cfg.Listen, cfg.Open)
	return s, err
}

// Addrs returns the addresses we listen on, with the ports that were picked.
func (s *Server) Addrs() []netip.AddrPort {
	s.mu.Lock()
	defer s.mu.Unlock()
	var addrs []netip.AddrPort
	for _, d := range s.doors {
		addrs = append(addrs, d.Addr())
	}
	return addrs
}

// Close gives the addresses back, for a server that was never run.
func (s *Server) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.doors {
		d.Close()
	}
}

// Run answers until ctx ends or an address is lost. It returns nil on ctx's end,
// after the last answer is out. It may be called again then, and takes the
// addresses anew.
func (s *Server) Run(ctx context.Context) error {
	doors, err := s.open()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	watching := make(chan struct{})
	go func() {
		defer close(watching)
		if err := s.places.run(ctx); err != nil {
			s.log.Error("changes of the files of places will not be seen until the next start", "error", err)
		}
	}()
	err = door.Serve(ctx, doors, dns.HandlerFunc(s.serve), func() {
		s.log.Info("zone ready", "zone", s.cfg.Zone, "addresses", s.Addrs())
	})
	cancel()
	<-watching
	return err
}

// open gives the doors that New has opened, or others where those were closed.
func (s *Server) open() (doors []door.Door, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ran {
		if s.doors, err = door.OpenAll(s.cfg.Listen, s.cfg.Open); err != nil {
			return nil, err
		}
	}
	s.ran = true
	return s.doors, nil
}

func (s *Server) serve(w dns.ResponseWriter, q *dns.Msg) {
	from, err := netip.ParseAddrPort(w.RemoteAddr().String())
	if err != nil {
		return
	}
	client := from.Addr().Unmap().WithZone("")
	_, tcp := w.RemoteAddr().(*net.TCPAddr)
	m := s.respond(client, q, tcp)
	if m == nil {
		return
	}
	if err := w.WriteMsg(m); err != nil && !errors.Is(err, net.ErrClosed) {
		s.log.Debug("cannot answer", "to", from, "error", err)
	}
}

// respond makes the reply as it is sent; nil means that silence is the answer.
func (s *Server) respond(client netip.Addr, q *dns.Msg, tcp bool) *dns.Msg {
	if q.Response {
		return nil
	}
	v := answerIt
	if !tcp {
		v = s.limit.judge(client)
	}
	m := new(dns.Msg)
	switch v {
	case silence:
		return nil
	case byTCP:
		complete(m, q)
		m.Truncated = true
		return m
	}
	who, ok := readSubnet(q)
	bits := 0
	if ok {
		m, bits = s.judge(client, who, q)
	} else {
		m.Rcode = dns.RcodeFormatError
	}
	complete(m, q)
	if opt := m.IsEdns0(); ok && opt != nil && who.option != nil {
		opt.Option = append(opt.Option, who.answer(bits))
	}
	fit(m, q, tcp)
	return m
}

// judge refuses what is not a question to this zone.
func (s *Server) judge(client netip.Addr, who subnet, q *dns.Msg) (*dns.Msg, int) {
	if q.Opcode != dns.OpcodeQuery {
		return failure(dns.RcodeNotImplemented), 0
	}
	if len(q.Question) != 1 {
		return failure(dns.RcodeFormatError), 0
	}
	if opt := q.IsEdns0(); opt != nil && opt.Version() != 0 {
		return failure(dns.RcodeBadVers), 0
	}
	ask := q.Question[0]
	if ask.Qclass != dns.ClassINET || !dns.IsSubDomain(s.cfg.Zone, dns.CanonicalName(ask.Name)) ||
		ask.Qtype == dns.TypeAXFR || ask.Qtype == dns.TypeIXFR {
		return failure(dns.RcodeRefused), 0
	}
	if who.addr.IsValid() {
		client = who.addr
	}
	return s.answer(client, ask)
}

func failure(rcode int) *dns.Msg { return &dns.Msg{MsgHdr: dns.MsgHdr{Rcode: rcode}} }

// complete makes m the reply to q. The question goes back as it came, letter
// case included: some resolvers tell forgeries by it.
func complete(m, q *dns.Msg) {
	m.Id, m.Response, m.Opcode = q.Id, true, q.Opcode
	m.RecursionDesired, m.Question, m.Compress = q.RecursionDesired, slices.Clone(q.Question), true
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
