package anycast

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestParsePrefixes(t *testing.T) {
	got, err := ParsePrefixes("192.0.2.1, 198.51.100.0/24,2001:db8::1/128")
	if want := prefixes("192.0.2.1/32", "198.51.100.0/24", "2001:db8::1/128"); err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v", got, err)
	}
	for text, want := range map[string]string{
		"": "is not a prefix", "x": "is not a prefix", "192.0.2.1/24": "want 192.0.2.0/24", "0.0.0.0/0": "so large",
		"127.0.0.1/32": "nobody routes", "fe80::1/128": "nobody routes", "224.0.0.1/32": "nobody routes", "192.0.2.1,": "is not a prefix",
		"::ffff:192.0.2.1": "invalid prefix", "fe80::1%eth0": "is not a prefix",
	} {
		if _, err := ParsePrefixes(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestParseNeighbor(t *testing.T) {
	a := netip.MustParseAddr
	for text, want := range map[string]Neighbor{
		"10.0.0.1,64500":                                       {Address: a("10.0.0.1"), ASN: 64500},
		"2001:db8::1,AS4200000000,port=1790":                   {Address: a("2001:db8::1"), ASN: 4200000000, Port: 1790},
		"10.0.0.1,1.10,ttl-security,password-file=/etc/bgp.pw": {Address: a("10.0.0.1"), ASN: 65546, TTLSecurity: true, PasswordFile: "/etc/bgp.pw"},
		"10.0.0.1,64500,multihop=4":                            {Address: a("10.0.0.1"), ASN: 64500, MultiHop: 4},
	} {
		if got, err := ParseNeighbor(text); err != nil || got != want {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	for text, want := range map[string]string{
		"": "want its address", "10.0.0.1": "want its address", "router,64500": "is not an address", "10.0.0.1,x": "is not an AS number",
		"10.0.0.1,64500,port=0": "1 to 65535", "10.0.0.1,64500,multihop=300": "1 to 255", "10.0.0.1,64500,password=x": "there is no option",
		"10.0.0.1,64500,": "there is no option", "10.0.0.1,4294967296": "is not an AS number", "10.0.0.1,1.70000": "is not an AS number",
	} {
		if _, err := ParseNeighbor(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

// FuzzFlags: what is taken can be written down and taken again.
func FuzzFlags(f *testing.F) {
	for _, s := range []string{"192.0.2.1/32,2001:db8::1/128", "10.0.0.1,64500,port=179,multihop=2,ttl-security", "64512:100", "64512:1:2", "1.10", "::1%lo"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if all, err := ParsePrefixes(s); err == nil {
			var back []string
			for _, p := range all {
				back = append(back, p.String())
			}
			if again, err := ParsePrefixes(strings.Join(back, ",")); err != nil || !slices.Equal(all, again) {
				t.Errorf("%q: %v, then %v (%v)", s, all, again, err)
			}
		}
		if n, err := ParseNeighbor(s); err == nil && (!n.Address.IsValid() || n.MultiHop < 0 || n.MultiHop > 255) {
			t.Errorf("%q: %+v", s, n)
		}
		if c, err := parseCommunities([]string{s}); err == nil && len(c.plain)+len(c.large) != 1 {
			t.Errorf("%q: %+v", s, c)
		}
	})
}

func TestConfigErrors(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty")
	must(t, os.WriteFile(empty, []byte("\n"), 0o600))
	for want, change := range map[string]func(*Config){
		"our own AS number is missing": func(c *Config) { c.ASN = 0 },
		"is reserved":                  func(c *Config) { c.ASN = 23456 },
		"router id":                    func(c *Config) { c.RouterID = netip.Addr{} },
		"at least one neighbor":        func(c *Config) { c.Neighbors = nil },
		"one prefix":                   func(c *Config) { c.Prefixes = nil },
		"its AS number is missing":     func(c *Config) { c.Neighbors[0].ASN = 0 },
		"without an interface":         func(c *Config) { c.Neighbors[0].Address = netip.MustParseAddr("fe80::1%eth0") },
		"given twice":                  func(c *Config) { c.Neighbors = append(c.Neighbors, c.Neighbors[0]) },
		"hops are counted only":        func(c *Config) { c.Neighbors[0].TTLSecurity, c.Neighbors[0].MultiHop = true, 3 },
		"not both":                     func(c *Config) { c.Neighbors[0].Password, c.Neighbors[0].PasswordFile = "x", "y" },
		"cannot read its password":     func(c *Config) { c.Neighbors[0].PasswordFile = empty + "no" },
		"is empty":                     func(c *Config) { c.Neighbors[0].PasswordFile = empty },
		"the most is 80":               func(c *Config) { c.Neighbors[0].Password = strings.Repeat("x", 81) },
		"of the other family":          func(c *Config) { c.LocalAddr = netip.MustParseAddr("fd99::1") },
		"twice":                        func(c *Config) { c.Prefixes = prefixes(four, four) },
		"so large":                     func(c *Config) { c.Prefixes = prefixes("::/0") },
		"cannot use community":         func(c *Config) { c.Communities = []string{"1:2:3:4"} },
		"hold time":                    func(c *Config) { c.HoldTime = time.Second },
		"next hops":                    func(c *Config) { c.NextHop6 = netip.MustParseAddr("10.0.0.1") },
	} {
		cfg := config()
		cfg.Neighbors = slices.Clone(cfg.Neighbors)
		change(&cfg)
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	a, err := New(config())
	must(t, err)
	if s := a.Status(); s.Healthy || len(s.Announced) > 0 || s.Sessions[0].Error == "" {
		t.Errorf("before Run: %+v", s)
	}
}

// TestDecide: withdrawals never wait, announcements after one do.
func TestDecide(t *testing.T) {
	start := time.Unix(1000, 0)
	all := prefixes(four, six)
	least := 30 * time.Second
	known := map[netip.Prefix]told{}
	w := wish{set: all}
	for _, tt := range []struct {
		after       time.Duration
		what        string
		change      func()
		want        how // of the first prefix
		told, again time.Duration
	}{
		{0, "not healthy yet", func() {}, withdrawn, -1, -1},
		{time.Second, "healthy", func() { w.healthy = true }, announced, time.Second, -1},
		{2 * time.Second, "ill", func() { w.healthy = false }, withdrawn, time.Second, -1},
		{3 * time.Second, "healthy: must wait", func() { w.healthy = true }, withdrawn, time.Second, 31 * time.Second},
		{4 * time.Second, "ill again", func() { w.healthy = false }, withdrawn, time.Second, -1},
		{5 * time.Second, "healthy: waits still", func() { w.healthy = true }, withdrawn, time.Second, 31 * time.Second},
		{31 * time.Second, "waited", func() {}, announced, 31 * time.Second, -1},
		{32 * time.Second, "drains", func() { w.draining, w.drainEnds = true, start.Add(42*time.Second) }, marked, 31 * time.Second, 42 * time.Second},
		{33 * time.Second, "does not, at once", func() { w.draining = false }, announced, 31 * time.Second, -1},
		{34 * time.Second, "drains again", func() { w.draining, w.drainEnds = true, start.Add(44*time.Second) }, marked, 31 * time.Second, 44 * time.Second},
		{35 * time.Second, "falls ill meanwhile", func() { w.healthy = false }, withdrawn, 31 * time.Second, 44 * time.Second},
		{44 * time.Second, "drained", func() { w.healthy = true }, withdrawn, 31 * time.Second, -1},
		{65 * time.Second, "back, but not all", func() { w.draining, w.set = false, all[1:] }, withdrawn, 31 * time.Second, -1},
	} {
		tt.change()
		now := start.Add(tt.after)
		steps, again := decide(now, w, all, known, least)
		for _, s := range steps {
			k := known[s.prefix]
			if k.now == withdrawn {
				k.since = now
			}
			k.now = s.to
			known[s.prefix] = k
		}
		if got := known[all[0]]; got.now != tt.want || tt.told >= 0 && !got.since.Equal(start.Add(tt.told)) {
			t.Errorf("%s: %s since %v", tt.what, got.now, got.since.Sub(start))
		}
		if tt.again < 0 != again.IsZero() || tt.again >= 0 && !again.Equal(start.Add(tt.again)) {
			t.Errorf("%s: again at %v", tt.what, again.Sub(start))
		}
	}
	if known[all[1]].now != announced {
		t.Errorf("the other: %v", known[all[1]])
	}
}
