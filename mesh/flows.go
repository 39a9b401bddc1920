package mesh

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// flowOfNobody matches tracked connections to or from an address of the pool
// that no machine has.
type flowOfNobody struct{ n *Network }

func (f flowOfNobody) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	return f.n.isNobodys(flow.Forward.SrcIP) || f.n.isNobodys(flow.Forward.DstIP)
}

func (n *Network) isNobodys(ip net.IP) bool {
	a, ok := netip.AddrFromSlice(ip)
	a = a.Unmap()
	_, taken := n.addrs[a]
	return ok && n.pool.Contains(a) && !taken && a.Compare(at(n.pool, slotOffset)) >= 0
}

// forgetFlows ends the tracked connections of machines that are gone, so that
// the next one with such an address receives nothing meant for it. The kernel
// walks its whole table for that. So it is done at Setup and before an address
// is used again, which a pool that goes round makes rare. IPv6 addresses are
// never used again by another machine.
func (n *Network) forgetFlows() error {
	_, err := n.host.ConntrackDeleteFilters(netlink.ConntrackTable, netlink.FAMILY_V4, flowOfNobody{n})
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return fmt.Errorf("cannot forget connections of machines that are gone: %w: the kernel needs nf_conntrack_netlink", err)
	}
	clear(n.stale)
	return nil
}
