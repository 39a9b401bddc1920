package zone

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/perigee-run/perigee/dns/door"
)

// TestNames: what exists, what does not, and what each says.
func TestNames(t *testing.T) {
	c := world()
	c.edges = c.edges[:1]
	s := run(t, config(c))
	ok, none := dns.RcodeSuccess, dns.RcodeNameError
	tests := []struct {
		name  string
		qtype uint16
		rcode int
		want  string
	}{
		{"shop." + zone, dns.TypeA, ok, "192.0.2.1"},
		{"shop." + zone, dns.TypeAAAA, ok, "2001:db8::1"},
		{"sHoP.aPPs.example.COM.", dns.TypeA, ok, "192.0.2.1"},
		{"shop." + zone, dns.TypeMX, ok, ""},
		{"shop." + zone, dns.TypeTXT, ok, ""},
		{"shop." + zone, dns.TypeNS, ok, ""},
		{"shop." + zone, dns.TypeANY, ok, `"RFC8482" ""`},
		{"none." + zone, dns.TypeA, none, ""},
		{"none." + zone, dns.TypeANY, none, ""},
		{"gone." + zone, dns.TypeA, none, ""},
		{"x.shop." + zone, dns.TypeA, none, ""},
		{"x.y.wild." + zone, dns.TypeA, ok, "192.0.2.1"},
		{"own." + zone, dns.TypeA, ok, "203.0.113.7"},
		{"own." + zone, dns.TypeAAAA, ok, "2001:db8:f::7"},
		{"old." + zone, dns.TypeAAAA, ok, ""},
		{"_acme-challenge.none." + zone, dns.TypeTXT, none, ""},
		{zone, dns.TypeSOA, ok, "*"},
		{zone, dns.TypeNS, ok, "ns.elsewhere.example. ns1.apps.example.com."},
		{zone, dns.TypeCAA, ok, `0 issue "letsencrypt.org"`},
		{zone, dns.TypeA, ok, ""},
		{"ns1." + zone, dns.TypeA, ok, "192.0.2.53"},
		{"ns1." + zone, dns.TypeAAAA, ok, "2001:db8::53"},
		{"www." + zone, dns.TypeA, ok, "shop.apps.example.com."},
		{"deep.below." + zone, dns.TypeTXT, ok, `"hello"`},
		{"below." + zone, dns.TypeTXT, ok, ""},
		{`a\.b.` + zone, dns.TypeA, none, ""},
	}
	for _, tt := range tests {
		for _, network := range []string{"udp", "tcp"} {
			t.Run(tt.name+dns.TypeToString[tt.qtype]+network, func(t *testing.T) {
				m := query(t, s, network, tt.name, tt.qtype)
				if got := values(m); m.Rcode != tt.rcode || got != tt.want && tt.want != "*" {
					t.Errorf("got %s %q, want %s %q", dns.RcodeToString[m.Rcode], got, dns.RcodeToString[tt.rcode], tt.want)
				}
				checkForm(t, m, tt.name)
			})
		}
	}
}

// checkForm: what every answer of the zone has in common.
func checkForm(t *testing.T, m *dns.Msg, name string) {
	t.Helper()
	if !m.Authoritative || m.RecursionAvailable || m.Question[0].Name != name {
		t.Errorf("header is wrong: %v", m)
	}
	for _, rr := range m.Answer {
		if rr.Header().Name != name {
			t.Errorf("owner is %q, asked was %q", rr.Header().Name, name)
		}
	}
	if len(m.Answer) > 0 {
		return
	}
	soa, ok := m.Ns[0].(*dns.SOA)
	if !ok || soa.Hdr.Ttl != 20 || soa.Minttl != 20 || soa.Hdr.Name != zone {
		t.Errorf("authority is wrong: %v", m.Ns)
	}
}

func TestGlueAndTTL(t *testing.T) {
	s := run(t, config(world()))
	m := query(t, s, "udp", zone, dns.TypeNS)
	if len(m.Extra) != 2 || m.Extra[0].Header().Name != "ns1."+zone {
		t.Errorf("glue is %v", m.Extra)
	}
	if m := query(t, s, "udp", "shop."+zone, dns.TypeA); m.Answer[0].Header().Ttl != 20 {
		t.Errorf("TTL is %d", m.Answer[0].Header().Ttl)
	}
}

func TestRefusals(t *testing.T) {
	s := run(t, config(world()))
	tests := []struct {
		name   string
		change func(*dns.Msg)
		rcode  int
	}{
		{"other zone", func(q *dns.Msg) { q.Question[0].Name = "example.com." }, dns.RcodeRefused},
		{"like the zone", func(q *dns.Msg) { q.Question[0].Name = "xapps.example.com." }, dns.RcodeRefused},
		{"root", func(q *dns.Msg) { q.Question[0].Name = "." }, dns.RcodeRefused},
		{"class", func(q *dns.Msg) { q.Question[0].Qclass = dns.ClassCHAOS }, dns.RcodeRefused},
		{"unknown class", func(q *dns.Msg) { q.Question[0].Qclass = 4711 }, dns.RcodeRefused},
		{"transfer", func(q *dns.Msg) { q.Question[0].Qtype = dns.TypeAXFR }, dns.RcodeRefused},
		{"update", func(q *dns.Msg) { q.Opcode = dns.OpcodeUpdate }, dns.RcodeNotImplemented},
		{"EDNS version", func(q *dns.Msg) { q.SetEdns0(1232, false); q.IsEdns0().SetVersion(3) }, dns.RcodeBadVers},
		{"subnet with scope", func(q *dns.Msg) { from("192.0.2.0/24")(q); ecs(q).SourceScope = 8 }, dns.RcodeFormatError},
		{"two subnets", func(q *dns.Msg) {
			from("192.0.2.0/24")(q)
			q.IsEdns0().Option = append(q.IsEdns0().Option, ecs(q))
		}, dns.RcodeFormatError},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := query(t, s, "udp", "shop."+zone, dns.TypeA, tt.change)
			if m.Rcode != tt.rcode || len(m.Answer)+len(m.Ns) > 0 {
				t.Errorf("got %v", m)
			}
		})
	}
}

func ecs(q *dns.Msg) *dns.EDNS0_SUBNET { return q.IsEdns0().Option[0].(*dns.EDNS0_SUBNET) }

// near makes a zone that knows where clients are by a file.
func near(t testing.TB, c *cloud, lines string) (*Server, string) {
	t.Helper()
	cfg := config(c)
	cfg.RateLimit = 1e6
	cfg.Prefixes = filepath.Join(t.TempDir(), "prefixes")
	write(t, cfg.Prefixes, lines)
	return run(t, cfg), cfg.Prefixes
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

const places3 = "# clients\n198.51.100.0/24 lhr # near fra\n198.51.0.0/16 nrt\n2001:db8:aaaa::/48 iad\n127.0.0.0/8 syd\n"

// TestNearest: by client subnet, else by the resolver's address.
func TestNearest(t *testing.T) {
	s, _ := near(t, world(), places3)
	tests := []struct {
		name   string
		change func(*dns.Msg)
		want   string
		scope  int
	}{
		{"London", from("198.51.100.0/24"), "192.0.2.2", 24},
		{"London, less told", from("198.51.0.0/16"), "192.0.2.3", 18}, // 198.51.0.1: the /24 begins with bit 17
		{"Tokyo", from("198.51.200.0/24"), "192.0.2.3", 17},
		{"Virginia", from("2001:db8:aaaa::/48"), "192.0.2.1", 48},
		{"private", from("0.0.0.0/0"), "192.0.2.3", 0},
		{"by resolver", func(*dns.Msg) {}, "192.0.2.3", -1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := query(t, s, "udp", "shop."+zone, dns.TypeA, tt.change)
			if values(m) != tt.want || scope(m) != tt.scope {
				t.Errorf("got %s with scope %d, want %s with %d", values(m), scope(m), tt.want, tt.scope)
			}
		})
	}
	if m := query(t, s, "udp", "own."+zone, dns.TypeA, from("198.51.100.0/24")); scope(m) != 0 {
		t.Errorf("an answer that is the same for all has scope %d", scope(m))
	}
	if m := query(t, s, "udp", "none."+zone, dns.TypeA, from("198.51.100.0/24")); scope(m) != 0 {
		t.Errorf("a missing name has scope %d", scope(m))
	}
}

// TestUnknownPlace: all edges get clients, in proportion to what they have free.
func TestUnknownPlace(t *testing.T) {
	c := world()
	c.edit("a", func(e *Edge) { e.Load = 0.9 })
	s, _ := near(t, c, "10.0.0.0/8 fra\n")
	count := map[string]int{}
	for range 600 {
		m := query(t, s, "udp", "shop."+zone, dns.TypeA, from("203.0.113.0/24"))
		if len(m.Answer) != 2 || scope(m) != 1 {
			t.Fatalf("got %v with scope %d", m.Answer, scope(m))
		}
		first := strings.Fields(m.Answer[0].String())[4]
		count[first]++
	}
	if count["192.0.2.1"] == 0 || count["192.0.2.1"] > 80 || count["192.0.2.2"] < 200 || count["192.0.2.3"] < 200 {
		t.Errorf("first answers: %v", count)
	}
}

// TestHealth: the next answer knows.
func TestHealth(t *testing.T) {
	c := world()
	s, _ := near(t, c, places3)
	ask := func() string {
		return values(query(t, s, "udp", "shop."+zone, dns.TypeA, from("198.51.100.0/24")))
	}
	serial := func() uint32 {
		return query(t, s, "udp", zone, dns.TypeSOA).Answer[0].(*dns.SOA).Serial
	}
	down, drain := func(e *Edge) { e.Up = false }, func(e *Edge) { e.Draining = true }
	was := serial()
	for _, step := range []struct {
		what, node string
		change     func(*Edge)
		want       string
	}{
		{"all well", "b", func(*Edge) {}, "192.0.2.2"},
		{"Frankfurt drains", "b", drain, "192.0.2.1"},
		{"Frankfurt is back", "b", func(e *Edge) { e.Draining = false }, "192.0.2.2"},
		{"Frankfurt is down", "b", down, "192.0.2.1"},
		{"Virginia too", "a", down, "192.0.2.3"},
		{"Sydney drains: better than down", "c", drain, "192.0.2.3"},
		{"all are down: the nearest that does not drain", "c", down, "192.0.2.2"},
	} {
		c.edit(step.node, step.change)
		if got := ask(); got != step.want {
			t.Errorf("%s: got %s, want %s", step.what, got, step.want)
		}
		if now := serial(); step.what != "all well" && now <= was {
			t.Errorf("%s: serial %d after %d", step.what, now, was)
		} else {
			was = now
		}
	}
}

// TestSpread: only edges that are hardly farther are given beside the nearest.
func TestSpread(t *testing.T) {
	c := world()
	c.edges = append(c.edges, edge("b2", "fra", 4), edge("d", "zrh", 5), edge("e", "local", 6))
	s, _ := near(t, c, "10.1.0.0/16 fra\n10.2.0.0/16 local\n10.3.0.0/16 gru\n10.4.0.0/16 mars\n")
	for client, allowed := range map[string]string{
		"10.1.0.0/16": "192.0.2.2 192.0.2.4 192.0.2.5", // Zurich is 300 km from Frankfurt
		"10.2.0.0/16": "192.0.2.6",
		"10.3.0.0/16": "192.0.2.1",
	} {
		for range 30 {
			m := query(t, s, "udp", "shop."+zone, dns.TypeA, from(client))
			for _, got := range strings.Fields(values(m)) {
				if !strings.Contains(allowed, got) {
					t.Fatalf("%s: got %s, want of %s", client, got, allowed)
				}
			}
		}
	}
	if m := query(t, s, "udp", "shop."+zone, dns.TypeA, from("10.4.0.0/16")); len(m.Answer) != 2 {
		t.Errorf("in a region that nobody knows: %v", m.Answer)
	}
}

func TestReload(t *testing.T) {
	s, path := near(t, world(), "198.51.100.0/24 fra\n")
	ask := func() string {
		return values(query(t, s, "udp", "shop."+zone, dns.TypeA, from("198.51.100.0/24")))
	}
	write(t, path, "198.51.100.0/24 syd\n")
	eventually(t, func() bool { return ask() == "192.0.2.3" })
	write(t, path, "198.51.100.0/24 iad\nnonsense\n")
	time.Sleep(3 * settle)
	if got := ask(); got != "192.0.2.3" {
		t.Errorf("a bad file changed the answer to %s", got)
	}
	write(t, path, "198.51.100.0/24 iad\n")
	eventually(t, func() bool { return ask() == "192.0.2.1" })
}

func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it did not happen")
		}
	}
}

// TestTruncation: an answer that does not fit is complete over TCP.
func TestTruncation(t *testing.T) {
	c := world()
	var many []string
	for i := range 200 {
		many = append(many, fmt.Sprintf("2001:db8:9::%x", i))
	}
	c.apps["many"] = App{Exists: true, IPs: addrs(many...)}
	s := run(t, config(c))
	small := query(t, s, "udp", "many."+zone, dns.TypeAAAA)
	small.Compress = true
	if !small.Truncated || small.Len() > dns.MinMsgSize {
		t.Errorf("plain UDP: truncated %v, %d bytes", small.Truncated, small.Len())
	}
	edns := query(t, s, "udp", "many."+zone, dns.TypeAAAA, func(q *dns.Msg) { q.SetEdns0(4096, true) })
	edns.Compress = true
	if !edns.Truncated || edns.Len() > udpSize || !edns.IsEdns0().Do() {
		t.Errorf("EDNS: truncated %v, %d bytes", edns.Truncated, edns.Len())
	}
	if m := query(t, s, "tcp", "many."+zone, dns.TypeAAAA); m.Truncated || len(m.Answer) != 200 {
		t.Errorf("TCP: truncated %v, %d answers", m.Truncated, len(m.Answer))
	}
}

// TestRateLimit: a flood gets little, a real resolver gets through by TCP.
func TestRateLimit(t *testing.T) {
	cfg := config(world())
	cfg.RateLimit = 10
	s := run(t, cfg)
	now := time.Now()
	s.limit.now = func() time.Time { return now }
	q := new(dns.Msg).SetQuestion("shop."+zone, dns.TypeA)
	count := map[string]int{}
	for i := range 110 {
		switch m := s.respond(netip.AddrFrom4([4]byte{203, 0, 113, byte(i)}), q, false); {
		case m == nil:
			count["silent"]++
		case m.Truncated && len(m.Answer) == 0:
			count["by TCP"]++
		default:
			count["answered"]++
		}
	}
	if count["answered"] != 10 || count["by TCP"] != 50 || count["silent"] != 50 {
		t.Errorf("a flood got %v", count)
	}
	if m := s.respond(netip.MustParseAddr("203.0.113.1"), q, true); m == nil || m.Truncated {
		t.Errorf("by TCP: %v", m)
	}
	now = now.Add(time.Second)
	if m := s.respond(netip.MustParseAddr("203.0.113.1"), q, false); m == nil || m.Truncated {
		t.Errorf("a second later: %v", m)
	}
}

func TestConfigErrors(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/bad", "10.0.0.0/8 fra\n10.0.0.1/8 fra\n")
	tests := []struct {
		change func(*Config)
		want   string
	}{
		{func(c *Config) { c.Source = nil }, "needs a source"},
		{func(c *Config) { c.Zone = "" }, "want a domain"},
		{func(c *Config) { c.Zone = "a..b" }, "want a domain"},
		{func(c *Config) { c.NameServers = nil }, "name servers"},
		{func(c *Config) { c.NameServers[0].Addrs = nil }, "as glue"},
		{func(c *Config) { c.NameServers = append(c.NameServers, c.NameServers[0]) }, "twice"},
		{func(c *Config) { c.TTL = time.Millisecond }, "TTLs"},
		{func(c *Config) { c.Mailbox = "nobody" }, "mailbox"},
		{func(c *Config) { c.Records = []string{"@ NS ns.example."} }, "its own SOA and NS"},
		{func(c *Config) { c.Records = []string{"$INCLUDE /etc/passwd"} }, "directives"},
		{func(c *Config) { c.Records = []string{"x A 1.2.3.4.5"} }, "cannot use record"},
		{func(c *Config) { c.Records = []string{"x.example.org. A 192.0.2.1"} }, "is not in zone"},
		{func(c *Config) { c.Records = []string{"x A 192.0.2.1", "x CNAME y"} }, "must be the only one"},
		{func(c *Config) { c.Prefixes = dir + "/none" }, "cannot read prefixes"},
		{func(c *Config) { c.Prefixes = dir + "/bad" }, "line 2"},
		{func(c *Config) { c.MMDB = dir + "/bad" }, "cannot use places"},
		{func(c *Config) { c.Listen = []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:53")} }, "cannot listen for DNS on 192.0.2.1:53"},
	}
	for _, tt := range tests {
		cfg := config(world())
		tt.change(&cfg)
		if s, err := New(cfg); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("got %v, want %q", err, tt.want)
			if s != nil {
				s.Close()
			}
		}
	}
}

// TestDig asks as operators do.
func TestDig(t *testing.T) {
	s, _ := near(t, world(), places3)
	addr := s.Addrs()[0]
	at, port := "@"+addr.Addr().String(), fmt.Sprint(addr.Port())
	for tool, args := range map[string][]string{
		"dig":  {at, "-p", port, "+short", "+subnet=198.51.100.0/24", "shop.apps.example.com", "A"},
		"kdig": {at, "-p", port, "+short", "+subnet=198.51.100.0/24", "shop.apps.example.com", "A"},
	} {
		t.Run(tool, func(t *testing.T) {
			path, err := exec.LookPath(tool)
			if err != nil {
				t.Skip(tool, "is not installed")
			}
			out, err := exec.CommandContext(t.Context(), path, args...).CombinedOutput()
			if got := strings.TrimSpace(string(out)); err != nil || got != "192.0.2.2" {
				t.Errorf("%s, %v", got, err)
			}
		})
	}
}

// TestLostAddress: a server whose socket is lost says so, and serves again when
// it is run again.
func TestLostAddress(t *testing.T) {
	cfg := config(world())
	var udp net.PacketConn
	cfg.Open = func(at netip.AddrPort) (door.Door, error) {
		d, err := door.Open(at)
		udp, _ = d.Sockets()
		return d, err
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Run(t.Context()) }()
	query(t, s, "udp", zone, dns.TypeSOA)
	udp.Close()
	select {
	case err := <-done:
		if err == nil {
			t.Error("no word of the lost address")
		}
	case <-time.After(30 * time.Second):
		t.Fatal("it goes on without its address")
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { done <- s.Run(ctx) }()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		q := new(dns.Msg).SetQuestion(zone, dns.TypeSOA)
		if r, err := dns.Exchange(q, s.Addrs()[0].String()); err == nil && len(r.Answer) == 1 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("it does not serve again")
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
