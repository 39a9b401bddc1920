package mesh

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// flowsOf matches the tracked connections that an address is an end of.
type flowsOf struct{ addr netip.Addr }

func (f flowsOf) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	ip := f.addr.AsSlice()
	return flow.Forward.SrcIP.Equal(ip) || flow.Forward.DstIP.Equal(ip)
}

// forgetFlows ends the tracked connections of a machine that is gone, so that
// the next one with its address receives nothing meant for it.
func (n *Network) forgetFlows(addrs ...netip.Addr) error {
	var errs []error
	for _, a := range addrs {
		if !a.IsValid() {
			continue
		}
		family := netlink.InetFamily(netlink.FAMILY_V4)
		if a.Is6() {
			family = netlink.FAMILY_V6
		}
		_, err := n.host.ConntrackDeleteFilters(netlink.ConntrackTable, family, flowsOf{a})
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			errs = append(errs, fmt.Errorf("cannot forget connections of %s: %w", a, err))
		}
	}
	return errors.Join(errs...)
}
