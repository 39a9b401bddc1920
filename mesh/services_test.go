package mesh

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var (
	appPool4 = netip.MustParsePrefix("198.51.100.0/28")
	appPool6 = netip.MustParsePrefix("2001:db8:aaaa::/64")
)

// serveServices answers every connection to an app's address with that address.
func serveServices(t testing.TB, n *Network) (end func()) {
	t.Helper()
	all, err := n.ListenServices(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range all {
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				fmt.Fprint(c, c.LocalAddr())
				c.Close()
			}
		}()
	}
	return func() {
		for _, l := range all {
			l.Close()
		}
	}
}

// reached says whether a connection came to the router, and to the address that it
// was made to.
func reached(p place, to netip.AddrPort) bool {
	seen, err := call(p, "tcp", to, netip.Addr{}, patient)
	return err == nil && seen == to.Addr()
}

// TestServices: connections to the addresses of apps come to the router's sockets, on
// every port; and at those addresses there is nothing else of the host.
func TestServices(t *testing.T) {
	inet := newInternet(t)
	n := newNetwork(t, Config{HostPorts: []uint16{8443}, AppPools: []netip.Prefix{appPool4, appPool6}})
	a, b := machineSlot(t, n, "acme", "a"), machineSlot(t, n, "bold", "b")
	routeHome(t, inet, n)
	routeTo(t, inet, appPool4, inet.host4)
	routeTo(t, inet, appPool6, inet.host6)
	// Other programs of the host listen on all addresses: nobody may reach them here.
	for _, port := range []uint16{testPort, 8443} {
		go serveTCP(listenTCP(t, "", netip.AddrPortFrom(netip.IPv6Unspecified(), port)))
		go serveUDP(listenUDP(t, "", netip.AddrPortFrom(netip.IPv6Unspecified(), port)))
	}
	serve(t, "", netip.AddrPortFrom(n.ResolverAddrs()[0], 53))
	end := serveServices(t, n)

	shop := n.ServiceAddr("acme", "shop")
	own4, own6 := netip.MustParseAddr("198.51.100.5"), netip.MustParseAddr("2001:db8:aaaa::5")
	tests := []struct {
		name string
		from place
		to   netip.Addr
		want bool
	}{
		{"machine to an app of its org", in(a), shop, true},
		{"machine to an app of another org", in(b), shop, false},
		{"machine to nobody's org", in(a), ServiceAddr(n.cfg.IPv6, 12345, "shop"), false},
		{"machine to the resolver's address", in(a), n.ResolverAddrs()[0], false},
		{"internet to a private address", inet.place, shop, false},
		{"internet to an app's own, IPv4", inet.place, own4, true},
		{"internet to an app's own, IPv6", inet.place, own6, true},
		{"machine to an app's own, IPv4", in(b), own4, true},
		{"machine to an app's own, IPv6", in(b), own6, true},
		{"host to an app's own, IPv4", "", own4, true},
		{"host to an app's own, IPv6", "", own6, true},
	}
	for _, tt := range tests {
		for _, port := range []uint16{80, 5432, testPort, 8443, servicePort} {
			if !tt.want && port == 8443 && tt.to == n.ResolverAddrs()[0] {
				continue // open to machines on purpose
			}
			to := netip.AddrPortFrom(tt.to, port)
			if tt.want && !reached(tt.from, to) {
				t.Errorf("%s: port %d is not reached", tt.name, port)
			}
			if seen, err := call(tt.from, "tcp", to, netip.Addr{}, brief); !tt.want && err == nil {
				t.Errorf("%s: port %d is answered: %v", tt.name, port, seen)
			}
		}
		if seen, err := call(tt.from, "udp", addrPort(tt.to), netip.Addr{}, brief); err == nil {
			t.Errorf("%s: a UDP port of the host answers: %v", tt.name, seen)
		}
	}
	if got, err := call(in(a), "tcp", netip.AddrPortFrom(n.ResolverAddrs()[0], 53), netip.Addr{}, patient); got != a.IPv6 {
		t.Errorf("the resolver sees %v, %v", got, err)
	}
	end()
	for from, to := range map[place]netip.Addr{in(a): shop, in(b): own4, inet.place: own6, "": own4} {
		for _, port := range []uint16{testPort, 8443} {
			if _, err := call(from, "tcp", netip.AddrPortFrom(to, port), netip.Addr{}, patient); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("without a router, %s port %d: %v, want a refusal", to, port, err)
			}
		}
	}
}

func routeTo(t *testing.T, inet internet, p netip.Prefix, gw netip.Addr) {
	t.Helper()
	err := inet.do(func() error {
		return withHandle(func(h *netlink.Handle) error {
			l, err := h.LinkByName("eth0")
			if err != nil {
				return err
			}
			return h.RouteReplace(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet(p), Gw: gw.AsSlice()})
		})
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestPoolsChange: the kernel takes in packets for the pools of now alone, and none
// that holds an address of the host.
func TestPoolsChange(t *testing.T) {
	inet := newInternet(t)
	n := newNetwork(t, Config{AppPools: []netip.Prefix{appPool4, appPool6}})
	takes := func(p netip.Prefix) bool {
		routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_LOCAL, Protocol: routesOfServices}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range routes {
			if have, ok := prefixOf(r); ok && have == p {
				return true
			}
		}
		return false
	}
	if !takes(appPool4) || !takes(appPool6) || !takes(servicePrefix(n.cfg.IPv6)) {
		t.Error("the kernel does not take in all that is the apps'")
	}
	next := openNetwork(t, Config{Dir: n.cfg.Dir, AppPools: []netip.Prefix{appPool6}})
	if err := next.Setup(t.Context()); err != nil {
		t.Fatal(err)
	}
	if takes(appPool4) || !takes(appPool6) {
		t.Error("the kernel takes in packets for a pool that is no more, or not for one that stays")
	}
	bad := openNetwork(t, Config{Dir: n.cfg.Dir, AppPools: []netip.Prefix{netip.PrefixFrom(inet.host4, 24).Masked()}})
	if err := bad.Setup(t.Context()); err == nil || !strings.Contains(err.Error(), inet.host4.String()) {
		t.Errorf("a pool with the host's own address: %v", err)
	}
}

func TestServiceAddr(t *testing.T) {
	shop, other := ServiceAddr(defaultIPv6, 7, "shop"), ServiceAddr(defaultIPv6, 7, "blog")
	if !servicePrefix(defaultIPv6).Contains(shop) || OrgOfAddr(shop) != 7 || shop == other {
		t.Errorf("%s and %s", shop, other)
	}
	if shop != netip.MustParseAddr("fdaa::7:eac6:2fd2:f482") {
		t.Errorf("shop has %s: every version must give it the same address", shop)
	}
	if a := ServiceAddr(defaultIPv6, 0, "shop"); a.IsValid() {
		t.Errorf("an app of no org has %s", a)
	}
}
