package wire

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

func key(t testing.TB) PrivateKey {
	t.Helper()
	k, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestKeys(t *testing.T) {
	k := key(t)
	again, err := ParsePrivateKey(k.Text())
	if err != nil || again != k || again.Public() != k.Public() {
		t.Errorf("%v, %v", again == k, err)
	}
	for _, shown := range []string{fmt.Sprint(k), fmt.Sprintf("%v %s", k, k)} {
		if strings.Contains(shown, k.Text()) {
			t.Error("printing a private key shows it")
		}
	}
	pub := k.Public()
	b, err := json.Marshal(map[string]Key{"key": pub, "next": {}})
	if err != nil || string(b) != `{"key":"`+pub.String()+`","next":""}` {
		t.Errorf("%s, %v", b, err)
	}
	var back map[string]Key
	if err := json.Unmarshal(b, &back); err != nil || back["key"] != pub || !back["next"].IsZero() {
		t.Errorf("%v, %v", back, err)
	}
	for _, bad := range []string{"", "short", pub.String() + "=", strings.Repeat("A", 43) + "=", pub.String()[:43] + "!", " " + pub.String(), pub.String() + "\n"} {
		if _, err := ParseKey(bad); err == nil {
			t.Errorf("%q is a key", bad)
		}
	}
}

func client(t testing.TB) Client {
	return Client{Name: "lap", PrivateKey: key(t).Text(), Address: netip.MustParseAddr("fdaa:0:7:0:9:1:2:4"), DNS: netip.MustParseAddr("fdaa::3"),
		Gateway: key(t).Public(), Endpoint: "node.example:51820", Allowed: []netip.Prefix{netip.MustParsePrefix("fdaa::/16")}}
}

func TestClientConfig(t *testing.T) {
	c := client(t)
	got, err := ClientConfig(c)
	want := "# Perigee peer lap\n[Interface]\nPrivateKey = " + c.PrivateKey + "\nAddress = fdaa:0:7:0:9:1:2:4/128\nDNS = fdaa::3\nMTU = 1420\n\n" +
		"[Peer]\nPublicKey = " + c.Gateway.String() + "\nAllowedIPs = fdaa::/16\nEndpoint = node.example:51820\nPersistentKeepalive = 25\n"
	if err != nil || got != want {
		t.Errorf("%v\n%s", err, got)
	}
	c.PrivateKey = ""
	if got, err := ClientConfig(c); err != nil || strings.Contains(got, "PrivateKey") {
		t.Errorf("%v\n%s", err, got)
	}
	bad := map[string]func(*Client){
		"name":       func(c *Client) { c.Name = "lap\nPostUp = rm" },
		"key":        func(c *Client) { c.PrivateKey = "x\nPostUp = rm" },
		"gateway":    func(c *Client) { c.Gateway = Key{} },
		"address":    func(c *Client) { c.Address = netip.Addr{} },
		"zone":       func(c *Client) { c.Address = netip.MustParseAddr("fe80::1%x\nPostUp=rm") },
		"resolver":   func(c *Client) { c.DNS = netip.Addr{} },
		"no prefix":  func(c *Client) { c.Allowed = nil },
		"no port":    func(c *Client) { c.Endpoint = "node.example" },
		"port 0":     func(c *Client) { c.Endpoint = "node.example:0" },
		"bad host":   func(c *Client) { c.Endpoint = "node\nPostUp=rm:51820" },
		"empty host": func(c *Client) { c.Endpoint = ":51820" },
	}
	for name, change := range bad {
		c := client(t)
		change(&c)
		if got, err := ClientConfig(c); err == nil {
			t.Errorf("%s: %s", name, got)
		}
	}
}

// FuzzClientConfig: whatever a node answers, the file has the lines it should
// have and no others: wg-quick runs some lines as commands.
func FuzzClientConfig(f *testing.F) {
	f.Add("lap", "", "203.0.113.7:51820", "fdaa::1", "fdaa::3", "fdaa::/16")
	f.Add("a\nPostUp = x", "k", "[::1]:5\n", "::%\n", "1.1.1.1", "0.0.0.0/0")
	gateway := key(f).Public()
	f.Fuzz(func(t *testing.T, name, private, endpoint, addr, dns, allowed string) {
		c := Client{Name: name, PrivateKey: private, Endpoint: endpoint, Gateway: gateway}
		c.Address, _ = netip.ParseAddr(addr)
		c.DNS, _ = netip.ParseAddr(dns)
		if p, err := netip.ParsePrefix(allowed); err == nil {
			c.Allowed = []netip.Prefix{p}
		}
		text, err := ClientConfig(c)
		if err != nil {
			return
		}
		want := 10
		if private != "" {
			want++
		}
		if lines := strings.FieldsFunc(text, func(r rune) bool { return r == '\n' || r == '\r' }); len(lines) != want {
			t.Errorf("%d lines, want %d:\n%s", len(lines), want, text)
		}
	})
}

func TestGoodPeers(t *testing.T) {
	own := key(t).Public()
	net := []netip.Prefix{netip.MustParsePrefix("fdaa:0:1::/48")}
	a := Peer{Name: "a", Key: key(t).Public(), Next: key(t).Public(), Allowed: net, Endpoint: "203.0.113.7:51820"}
	tests := []struct {
		name string
		peer Peer
		want string
	}{
		{"fine", Peer{Key: key(t).Public()}, ""},
		{"no key", Peer{}, "no key"},
		{"our key", Peer{Key: own}, "this node's"},
		{"another's key", Peer{Key: a.Key}, `peer "a"`},
		{"another's next key", Peer{Key: a.Next}, `peer "a"`},
		{"another's key next", Peer{Key: key(t).Public(), Next: a.Key}, `peer "a"`},
		{"another's prefix", Peer{Key: key(t).Public(), Allowed: net}, `peer "a"`},
		{"everything", Peer{Key: key(t).Public(), Allowed: []netip.Prefix{netip.MustParsePrefix("::/0")}}, "prefixes of the mesh"},
		{"no prefix", Peer{Key: key(t).Public(), Allowed: make([]netip.Prefix, 1)}, "prefixes of the mesh"},
		{"endpoint", Peer{Key: key(t).Public(), Endpoint: "x"}, "host:port"},
		{"keepalive", Peer{Key: key(t).Public(), Keepalive: -1}, "keepalive"},
	}
	for _, tt := range tests {
		good, err := goodPeers(own, []Peer{a, tt.peer})
		if tt.want == "" && (err != nil || len(good) != 2) || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want) || len(good) != 1) {
			t.Errorf("%s: %d good, %v", tt.name, len(good), err)
		}
	}
}

func TestConfigErrors(t *testing.T) {
	good := Config{Device: "wire0", KeyFile: "/x/key", Address: netip.MustParsePrefix("fdaa::1/128")}
	for want, change := range map[string]func(*Config){
		"device name": func(c *Config) { c.Device = "a/b" },
		"key file":    func(c *Config) { c.KeyFile = "key" },
		"address":     func(c *Config) { c.Address = netip.Prefix{} },
		"port":        func(c *Config) { c.Port = -1 },
		"MTU":         func(c *Config) { c.MTU = 576 },
	} {
		c := good
		change(&c)
		if err := c.setDefaults(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	if err := good.setDefaults(); err != nil || good.Port != 51820 || good.MTU != 1420 {
		t.Errorf("%+v, %v", good, err)
	}
}
