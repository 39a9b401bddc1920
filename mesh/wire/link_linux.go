package wire

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// routeProtocol marks the routes that are ours, in `ip route` too.
const routeProtocol = 157

const genModeNone = 1 // IN6_ADDR_GEN_MODE_NONE: no address of the kernel's own making

// link is the network device, apart from WireGuard.
type link struct {
	cfg  Config
	host *netlink.Handle
	dev  netlink.Link
}

func openLink(cfg Config) (link, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return link{}, fmt.Errorf("cannot open netlink: %w", err)
	}
	l, err := h.LinkByName(cfg.Device)
	if err != nil {
		h.Close()
		return link{}, fmt.Errorf("cannot find the device: %w", err)
	}
	return link{cfg, h, l}, nil
}

func (l link) close() {
	if l.host != nil {
		l.host.Close()
	}
}

// up gives the device its address and brings it up.
func (l link) up() error {
	if l.cfg.Address.Addr().Is6() {
		if err := l.allowIPv6(); err != nil {
			return err
		}
	}
	if err := l.host.LinkSetMTU(l.dev, l.cfg.MTU); err != nil {
		return fmt.Errorf("cannot set MTU %d: %w", l.cfg.MTU, err)
	}
	if err := l.setAddress(); err != nil {
		return err
	}
	if err := l.host.LinkSetUp(l.dev); err != nil {
		return fmt.Errorf("cannot bring it up: %w", err)
	}
	return nil
}

func (l link) allowIPv6() error {
	path := "/proc/sys/net/ipv6/conf/" + l.cfg.Device + "/disable_ipv6"
	off, err := os.ReadFile(path)
	if err == nil && strings.TrimSpace(string(off)) != "0" {
		err = os.WriteFile(path, []byte("0"), 0)
	}
	if err != nil {
		return fmt.Errorf("cannot use IPv6 on it: %w: the mesh needs a kernel with IPv6", err)
	}
	if err := l.host.LinkSetIP6AddrGenMode(l.dev, genModeNone); err != nil {
		return fmt.Errorf("cannot switch off addresses of the kernel's own: %w", err)
	}
	return nil
}

// setAddress also takes away those of an earlier configuration.
func (l link) setAddress() error {
	want := ipNet(l.cfg.Address)
	addr := &netlink.Addr{IPNet: want}
	if l.cfg.Address.Addr().Is6() {
		addr.Flags = unix.IFA_F_NODAD
	}
	if err := l.host.AddrReplace(l.dev, addr); err != nil {
		return fmt.Errorf("cannot give it address %s: %w", l.cfg.Address, err)
	}
	have, err := l.host.AddrList(l.dev, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("cannot list its addresses: %w", err)
	}
	for _, a := range have {
		if a.IP.IsLinkLocalUnicast() || a.IPNet.String() == want.String() {
			continue
		}
		if err := l.host.AddrDel(l.dev, &a); err != nil {
			return fmt.Errorf("cannot remove its address %s: %w", a.IPNet, err)
		}
	}
	return nil
}

// setRoutes makes these the routes to the device, of ours.
func (l link) setRoutes(want []netip.Prefix) error {
	have, err := l.routes()
	if err != nil {
		return err
	}
	for _, p := range want {
		if _, there := have[p]; there {
			continue
		}
		if err := l.host.RouteReplace(l.route(p)); err != nil {
			return fmt.Errorf("cannot add route to %s: %w", p, err)
		}
	}
	for p, r := range have {
		if slices.Contains(want, p) {
			continue
		}
		if err := l.host.RouteDel(&r); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("cannot remove route to %s: %w", p, err)
		}
	}
	return nil
}

func (l link) route(p netip.Prefix) *netlink.Route {
	r := &netlink.Route{LinkIndex: l.dev.Attrs().Index, Dst: ipNet(p), Protocol: routeProtocol}
	if p.Addr().Is4() == l.cfg.Address.Addr().Is4() {
		r.Src = l.cfg.Address.Addr().AsSlice() // what the host itself speaks from
	}
	return r
}

func (l link) routes() (map[netip.Prefix]netlink.Route, error) {
	filter := &netlink.Route{LinkIndex: l.dev.Attrs().Index, Protocol: routeProtocol}
	for {
		all, err := l.host.RouteListFiltered(netlink.FAMILY_ALL, filter, netlink.RT_FILTER_OIF|netlink.RT_FILTER_PROTOCOL)
		if errors.Is(err, netlink.ErrDumpInterrupted) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("cannot list its routes: %w", err)
		}
		out := map[netip.Prefix]netlink.Route{}
		for _, r := range all {
			if r.Dst == nil {
				continue
			}
			a, _ := netip.AddrFromSlice(r.Dst.IP)
			ones, _ := r.Dst.Mask.Size()
			out[netip.PrefixFrom(a.Unmap(), ones)] = r
		}
		return out, nil
	}
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
