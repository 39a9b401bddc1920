package mesh

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
)

func TestPrivateIPv6(t *testing.T) {
	a := PrivateIPv6(defaultIPv6, 7, 9, "m1")
	same := func(x netip.Addr, bits int) bool { p, _ := a.Prefix(bits); return p.Contains(x) }
	tests := []struct {
		name      string
		node, org uint32
		machine   string
		bits      int // how many leading bits are the same
	}{
		{"same", 7, 9, "m1", 128},
		{"other machine", 7, 9, "m2", 80},
		{"other org", 7, 9 << 16, "m1", 48},
		{"other node", 7 << 16, 9, "m1", 16},
	}
	for _, tt := range tests {
		got := PrivateIPv6(defaultIPv6, tt.node, tt.org, tt.machine)
		if !same(got, tt.bits) || tt.bits < 128 && same(got, tt.bits+16) {
			t.Errorf("%s: %s against %s", tt.name, got, a)
		}
	}
	if NodeOfAddr(a) != 7 || OrgOfAddr(a) != 9 {
		t.Errorf("%s is of node %d and org %d", a, NodeOfAddr(a), OrgOfAddr(a))
	}
	if p := NodePrefix(defaultIPv6, 7); p.String() != "fdaa:0:7::/48" || !p.Contains(a) || !p.Contains(NodeAddr(defaultIPv6, 7)) {
		t.Errorf("the node's range is %s", p)
	}
	if x := NodeAddr(defaultIPv6, 7); x.String() != "fdaa:0:7::1" || OrgOfAddr(x) != 0 {
		t.Errorf("the node's address is %s", x)
	}
	if p := PeerAddr(defaultIPv6, 7, 9, "m1"); p == a || NodeOfAddr(p) != 7 || OrgOfAddr(p) != 9 {
		t.Errorf("a laptop's address is %s", p)
	}
	if !strings.HasSuffix(a.String(), ":2") || !defaultIPv6.Contains(a) {
		t.Errorf("address is %s", a)
	}
	if r := resolver6(defaultIPv6); r.String() != "fdaa::3" {
		t.Errorf("resolver is %s", r)
	}
}

func TestConfigErrors(t *testing.T) {
	tests := []struct {
		cfg  Config
		want string
	}{
		{Config{Prefix: "Perigee", Dir: "/x"}, "prefix"},
		{Config{Prefix: "toolongname", Dir: "/x"}, "prefix"},
		{Config{Dir: "x"}, "absolute"},
		{Config{}, "absolute"},
		{Config{Dir: "/x", Pool: netip.MustParsePrefix("10.0.0.0/8")}, "IPv4 pool"},
		{Config{Dir: "/x", Pool: netip.MustParsePrefix("fd00::/16")}, "IPv4 pool"},
		{Config{Dir: "/x", IPv6: netip.MustParsePrefix("fd00::/48")}, "IPv6 range"},
		{Config{Dir: "/x", MTU: 576}, "MTU"},
		{Config{Dir: "/x", Wire: "perigee-1"}, "WireGuard device"},
		{Config{Dir: "/x", Wire: "a name that is long"}, "WireGuard device"},
	}
	for _, tt := range tests {
		if _, err := New(tt.cfg); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v", tt.cfg, err)
		}
	}
}

func TestPoolAvoidsRoutes(t *testing.T) {
	needHost(t)
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	route := &netlink.Route{LinkIndex: lo.Attrs().Index, Dst: ipNet(netip.MustParsePrefix("10.0.0.0/8"))}
	if err := netlink.RouteAdd(route); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { netlink.RouteDel(route) })
	if n := newNetwork(t, Config{}); n.Pool() != pools[1] {
		t.Errorf("pool is %s", n.Pool())
	}
	n := openNetwork(t, Config{Dir: t.TempDir(), Prefix: "second", Pool: netip.MustParsePrefix("10.5.0.0/16")})
	err = n.Setup(t.Context())
	if err == nil || !strings.Contains(err.Error(), "10.5.0.0/16 is in use by route 10.0.0.0/8") {
		t.Errorf("setup says %v", err)
	}
}

// TestPoolStays: the range of an earlier run is kept, changed only when free.
func TestPoolStays(t *testing.T) {
	needHost(t)
	dir := t.TempDir()
	first := openNetwork(t, Config{Dir: dir, Pool: netip.MustParsePrefix("10.77.0.0/20")})
	if err := first.Setup(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := acquire(t, first)
	second := newNetwork(t, Config{Dir: dir})
	if second.Pool() != first.Pool() {
		t.Errorf("pool is %s", second.Pool())
	}
	third := openNetwork(t, Config{Dir: dir, Pool: netip.MustParsePrefix("10.78.0.0/20")})
	if err := third.Setup(t.Context()); err == nil || !strings.Contains(err.Error(), "stop all machines first") {
		t.Errorf("setup says %v", err)
	}
	if err := second.Release(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	third = openNetwork(t, Config{Dir: dir, Pool: netip.MustParsePrefix("10.78.0.0/20")})
	if err := third.Setup(t.Context()); err != nil || third.Pool() != third.cfg.Pool {
		t.Errorf("pool is %s: %v", third.Pool(), err)
	}
}

func TestUplinkMTU(t *testing.T) {
	inet := newInternet(t)
	wan, err := netlink.LinkByName("wan0")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetMTU(wan, 1400); err != nil {
		t.Fatal(err)
	}
	if err := netlink.RouteAdd(&netlink.Route{LinkIndex: wan.Attrs().Index, Gw: inet.v4.AsSlice()}); err != nil {
		t.Fatal(err)
	}
	if s := acquire(t, newNetwork(t, Config{})); s.MTU != 1400 {
		t.Errorf("MTU is %d", s.MTU)
	}
}
