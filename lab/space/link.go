//go:build linux

package space

import (
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func bringUp(device string) error {
	return withLink(device, func(h *netlink.Handle, l netlink.Link) error { return h.LinkSetUp(l) })
}

func withLink(device string, f func(*netlink.Handle, netlink.Link) error) error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("cannot open netlink: %w", err)
	}
	defer h.Close()
	l, err := h.LinkByName(device)
	if err != nil {
		return fmt.Errorf("cannot find device %q: %w", device, err)
	}
	if err := f(h, l); err != nil {
		return fmt.Errorf("cannot set up device %q: %w", device, err)
	}
	return nil
}

// Configure gives the host's device its addresses and sends everything there
// that is not local. The device takes no addresses of its own.
func (s *Space) Configure(device string, mtu int, addrs []netip.Prefix) error {
	return s.Do(func() error {
		quiet := "/proc/sys/net/ipv6/conf/" + device + "/accept_dad"
		_ = os.WriteFile(quiet, []byte("0"), 0) // there is none without IPv6
		return withLink(device, func(h *netlink.Handle, l netlink.Link) error { return address(h, l, mtu, addrs) })
	})
}

const noOwnAddresses = 1 // IN6_ADDR_GEN_MODE_NONE

func address(h *netlink.Handle, l netlink.Link, mtu int, addrs []netip.Prefix) error {
	if err := h.LinkSetMTU(l, mtu); err != nil {
		return err
	}
	if err := h.LinkSetIP6AddrGenMode(l, noOwnAddresses); err != nil {
		return err
	}
	if err := h.LinkSetUp(l); err != nil {
		return err
	}
	for _, p := range addrs {
		if err := addAddr(h, l, p); err != nil {
			return err
		}
	}
	for _, all := range []string{"0.0.0.0/0", "::/0"} {
		r := &netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet(netip.MustParsePrefix(all)), Scope: netlink.SCOPE_LINK}
		if err := h.RouteReplace(r); err != nil {
			return fmt.Errorf("route %s: %w", all, err)
		}
	}
	return nil
}

// AddAddr puts an address on the loopback device: that of a service, which the
// host answers for beside its own.
func (s *Space) AddAddr(a netip.Addr) error {
	return s.Do(func() error {
		return withLink("lo", func(h *netlink.Handle, l netlink.Link) error {
			return addAddr(h, l, netip.PrefixFrom(a, a.BitLen()))
		})
	})
}

// addAddr skips duplicate address detection, which would hold the address back
// for a second, where only the lab gives addresses.
func addAddr(h *netlink.Handle, l netlink.Link, p netip.Prefix) error {
	a := &netlink.Addr{IPNet: ipNet(p)}
	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	if err := h.AddrReplace(l, a); err != nil {
		return fmt.Errorf("address %s: %w", p, err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
