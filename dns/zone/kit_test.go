package zone

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// cloud is a source that tests change under the server.
type cloud struct {
	mu    sync.Mutex // guards what follows
	edges []Edge
	apps  map[string]App
}

func (c *cloud) Edges() []Edge {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.edges)
}

func (c *cloud) App(name string) (App, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	a, ok := c.apps[name]
	return a, ok
}

// edit changes the edge of a node.
func (c *cloud) edit(node string, change func(*Edge)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.edges {
		if c.edges[i].Node == node {
			change(&c.edges[i])
		}
	}
}

func addrs(ss ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range ss {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

func edge(node, region string, n int) Edge {
	return Edge{Node: node, Region: region, Up: true, IPv4: addrs(fmt.Sprintf("192.0.2.%d", n)), IPv6: addrs(fmt.Sprintf("2001:db8::%d", n))}
}

// Edges: .1 iad, .2 fra, .3 syd.
func world() *cloud {
	return &cloud{
		edges: []Edge{edge("a", "iad", 1), edge("b", "fra", 2), edge("c", "syd", 3)},
		apps: map[string]App{
			"shop": {Exists: true, Regions: []string{"fra"}},
			"own":  {Exists: true, IPs: addrs("203.0.113.7", "2001:db8:f::7")},
			"old":  {Exists: true, IPs: addrs("203.0.113.8")},
			"wild": {Exists: true, Wildcard: true},
			"gone": {},
		},
	}
}

const zone = "apps.example.com."

func config(c *cloud) Config {
	return Config{
		Listen: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}, Zone: "apps.example.com", Source: c,
		NameServers: []NameServer{{Name: "ns1.apps.example.com", Addrs: addrs("192.0.2.53", "2001:db8::53")}, {Name: "ns.elsewhere.example"}},
		Records:     []string{`@ CAA 0 issue "letsencrypt.org"`, "www CNAME shop", "deep.below 60 TXT hello"},
	}
}

func run(t testing.TB, cfg Config) *Server {
	t.Helper()
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s
}

func query(t testing.TB, s *Server, network, name string, qtype uint16, change ...func(*dns.Msg)) *dns.Msg {
	t.Helper()
	q := new(dns.Msg).SetQuestion(name, qtype)
	for _, f := range change {
		f(q)
	}
	c := dns.Client{Net: network, Timeout: 3 * time.Second, UDPSize: 4096}
	m, _, err := c.Exchange(q, s.Addrs()[0].String())
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return m
}

// from says where the client is, as a resolver does.
func from(prefix string) func(*dns.Msg) {
	return func(q *dns.Msg) {
		p := netip.MustParsePrefix(prefix)
		e := &dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: uint8(p.Bits()), Address: net.IP(p.Addr().AsSlice())}
		if p.Addr().Is6() {
			e.Family = 2
		}
		q.SetEdns0(1232, false)
		opt := q.IsEdns0()
		opt.Option = append(opt.Option, e)
	}
}

// scope is that of the answer, -1 if it has no client subnet.
func scope(m *dns.Msg) int {
	if opt := m.IsEdns0(); opt != nil {
		for _, o := range opt.Option {
			if e, ok := o.(*dns.EDNS0_SUBNET); ok {
				return int(e.SourceScope)
			}
		}
	}
	return -1
}

// values are what the answer says, sorted.
func values(m *dns.Msg) string {
	var vals []string
	for _, rr := range m.Answer {
		vals = append(vals, strings.TrimPrefix(rr.String(), rr.Header().String()))
	}
	slices.Sort(vals)
	return strings.Join(vals, " ")
}
