package anycast

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ours marks our routes in the kernel, so that those which a killed process left
// behind are known.
const ours = netlink.RouteProtocol(0x70)

// takeIn has the kernel take packets for the prefixes as its own, by local routes
// to the loopback device. They hold for whole networks, and a start finds them
// as a crash left them.
func (a *Announcer) takeIn() (undo func(), err error) {
	if a.cfg.NoLocalRoutes {
		return func() {}, nil
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return nil, fmt.Errorf("cannot take in packets for the announced addresses: %w", err)
	}
	if err := forget(a.cfg.Prefixes); err != nil {
		return nil, err
	}
	for _, p := range a.cfg.Prefixes {
		if err := netlink.RouteReplace(localRoute(lo, p)); err != nil {
			return nil, fmt.Errorf("cannot take in packets for %s: %w; this needs root (CAP_NET_ADMIN)", p, err)
		}
	}
	return func() {
		if err := forget(nil); err != nil {
			a.log.Warn("the kernel still takes in packets for addresses that are not announced", "error", err)
		}
	}, nil
}

func localRoute(lo netlink.Link, p netip.Prefix) *netlink.Route {
	return &netlink.Route{
		LinkIndex: lo.Attrs().Index, Dst: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())},
		Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, Scope: scope(p), Protocol: ours,
	}
}

func scope(p netip.Prefix) netlink.Scope {
	if p.Addr().Is4() {
		return netlink.SCOPE_HOST
	}
	return netlink.SCOPE_UNIVERSE
}

// forget removes our routes but those to keep.
func forget(keep []netip.Prefix) error {
	kept := map[string]bool{}
	for _, p := range keep {
		kept[p.String()] = true
	}
	filter := &netlink.Route{Table: unix.RT_TABLE_LOCAL, Protocol: ours}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := netlink.RouteListFiltered(family, filter, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL)
		if err != nil {
			return fmt.Errorf("cannot list the routes of announced addresses: %w", err)
		}
		for _, r := range routes {
			if r.Dst == nil || kept[r.Dst.String()] {
				continue
			}
			if err := netlink.RouteDel(&r); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("cannot remove the route of %s: %w", r.Dst, err)
			}
		}
	}
	return nil
}

// nextHops are where neighbors send packets to. Unspecified is our end of the
// session.
func nextHops(cfg Config) ([2]netip.Addr, error) {
	hops := [2]netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
	for i, set := range []netip.Addr{cfg.NextHop4, cfg.NextHop6} {
		is4 := i == 0
		if !hasPrefix(cfg, is4) || hasSession(cfg, is4) {
			continue
		}
		if hops[i] = set; set.IsValid() {
			continue
		}
		var err error
		if hops[i], err = addrTowards(cfg, is4); err != nil {
			return hops, err
		}
	}
	return hops, nil
}

// addrTowards finds an address of the family on the interface to the neighbors.
func addrTowards(cfg Config, is4 bool) (netip.Addr, error) {
	family, name := netlink.FAMILY_V6, "IPv6"
	if is4 {
		family, name = netlink.FAMILY_V4, "IPv4"
	}
	var found netip.Addr
	for _, n := range cfg.Neighbors {
		routes, err := netlink.RouteGet(n.Address.AsSlice())
		if err != nil || len(routes) == 0 {
			return found, fmt.Errorf("cannot find the interface to BGP neighbor %s: %w; give next hops for the prefixes", n.Address, err)
		}
		a, err := addrOn(routes[0].LinkIndex, family)
		if err != nil {
			return found, err
		}
		if !a.IsValid() {
			return found, fmt.Errorf("cannot announce %s prefixes to neighbor %s: the interface to it has no %s address; give it one, or a next hop, or have an %s session", name, n.Address, name, name)
		}
		if found.IsValid() && found != a {
			return found, fmt.Errorf("cannot announce %s prefixes to neighbors on different interfaces over sessions of the other family; give a next hop, or have %s sessions", name, name)
		}
		found = a
	}
	return found, nil
}

func addrOn(link, family int) (netip.Addr, error) {
	dev, err := netlink.LinkByIndex(link)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("cannot look at the interface to a BGP neighbor: %w", err)
	}
	addrs, err := netlink.AddrList(dev, family)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("cannot list addresses of %s: %w", dev.Attrs().Name, err)
	}
	for _, a := range addrs {
		if ip, ok := netip.AddrFromSlice(a.IP); ok && ip.Unmap().IsGlobalUnicast() {
			return ip.Unmap(), nil
		}
	}
	return netip.Addr{}, nil
}
