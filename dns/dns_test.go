package dns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/perigee-run/perigee/dns/door"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// catalog is org → app → machines.
type catalog map[string]map[string][]Machine

func (c catalog) Machines(org, app string) []Machine { return c[org][app] }

func (c catalog) MachineAt(org string, a netip.Addr) (Machine, bool) {
	for app, machines := range c[org] {
		for _, m := range machines {
			if m.IPv6 == a || m.IPv4 == a {
				m.App = app
				return m, true
			}
		}
	}
	return Machine{}, false
}

func (c catalog) Has(org, app string) bool {
	_, ok := c[org][app]
	return ok
}

func (c catalog) Apps(org string) []string {
	var apps []string
	for app := range c[org] {
		apps = append(apps, app)
	}
	return apps
}

func (c catalog) Service(org, app string) netip.Addr {
	if org == "acme" && app == "shop" {
		return netip.MustParseAddr("fdaa::7:0:0:1")
	}
	return netip.Addr{}
}

func machine(id, region string, n int, started bool) Machine {
	return Machine{ID: id, Region: region, Group: "app", Started: started,
		IPv6: netip.MustParseAddr(fmt.Sprintf("fdaa:0:1::%d", n)), IPv4: netip.MustParseAddr(fmt.Sprintf("10.213.0.%d", n))}
}

var loopback = netip.MustParseAddr("127.0.0.1")

// world: the asker on 127.0.0.1 is of acme.
func world() Config {
	worker := machine("m3", "syd", 3, true)
	worker.Group, worker.Metadata, worker.RTT = "worker", map[string]string{"role": "replica"}, 250*time.Millisecond
	return Config{
		Listen: []netip.AddrPort{netip.AddrPortFrom(loopback, 0)},
		Region: "fra",
		Source: catalog{
			"acme": {
				"shop":  {machine("m1", "iad", 1, true), machine("m2", "fra", 2, true), worker, machine("m4", "lhr", 4, false)},
				"empty": nil,
			},
			"bold": {"secret": {machine("s1", "iad", 9, true)}},
		},
		Peers: func(org string) []Peer {
			return map[string][]Peer{"acme": {{"lap", netip.MustParseAddr("fdaa:0:1::77")}, {"ci", netip.MustParseAddr("fdaa:0:1::78")}},
				"bold": {{"spy", netip.MustParseAddr("fdaa:0:1::79")}}}[org]
		},
		OrgOf:     func(a netip.Addr) (string, bool) { return "acme", a == loopback },
		Private:   []netip.Prefix{netip.MustParsePrefix("fdaa::/16"), netip.MustParsePrefix("10.213.0.0/16")},
		Upstreams: []string{"127.0.0.1:1"}, // nobody answers there
		Timeout:   200 * time.Millisecond,
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

// values are what the answer says, sorted.
func values(m *dns.Msg) []string {
	vals := ordered(m)
	slices.Sort(vals)
	return vals
}

func ordered(m *dns.Msg) []string {
	var vals []string
	for _, rr := range m.Answer {
		switch rr := rr.(type) {
		case *dns.AAAA:
			vals = append(vals, rr.AAAA.String())
		case *dns.A:
			vals = append(vals, rr.A.String())
		case *dns.TXT:
			vals = append(vals, strings.Join(rr.Txt, ""))
		case *dns.PTR:
			vals = append(vals, rr.Ptr)
		}
	}
	return vals
}

func TestInternal(t *testing.T) {
	s := run(t, world())
	const m1, m2, m3 = "fdaa:0:1::1", "fdaa:0:1::2", "fdaa:0:1::3"
	all := []string{m1, m2, m3}
	ok, none := dns.RcodeSuccess, dns.RcodeNameError
	ptr, _ := dns.ReverseAddr(m1)
	ptr4, _ := dns.ReverseAddr("10.213.0.2")
	foreign, _ := dns.ReverseAddr("fdaa:0:1::9")
	ptrPeer, _ := dns.ReverseAddr("fdaa:0:1::77")
	ptrService, _ := dns.ReverseAddr("fdaa::7:0:0:1")
	ptrSpy, _ := dns.ReverseAddr("fdaa:0:1::79")
	tests := []struct {
		name  string
		qtype uint16
		rcode int
		want  []string
	}{
		{"shop.internal.", dns.TypeAAAA, ok, all},
		{"ShOp.InTernal.", dns.TypeAAAA, ok, all},
		{"global.shop.internal.", dns.TypeAAAA, ok, all},
		{"lap._peer.internal.", dns.TypeAAAA, ok, []string{"fdaa:0:1::77"}},
		{"LAP._peer.internal.", dns.TypeANY, ok, []string{"fdaa:0:1::77"}},
		{"lap._peer.internal.", dns.TypeA, ok, nil},
		{"_peer.internal.", dns.TypeTXT, ok, []string{"ci,lap"}},
		{"_peer.internal.", dns.TypeAAAA, ok, nil},
		{"spy._peer.internal.", dns.TypeAAAA, none, nil}, // of another org
		{"x.lap._peer.internal.", dns.TypeAAAA, none, nil},
		{ptrPeer, dns.TypePTR, ok, []string{"lap._peer.internal."}},
		{ptrSpy, dns.TypePTR, none, nil},
		{"shop.internal.", dns.TypeA, ok, nil},
		{"shop.internal.", dns.TypeMX, ok, nil},
		{"shop.internal.", dns.TypeANY, ok, all},
		{"empty.internal.", dns.TypeAAAA, ok, nil},
		{"iad.shop.internal.", dns.TypeAAAA, ok, []string{m1}},
		{"lhr.shop.internal.", dns.TypeAAAA, ok, nil}, // there, but stopped
		{"nrt.shop.internal.", dns.TypeAAAA, none, nil},
		{"m2.vm.shop.internal.", dns.TypeAAAA, ok, []string{m2}},
		{"m4.vm.shop.internal.", dns.TypeAAAA, ok, nil},
		{"m9.vm.shop.internal.", dns.TypeAAAA, none, nil},
		{"worker.process.shop.internal.", dns.TypeAAAA, ok, []string{m3}},
		{"replica.role.kv._metadata.shop.internal.", dns.TypeAAAA, ok, []string{m3}},
		{"main.role.kv._metadata.shop.internal.", dns.TypeAAAA, none, nil},
		{"top1.nearest.of.shop.internal.", dns.TypeAAAA, ok, []string{m2}},
		{"top2.nearest.of.shop.internal.", dns.TypeAAAA, ok, []string{m1, m2}},
		{"top99.nearest.of.shop.internal.", dns.TypeAAAA, ok, all},
		{"top0.nearest.of.shop.internal.", dns.TypeAAAA, none, nil},
		{"topx.nearest.of.shop.internal.", dns.TypeAAAA, none, nil},
		{"vms.shop.internal.", dns.TypeTXT, ok, []string{"m1 iad,m2 fra,m3 syd"}},
		{"all.vms.shop.internal.", dns.TypeTXT, ok, []string{"m1 iad,m2 fra,m3 syd,m4 lhr"}},
		{"vms.shop.internal.", dns.TypeAAAA, ok, nil},
		{"regions.shop.internal.", dns.TypeTXT, ok, []string{"fra,iad,syd"}},
		{"_apps.internal.", dns.TypeTXT, ok, []string{"empty,shop"}},
		{"_instances.internal.", dns.TypeTXT, ok, []string{
			"instance=m1,app=shop,ip=fdaa:0:1::1,region=iad;instance=m2,app=shop,ip=fdaa:0:1::2,region=fra;instance=m3,app=shop,ip=fdaa:0:1::3,region=syd"}},
		{"internal.", dns.TypeAAAA, ok, nil},
		{"secret.internal.", dns.TypeAAAA, none, nil}, // of another org
		{"s1.vm.secret.internal.", dns.TypeAAAA, none, nil},
		{"nothing.internal.", dns.TypeAAAA, none, nil},
		{"a.b.c.d.e.f.shop.internal.", dns.TypeAAAA, none, nil},
		{"shop.flycast.", dns.TypeAAAA, ok, []string{"fdaa::7:0:0:1"}},
		{"Shop.Flycast.", dns.TypeANY, ok, []string{"fdaa::7:0:0:1"}},
		{"shop.flycast.", dns.TypeA, ok, nil},
		{"empty.flycast.", dns.TypeAAAA, ok, nil},
		{"iad.shop.flycast.", dns.TypeAAAA, none, nil},
		{"secret.flycast.", dns.TypeAAAA, none, nil}, // of another org
		{ptrService, dns.TypePTR, ok, []string{"shop.flycast."}},
		{ptr, dns.TypePTR, ok, []string{"m1.vm.shop.internal."}},
		{ptr4, dns.TypePTR, ok, []string{"m2.vm.shop.internal."}},
		{foreign, dns.TypePTR, none, nil},
	}
	for _, tt := range tests {
		for _, network := range []string{"udp", "tcp"} {
			t.Run(tt.name+dns.TypeToString[tt.qtype]+network, func(t *testing.T) {
				m := query(t, s, network, tt.name, tt.qtype)
				if m.Rcode != tt.rcode || !slices.Equal(values(m), tt.want) {
					t.Errorf("got %s %v, want %s %v", dns.RcodeToString[m.Rcode], values(m), dns.RcodeToString[tt.rcode], tt.want)
				}
				if !m.Authoritative || !m.RecursionAvailable || m.Question[0].Name != tt.name {
					t.Errorf("header is wrong: %v", m)
				}
				if negative := len(m.Answer) == 0; negative != (len(m.Ns) == 1 && m.Ns[0].Header().Rrtype == dns.TypeSOA) {
					t.Errorf("authority is wrong: %v", m.Ns)
				}
			})
		}
	}
	near := ordered(query(t, s, "udp", "top3.nearest.of.shop.internal.", dns.TypeAAAA))
	if !slices.Equal(near, []string{m2, m1, m3}) {
		t.Errorf("nearest first: %v", near)
	}
}

func TestRefusals(t *testing.T) {
	cfg := world()
	cfg.Listen = append(cfg.Listen, netip.MustParseAddrPort("127.0.0.1:0"))
	var strangers atomic.Bool
	cfg.OrgOf = func(netip.Addr) (string, bool) { return "acme", !strangers.Load() }
	s := run(t, cfg)
	tests := []struct {
		name   string
		change func(*dns.Msg)
		rcode  int
	}{
		{"class", func(q *dns.Msg) { q.Question[0].Qclass = dns.ClassCHAOS }, dns.RcodeRefused},
		{"transfer", func(q *dns.Msg) { q.Question[0].Qtype = dns.TypeAXFR }, dns.RcodeRefused},
		{"opcode", func(q *dns.Msg) { q.Opcode = dns.OpcodeUpdate }, dns.RcodeNotImplemented},
		{"EDNS version", func(q *dns.Msg) { q.SetEdns0(1232, false); q.IsEdns0().SetVersion(3) }, dns.RcodeBadVers},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if m := query(t, s, "udp", "shop.internal.", dns.TypeAAAA, tt.change); m.Rcode != tt.rcode {
				t.Errorf("got %s", dns.RcodeToString[m.Rcode])
			}
		})
	}
	strangers.Store(true)
	for _, name := range []string{"shop.internal.", "example.com."} {
		if m := query(t, s, "udp", name, dns.TypeAAAA); m.Rcode != dns.RcodeRefused {
			t.Errorf("a stranger got %s", dns.RcodeToString[m.Rcode])
		}
	}
}

// TestLargeInternal: what does not fit UDP is complete over TCP.
func TestLargeInternal(t *testing.T) {
	cfg := world()
	var many []Machine
	for i := range 200 {
		many = append(many, machine(fmt.Sprintf("m%03d", i), "iad", 1+i, true))
		many[i].IPv4 = netip.Addr{}
	}
	cfg.Source = catalog{"acme": {"big": many}}
	s := run(t, cfg)
	small := query(t, s, "udp", "big.internal.", dns.TypeAAAA)
	small.Compress = true
	if !small.Truncated || small.Len() > dns.MinMsgSize {
		t.Errorf("plain UDP: truncated %v, %d bytes", small.Truncated, small.Len())
	}
	edns := query(t, s, "udp", "big.internal.", dns.TypeAAAA, func(q *dns.Msg) { q.SetEdns0(4096, false) })
	edns.Compress = true
	if !edns.Truncated || edns.Len() > udpSize || len(edns.Answer) <= len(small.Answer) || edns.IsEdns0() == nil {
		t.Errorf("EDNS: truncated %v, %d bytes", edns.Truncated, edns.Len())
	}
	if m := query(t, s, "tcp", "big.internal.", dns.TypeAAAA); m.Truncated || len(m.Answer) != 200 {
		t.Errorf("TCP: truncated %v, %d answers", m.Truncated, len(m.Answer))
	}
	text := values(query(t, s, "tcp", "vms.big.internal.", dns.TypeTXT))
	if len(text) != 1 || strings.Count(text[0], ",") != 199 {
		t.Errorf("text is %v", text)
	}
}

// upstream is a real server of a world with a few names.
type upstream struct {
	addr  string
	asked sync.Map // name → *atomic.Int32
}

func (u *upstream) count(name string) int32 {
	n, _ := u.asked.LoadOrStore(name, new(atomic.Int32))
	return n.(*atomic.Int32).Load()
}

func startUpstream(t testing.TB, answer dns.HandlerFunc) *upstream {
	t.Helper()
	u := new(upstream)
	d, err := door.Open(netip.AddrPortFrom(loopback, 0))
	if err != nil {
		t.Fatal(err)
	}
	u.addr = d.Addr().String()
	h := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		n, _ := u.asked.LoadOrStore(q.Question[0].Name, new(atomic.Int32))
		n.(*atomic.Int32).Add(1)
		answer(w, q)
	})
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error)
	go func() { done <- door.Serve(ctx, []door.Door{d}, h, func() { close(ready) }) }()
	<-ready
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return u
}

// zone answers "hello.example." and its kin.
func zone(w dns.ResponseWriter, q *dns.Msg) {
	m := new(dns.Msg).SetReply(q)
	name := q.Question[0].Name
	rr := func(s string) dns.RR { r, _ := dns.NewRR(s); return r }
	_, tcp := w.RemoteAddr().(*net.TCPAddr)
	switch name {
	case "hello.example.":
		m.Answer = []dns.RR{rr(name + " 60 IN A 192.0.2.1")}
	case "zero.example.":
		m.Answer = []dns.RR{rr(name + " 0 IN A 192.0.2.2")}
	case "big.example.":
		for i := range 300 {
			m.Answer = append(m.Answer, rr(fmt.Sprintf("%s 60 IN A 192.0.%d.%d", name, i/250, i%250)))
		}
		if !tcp {
			m.Truncate(512)
		}
	case "broken.example.":
		m.Rcode = dns.RcodeServerFailure
	case "other.example.":
		m.Question[0].Name = "evil.example."
	case "silent.example.":
		return
	default:
		m.Rcode = dns.RcodeNameError
		m.Ns = []dns.RR{rr("example. 60 IN SOA ns.example. root.example. 1 2 3 4 30")}
	}
	if q.IsEdns0() != nil {
		m.SetEdns0(4096, false)
	}
	w.WriteMsg(m)
}

func TestForward(t *testing.T) {
	u := startUpstream(t, zone)
	cfg := world()
	cfg.Upstreams = []string{u.addr}
	s := run(t, cfg)
	tests := []struct {
		name  string
		rcode int
		count int
		asked int32 // by two questions, over UDP; 0 says do not check
	}{
		{"hello.example.", dns.RcodeSuccess, 1, 1},
		{"zero.example.", dns.RcodeSuccess, 1, 2},
		{"nothing.example.", dns.RcodeNameError, 0, 1},
		{"broken.example.", dns.RcodeServerFailure, 0, 0},
		{"other.example.", dns.RcodeServerFailure, 0, 0},
		{"silent.example.", dns.RcodeServerFailure, 0, 0},
		{"big.example.", dns.RcodeSuccess, 300, 2}, // once truncated, once over TCP
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for range 2 {
				m := query(t, s, "tcp", tt.name, dns.TypeA)
				if m.Rcode != tt.rcode || len(m.Answer) != tt.count {
					t.Fatalf("got %s with %d answers", dns.RcodeToString[m.Rcode], len(m.Answer))
				}
				if m.Authoritative || !m.RecursionAvailable || m.IsEdns0() != nil {
					t.Errorf("header is wrong: %v", m.MsgHdr)
				}
			}
			if tt.asked > 0 && u.count(tt.name) != tt.asked {
				t.Errorf("upstream was asked %d times, want %d", u.count(tt.name), tt.asked)
			}
		})
	}
	if m := query(t, s, "udp", "big.example.", dns.TypeA); !m.Truncated {
		t.Error("the large answer is not truncated over UDP")
	}
	query(t, s, "udp", "google.internal.", dns.TypeA)
	query(t, s, "udp", "shop.internal.", dns.TypeA)
	u.asked.Range(func(name, _ any) bool {
		if dns.IsSubDomain("internal.", name.(string)) {
			t.Errorf("%s left the node", name)
		}
		return true
	})
}

// TestSecondUpstream: a dead or broken one costs little, and then nothing.
func TestSecondUpstream(t *testing.T) {
	broken := startUpstream(t, func(w dns.ResponseWriter, q *dns.Msg) {
		w.WriteMsg(new(dns.Msg).SetRcode(q, dns.RcodeServerFailure))
	})
	silent := startUpstream(t, func(dns.ResponseWriter, *dns.Msg) {})
	good := startUpstream(t, zone)
	cfg := world()
	cfg.Upstreams = []string{silent.addr, broken.addr, good.addr}
	s := run(t, cfg)
	for _, name := range []string{"hello.example.", "zero.example."} {
		if m := query(t, s, "udp", name, dns.TypeA); len(m.Answer) != 1 {
			t.Errorf("%s: %v", name, m)
		}
	}
	if silent.count("zero.example.") != 0 {
		t.Error("the silent upstream is still asked first")
	}
}

func TestResolvConf(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	plain := write("plain", "search example.com\nnameserver 192.0.2.53\nnameserver 2001:db8::53\noptions edns0\n")
	stub := write("stub", "nameserver 127.0.0.53\n")
	empty := write("empty", "# nothing\n")
	junk := write("junk", "nameserver not-an-address\nnameserver 192.0.2.9\n")
	missing := filepath.Join(dir, "missing")
	tests := []struct {
		files []string
		want  []string
	}{
		{[]string{plain, stub}, []string{"192.0.2.53:53", "[2001:db8::53]:53"}},
		{[]string{stub, plain}, []string{"192.0.2.53:53", "[2001:db8::53]:53"}},
		{[]string{empty, missing}, nil},
		{[]string{missing, plain}, []string{"192.0.2.53:53", "[2001:db8::53]:53"}},
		{[]string{junk}, []string{"192.0.2.9:53"}},
	}
	for _, tt := range tests {
		if got := readUpstreams(tt.files); !slices.Equal(got, tt.want) {
			t.Errorf("%v: got %v, want %v", tt.files, got, tt.want)
		}
	}
}

// TestNoUpstream: names of ours still work.
func TestNoUpstream(t *testing.T) {
	cfg := world()
	cfg.Upstreams, cfg.ResolvConf = nil, filepath.Join(t.TempDir(), "missing")
	s := run(t, cfg)
	if m := query(t, s, "udp", "hello.example.", dns.TypeA); m.Rcode != dns.RcodeServerFailure {
		t.Errorf("got %s", dns.RcodeToString[m.Rcode])
	}
	if m := query(t, s, "udp", "shop.internal.", dns.TypeAAAA); len(m.Answer) != 3 {
		t.Errorf("got %v", m)
	}
}

func TestCache(t *testing.T) {
	now := time.Unix(1000, 0)
	c := newCache(2)
	c.now = func() time.Time { return now }
	answer := func(name string, ttl int) *dns.Msg {
		rr, _ := dns.NewRR(fmt.Sprintf("%s %d IN A 192.0.2.1", name, ttl))
		return &dns.Msg{Answer: []dns.RR{rr}}
	}
	key := func(name string) question { return question{name: name, qtype: dns.TypeA} }
	c.put(key("a."), answer("a.", 10))
	now = now.Add(4 * time.Second)
	m, ok := c.get(key("a."))
	if !ok || m.Answer[0].Header().Ttl != 6 {
		t.Fatalf("got %v, %v", m, ok)
	}
	m.Answer[0].Header().Ttl = 999 // the copy is ours
	now = now.Add(6 * time.Second)
	if _, ok := c.get(key("a.")); ok {
		t.Error("answer outlived its TTL")
	}
	for i := range 10 {
		c.put(key(fmt.Sprint(i, ".")), answer("x.", 10))
	}
	if len(c.entries) != 2 {
		t.Errorf("%d entries", len(c.entries))
	}
	bad := answer("b.", 10)
	bad.Rcode = dns.RcodeServerFailure
	c.put(key("b."), bad)
	if _, ok := c.get(key("b.")); ok {
		t.Error("failure was kept")
	}
}

func TestConfigErrors(t *testing.T) {
	tests := []struct {
		change func(*Config)
		want   string
	}{
		{func(c *Config) { c.Source = nil }, "needs a source"},
		{func(c *Config) { c.OrgOf = nil }, "needs a source"},
		{func(c *Config) { c.Listen = nil }, "address to listen on"},
		{func(c *Config) { c.Upstreams = []string{"dns.example"} }, `"dns.example"`},
		{func(c *Config) { c.Listen = []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:53")} }, "cannot listen for DNS on 192.0.2.1:53"},
	}
	for _, tt := range tests {
		cfg := world()
		tt.change(&cfg)
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("got %v, want %q", err, tt.want)
		}
	}
}

func TestTooManyConnections(t *testing.T) {
	s := run(t, world())
	var open []net.Conn
	defer func() {
		for _, c := range open {
			c.Close()
		}
	}()
	for range door.MaxConnsPerAsker {
		c, err := net.Dial("tcp", s.Addrs()[0].String())
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
	}
	c := dns.Client{Net: "tcp", Timeout: time.Second}
	if _, _, err := c.Exchange(new(dns.Msg).SetQuestion("shop.internal.", dns.TypeAAAA), s.Addrs()[0].String()); err == nil {
		t.Error("one connection too many was served")
	}
	if m := query(t, s, "udp", "shop.internal.", dns.TypeAAAA); len(m.Answer) != 3 {
		t.Error("UDP suffers")
	}
}

func TestRunAfterClose(t *testing.T) {
	s, err := New(world())
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	if err := s.Run(context.Background()); err == nil || !strings.Contains(err.Error(), "cannot go on serving DNS") {
		t.Errorf("got %v", err)
	}
}

// counted counts how often an app's machines are asked for.
type counted struct {
	catalog
	asked atomic.Int64
}

func (c *counted) Machines(org, app string) []Machine {
	c.asked.Add(1)
	return c.catalog.Machines(org, app)
}

// TestInstancesAreBounded: an answer that is full asks for no more apps, and a
// name asks for its own app's machines alone.
func TestInstancesAreBounded(t *testing.T) {
	c := &counted{catalog: catalog{"acme": {}}}
	for i := range 5000 {
		c.catalog["acme"][fmt.Sprintf("app%04d", i)] = []Machine{machine(fmt.Sprintf("m%04d", i), "fra", i%250, true)}
	}
	v := view{Source: c, org: "acme", peers: func(string) []Peer { return nil }}
	if text := v.instances(); len(text) < textMax || c.asked.Load() > 2000 {
		t.Errorf("%d bytes from the machines of %d apps", len(text), c.asked.Load())
	}
	c.asked.Store(0)
	if f := v.find("app0007.internal."); len(f.machines) != 1 || c.asked.Load() != 1 {
		t.Errorf("%d machines, after %d lists", len(f.machines), c.asked.Load())
	}
}
