//go:build linux

package resolver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// Config says whom the resolver asks. Every field is required.
type Config struct {
	// Dial connects from the resolver's host.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Delay is how far an address is, one way.
	Delay func(netip.Addr) time.Duration
	// Local answers the lab's own names, without the dot at their end; none means
	// that the name is not the lab's.
	Local func(name string) []netip.Addr
}

// Resolver answers the visitors of one city.
type Resolver struct {
	cfg   Config
	cache cache

	mu    sync.Mutex // guards what follows
	zones map[string][]netip.AddrPort
}

// New makes a resolver; it answers nobody yet.
func New(cfg Config) *Resolver {
	return &Resolver{cfg: cfg, zones: map[string][]netip.AddrPort{}}
}

// Delegate says which servers a zone is asked of; without any the zone is gone.
// What was remembered is forgotten.
func (r *Resolver) Delegate(zone string, servers ...netip.AddrPort) error {
	zone = strings.ToLower(dns.Fqdn(zone))
	if _, ok := dns.IsDomainName(zone); !ok {
		return fmt.Errorf("cannot delegate %q: want the name of a zone, such as example.com", zone)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.zones[zone] = slices.Clone(servers)
	if len(servers) == 0 {
		delete(r.zones, zone)
	}
	r.cache.clear()
	return nil
}

// Serve answers on both until ctx ends, and closes them.
func (r *Resolver) Serve(ctx context.Context, udp net.PacketConn, tcp net.Listener) error {
	servers := []*dns.Server{{PacketConn: udp, Handler: r}, {Listener: tcp, Handler: r}}
	failed := make(chan error, len(servers))
	for _, s := range servers {
		go func() { failed <- s.ActivateAndServe() }()
	}
	var err error
	ended := 0
	select {
	case <-ctx.Done():
	case err = <-failed:
		ended++
	}
	udp.Close()
	tcp.Close()
	for ; ended < len(servers); ended++ {
		<-failed
	}
	return err
}

// chain is how many names an answer may lead through.
const chain = 8

// ServeDNS answers one question.
func (r *Resolver) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	m := new(dns.Msg).SetReply(q)
	m.RecursionAvailable = true
	if len(q.Question) != 1 || q.Opcode != dns.OpcodeQuery || q.Question[0].Qclass != dns.ClassINET {
		m.Rcode = dns.RcodeNotImplemented
		_ = w.WriteMsg(m)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	r.answer(ctx, m, addrOf(w.RemoteAddr()))
	size := dns.MinMsgSize
	if o := q.IsEdns0(); o != nil {
		size = max(size, int(o.UDPSize()))
		m.SetEdns0(dns.DefaultMsgSize, false)
	}
	if _, udp := w.RemoteAddr().(*net.UDPAddr); udp {
		m.Truncate(size)
	}
	_ = w.WriteMsg(m)
}

// answer fills m, following names that stand for others.
func (r *Resolver) answer(ctx context.Context, m *dns.Msg, client netip.Addr) {
	q := m.Question[0]
	for range chain {
		if r.local(m, q) {
			return
		}
		got := r.lookup(ctx, q, client)
		m.Rcode, m.Ns = got.Rcode, got.Ns
		m.Answer = append(m.Answer, got.Answer...)
		next := alias(got.Answer, q)
		if next == "" {
			return
		}
		q.Name = next
	}
	m.Rcode = dns.RcodeServerFailure
}

// alias is the name that an answer ends with, if nothing in it answers the
// question.
func alias(rrs []dns.RR, q dns.Question) string {
	name := q.Name
	for range chain {
		next := ""
		for _, rr := range rrs {
			if !strings.EqualFold(rr.Header().Name, name) {
				continue
			}
			if rr.Header().Rrtype == q.Qtype {
				return ""
			}
			if c, ok := rr.(*dns.CNAME); ok {
				next = c.Target
			}
		}
		if next == "" {
			break
		}
		name = next
	}
	if strings.EqualFold(name, q.Name) {
		return ""
	}
	return name
}

func (r *Resolver) local(m *dns.Msg, q dns.Question) bool {
	addrs := r.cfg.Local(strings.ToLower(strings.TrimSuffix(q.Name, ".")))
	for _, a := range addrs {
		h := dns.RR_Header{Name: q.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 5}
		switch {
		case a.Is4() && q.Qtype == dns.TypeA:
			m.Answer = append(m.Answer, &dns.A{Hdr: h, A: a.AsSlice()})
		case a.Is6() && q.Qtype == dns.TypeAAAA:
			h.Rrtype = dns.TypeAAAA
			m.Answer = append(m.Answer, &dns.AAAA{Hdr: h, AAAA: a.AsSlice()})
		}
	}
	return len(addrs) > 0
}

// lookup answers from memory or asks the zone's servers.
func (r *Resolver) lookup(ctx context.Context, q dns.Question, client netip.Addr) *dns.Msg {
	servers := r.servers(q.Name)
	if len(servers) == 0 {
		return &dns.Msg{MsgHdr: dns.MsgHdr{Rcode: dns.RcodeNameError}}
	}
	k := key{strings.ToLower(q.Name), q.Qtype, subnet(client)}
	if m := r.cache.get(k, time.Now()); m != nil {
		return m
	}
	m, err := r.ask(ctx, q, servers, k.subnet)
	if err != nil {
		return &dns.Msg{MsgHdr: dns.MsgHdr{Rcode: dns.RcodeServerFailure}}
	}
	r.cache.put(k, m, time.Now())
	return m
}

// servers are those of the closest zone above a name, nearest first.
func (r *Resolver) servers(name string) []netip.AddrPort {
	r.mu.Lock()
	defer r.mu.Unlock()
	name = strings.ToLower(name)
	for off, end := 0, false; !end; off, end = dns.NextLabel(name, off) {
		if s, ok := r.zones[name[off:]]; ok {
			s = slices.Clone(s)
			slices.SortStableFunc(s, func(a, b netip.AddrPort) int {
				return cmp.Compare(r.cfg.Delay(a.Addr()), r.cfg.Delay(b.Addr()))
			})
			return s
		}
	}
	return nil
}

// rounds is how often all servers are asked before giving up.
const rounds = 2

func (r *Resolver) ask(ctx context.Context, q dns.Question, servers []netip.AddrPort, client netip.Prefix) (*dns.Msg, error) {
	err := errors.New("no server was asked")
	for range rounds {
		for _, s := range servers {
			var m *dns.Msg
			if m, err = r.exchange(ctx, query(q, client), s); err == nil {
				return m, nil
			}
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
		}
	}
	return nil, err
}

// patience is what a server may take beyond the round trip.
const patience = 250 * time.Millisecond

func (r *Resolver) exchange(ctx context.Context, m *dns.Msg, server netip.AddrPort) (*dns.Msg, error) {
	for _, network := range []string{"udp", "tcp"} {
		got, err := r.over(ctx, network, m, server)
		if err != nil {
			return nil, err
		}
		if !got.Truncated {
			return got, usable(got, server)
		}
	}
	return nil, fmt.Errorf("server %s cut its answer short over TCP", server)
}

func (r *Resolver) over(ctx context.Context, network string, m *dns.Msg, server netip.AddrPort) (*dns.Msg, error) {
	trips := time.Duration(2)
	if network == "tcp" {
		trips = 6
	}
	ctx, cancel := context.WithTimeout(ctx, patience+trips*r.cfg.Delay(server.Addr()))
	defer cancel()
	conn, err := r.cfg.Dial(ctx, network, server.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	c := &dns.Client{Net: network, Timeout: 5 * time.Second}
	got, _, err := c.ExchangeWithConnContext(ctx, m, &dns.Conn{Conn: conn, UDPSize: dns.DefaultMsgSize})
	return got, err
}

// usable refuses what another server may answer better.
func usable(m *dns.Msg, server netip.AddrPort) error {
	if m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError {
		return fmt.Errorf("server %s answered %s", server, dns.RcodeToString[m.Rcode])
	}
	return nil
}

// query asks for a name on behalf of a subnet.
func query(q dns.Question, client netip.Prefix) *dns.Msg {
	m := &dns.Msg{MsgHdr: dns.MsgHdr{Id: dns.Id()}, Question: []dns.Question{q}}
	m.SetEdns0(dns.DefaultMsgSize, false)
	family := uint16(1)
	if client.Addr().Is6() {
		family = 2
	}
	o := m.IsEdns0()
	o.Option = append(o.Option, &dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: family, SourceNetmask: uint8(client.Bits()), Address: client.Addr().AsSlice()})
	return m
}

// subnet is what a server may know of a visitor: as much as RFC 7871 advises.
func subnet(a netip.Addr) netip.Prefix {
	bits := 24
	if a.Is6() {
		bits = 56
	}
	p, _ := a.Prefix(bits)
	return p
}

func addrOf(a net.Addr) netip.Addr {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.IPv4Unspecified()
	}
	return ap.Addr().Unmap()
}
