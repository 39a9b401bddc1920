package mesh

import (
	"errors"
	"net/netip"
	"os"
	"testing"
	"time"
)

const testPort = 8080

// TestWhoReachesWhom is the firewall as a table: from, to, and whether it works.
func TestWhoReachesWhom(t *testing.T) {
	inet := newInternet(t)
	n := newNetwork(t, Config{HostPorts: []uint16{8443}})
	a1, a2 := machineSlot(t, n, "acme", "a1"), machineSlot(t, n, "acme", "a2")
	b1, idle := machineSlot(t, n, "bold", "b1"), acquire(t, n)
	resolver6, resolver4 := n.ResolverAddrs()[0], n.ResolverAddrs()[1]

	for _, s := range []*Slot{a1, a2, b1} {
		serve(t, in(s), addrPort(s.IPv4))
		serve(t, in(s), addrPort(s.IPv6))
	}
	for _, a := range []netip.Addr{inet.v4, inet.v6} {
		serve(t, inet.place, addrPort(a))
	}
	for _, port := range []uint16{53, testPort, 8443} {
		serve(t, "", netip.AddrPortFrom(resolver4, port))
		serve(t, "", netip.AddrPortFrom(resolver6, port))
		serve(t, "", netip.AddrPortFrom(inet.host4, port))
	}
	for _, m := range []string{"169.254.169.254", "fd00:ec2::254"} {
		becomes(t, inet, netip.MustParseAddr(m))
		serve(t, inet.place, netip.AddrPortFrom(netip.MustParseAddr(m), testPort))
	}
	becomes(t, inet, netip.MustParseAddr("192.168.77.1")) // a network beside the host
	serve(t, inet.place, netip.MustParseAddrPort("192.168.77.1:8080"))
	routeHome(t, inet, n)

	nobody := n.PrivateIPv6(Identity{Org: "acme", Machine: "nobody"})
	tests := []struct {
		name string
		from place
		to   netip.Addr
		port uint16
		want netip.Addr // address that the other end sees, invalid if blocked
	}{
		{"host to machine, IPv4", "", a1.IPv4, testPort, a1.Gateway4},
		{"host to machine, IPv6", "", a1.IPv6, testPort, resolver6},
		{"same org, IPv4", in(a1), a2.IPv4, testPort, a1.IPv4},
		{"same org, IPv6", in(a2), a1.IPv6, testPort, a2.IPv6},
		{"itself", in(a1), a1.IPv6, testPort, a1.IPv6},
		{"other org, IPv4", in(a1), b1.IPv4, testPort, netip.Addr{}},
		{"other org, IPv6", in(a1), b1.IPv6, testPort, netip.Addr{}},
		{"other org, back", in(b1), a1.IPv6, testPort, netip.Addr{}},
		{"nobody's address", in(a1), nobody, testPort, netip.Addr{}},
		{"internet, IPv4", in(a1), inet.v4, testPort, inet.host4},
		{"internet, IPv6", in(a1), inet.v6, testPort, inet.host6},
		{"local network beside", in(b1), netip.MustParseAddr("192.168.77.1"), testPort, inet.host4},
		{"metadata, IPv4", in(a1), netip.MustParseAddr("169.254.169.254"), testPort, netip.Addr{}},
		{"metadata, IPv6", in(a1), netip.MustParseAddr("fd00:ec2::254"), testPort, netip.Addr{}},
		{"resolver, IPv4", in(a1), resolver4, 53, a1.IPv4},
		{"resolver, IPv6", in(b1), resolver6, 53, b1.IPv6},
		{"host's port", in(a1), resolver4, testPort, netip.Addr{}},
		{"host's port, IPv6", in(a1), resolver6, testPort, netip.Addr{}},
		{"host's port, public address", in(a1), inet.host4, testPort, netip.Addr{}},
		{"host's port 53, public address", in(a1), inet.host4, 53, netip.Addr{}},
		{"slot of nobody, out", in(idle), inet.v4, testPort, netip.Addr{}},
		{"slot of nobody, resolver", in(idle), resolver4, 53, netip.Addr{}},
		{"internet to machine, IPv4", inet.place, a1.IPv4, testPort, netip.Addr{}},
		{"internet to machine, IPv6", inet.place, a1.IPv6, testPort, netip.Addr{}},
	}
	for _, tt := range tests {
		for _, network := range []string{"tcp", "udp"} {
			t.Run(tt.name+", "+network, func(t *testing.T) {
				timeout := brief
				if tt.want.IsValid() {
					timeout = patient
				}
				got, err := call(tt.from, network, netip.AddrPortFrom(tt.to, tt.port), netip.Addr{}, timeout)
				if got != tt.want {
					t.Errorf("other end saw %v, want %v (%v)", got, tt.want, err)
				}
			})
		}
	}
	t.Run("open host port is TCP only", func(t *testing.T) {
		if got, err := call(in(a1), "tcp", netip.AddrPortFrom(inet.host4, 8443), netip.Addr{}, patient); got != a1.IPv4 {
			t.Errorf("got %v, %v", got, err)
		}
		if got, _ := call(in(a1), "udp", netip.AddrPortFrom(inet.host4, 8443), netip.Addr{}, brief); got.IsValid() {
			t.Errorf("UDP passed, from %v", got)
		}
	})
	t.Run("refusals are answers", func(t *testing.T) {
		for _, to := range []netip.Addr{b1.IPv4, b1.IPv6, nobody, resolver4} {
			began := time.Now()
			_, err := call(in(a1), "tcp", addrPort(to), netip.Addr{}, patient)
			if took := time.Since(began); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%s: %v after %v", to, err, took)
			}
		}
	})
	t.Run("spoofed source", func(t *testing.T) {
		for _, fake := range []netip.Addr{a2.IPv4, inet.host4, b1.IPv6} {
			addGuestAddr(t, a1, fake)
			to, network := inet.v4, "udp"
			if fake.Is6() {
				to = inet.v6
			}
			if got, _ := call(in(a1), network, addrPort(to), fake, brief); got.IsValid() {
				t.Errorf("packet from %s passed", fake)
			}
		}
	})
}

// TestOrgChange: a slot that changes hands loses what the old owner could reach.
func TestOrgChange(t *testing.T) {
	n := newNetwork(t, Config{})
	a, b := machineSlot(t, n, "acme", "a"), machineSlot(t, n, "acme", "b")
	serve(t, in(b), addrPort(b.IPv4))
	to := addrPort(b.IPv4)
	if _, err := call(in(a), "tcp", to, netip.Addr{}, patient); err != nil {
		t.Fatal(err)
	}
	old := a.IPv6
	if err := n.Assign(t.Context(), a, Identity{Org: "bold", Machine: "a"}); err != nil {
		t.Fatal(err)
	}
	if _, err := call(in(a), "tcp", to, netip.Addr{}, brief); err == nil {
		t.Error("the new org reaches a machine of the old one")
	}
	if _, known := n.Lookup(old); known {
		t.Error("the old address is still known")
	}
	if org, _ := n.OrgOf(a.IPv4); org != "bold" {
		t.Errorf("org of %s is %q", a.IPv4, org)
	}
}
