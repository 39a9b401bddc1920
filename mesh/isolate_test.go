package mesh

import (
	"net/netip"
	"testing"
)

// TestIsolate: a slot of no org reaches the internet and the resolver, and nothing
// of ours: no node, no machine, not its like. A restart does not change that.
func TestIsolate(t *testing.T) {
	inet := newInternet(t)
	dir := t.TempDir()
	first := newNetwork(t, Config{Dir: dir})
	machine := machineSlot(t, first, "acme", "m")
	one, two := isolated(t, first, "one"), isolated(t, first, "two")
	resolver6, resolver4 := first.ResolverAddrs()[0], first.ResolverAddrs()[1]
	node := NodeAddr(first.cfg.IPv6, first.cfg.NodeNumber)
	local, err := first.host.LinkByName(first.localDevice())
	if err == nil {
		err = addAddr(first.host, local, hostNet(node))
	}
	if err != nil {
		t.Fatal(err)
	}

	open := []netip.AddrPort{addrPort(inet.v4), addrPort(inet.v6), netip.AddrPortFrom(resolver4, 53), netip.AddrPortFrom(resolver6, 53)}
	metadata := netip.MustParseAddr("169.254.169.254")
	becomes(t, inet, metadata)
	var shut []netip.AddrPort
	for _, p := range []uint16{4280, 4281, HostRouterPort, servicePort} {
		shut = append(shut, netip.AddrPortFrom(node, p), netip.AddrPortFrom(resolver4, p), netip.AddrPortFrom(inet.host4, p))
	}
	for _, s := range []*Slot{machine, two} {
		shut = append(shut, addrPort(s.IPv4), addrPort(s.IPv6))
	}
	serve(t, in(machine), addrPort(machine.IPv4))
	serve(t, in(machine), addrPort(machine.IPv6))
	for _, to := range []netip.AddrPort{open[0], open[1], addrPort(metadata)} {
		serve(t, inet.place, to)
	}
	for _, to := range append(shut[:12:12], open[2:]...) {
		serve(t, "", to)
	}
	shut = append(shut, addrPort(metadata))
	routeHome(t, inet, first)

	check := func(t *testing.T) {
		for _, to := range open {
			if got, err := call(in(one), "tcp", to, netip.Addr{}, patient); err != nil {
				t.Errorf("%s: seen as %v: %v", to, got, err)
			}
		}
		for _, to := range shut {
			for _, network := range []string{"tcp", "udp"} {
				if got, _ := call(in(one), network, to, netip.Addr{}, brief); got.IsValid() {
					t.Errorf("%s %s is reached, from %v", network, to, got)
				}
			}
		}
		for _, to := range []netip.AddrPort{addrPort(one.IPv4), addrPort(one.IPv6)} {
			if got, _ := call(in(machine), "tcp", to, netip.Addr{}, brief); got.IsValid() {
				t.Errorf("a machine reaches %s", to)
			}
		}
	}
	t.Run("made", check)
	n := newNetwork(t, Config{Dir: dir})
	for _, s := range n.Slots() {
		if s.Isolated() != (s.ID != machine.ID) {
			t.Errorf("slot %d of %q: isolated %v", s.ID, s.Identity.Machine, s.Isolated())
		}
	}
	t.Run("found again", check)
	if err := n.Release(t.Context(), one); err != nil {
		t.Error(err)
	}
	if err := n.Release(t.Context(), two); err != nil {
		t.Error(err)
	}
}

func isolated(t *testing.T, n *Network, name string) *Slot {
	t.Helper()
	s := acquire(t, n)
	if err := n.Isolate(t.Context(), s, name); err != nil {
		t.Fatal(err)
	}
	serve(t, in(s), addrPort(s.IPv4))
	serve(t, in(s), addrPort(s.IPv6))
	return s
}
