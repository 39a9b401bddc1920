package mesh

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const guestDevice = "eth0"

// aliasMax is what the kernel keeps of a device's alias.
const aliasMax = 255

// build makes the namespace and the veth pair and configures both ends. The
// alias comes last: a device without one is half-made.
func (n *Network) build(s *Slot) error {
	err := makeNamespace(s.NetnsPath, func() error {
		if err := n.addPair(s); err != nil {
			return err
		}
		return prepareGuest(s)
	})
	if err != nil {
		return err
	}
	return n.prepareHost(s)
}

// addPair runs inside the new namespace but speaks to the host's.
func (n *Network) addPair(s *Slot) error {
	ns, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer ns.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = s.HostDevice, s.MTU, hostMAC
	veth := netlink.NewVeth(attrs)
	veth.PeerName, veth.PeerMTU, veth.PeerHardwareAddr = guestDevice, uint32(s.MTU), guestMAC(s.IPv4)
	veth.PeerNamespace = netlink.NsFd(ns.Fd())
	if err := n.host.LinkAdd(veth); err != nil {
		return fmt.Errorf("cannot make device %q: %w", s.HostDevice, err)
	}
	return nil
}

// prepareGuest runs inside the slot's namespace, once. The namespace may have
// inherited forwarding from the host; then it would answer for the sandbox.
func prepareGuest(s *Slot) error {
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("0"), 0); err != nil {
		return fmt.Errorf("cannot switch off forwarding in namespace: %w", err)
	}
	return withHandle(func(h *netlink.Handle) error {
		lo, err := h.LinkByName("lo")
		if err != nil {
			return err
		}
		if err := h.LinkSetUp(lo); err != nil {
			return fmt.Errorf("cannot bring up lo: %w", err)
		}
		eth, err := h.LinkByName(guestDevice)
		if err != nil {
			return err
		}
		if err := bringUp(h, eth, s.Gateway6.IsValid()); err != nil {
			return err
		}
		return addressGuest(h, eth, s)
	})
}

// configureGuest gives the guest's end its addresses, routes and neighbours,
// also when an earlier sandbox took them away.
func (n *Network) configureGuest(s *Slot) error {
	return inNamespace(s.NetnsPath, func() error {
		return withHandle(func(h *netlink.Handle) error {
			eth, err := h.LinkByName(guestDevice)
			if err != nil {
				return fmt.Errorf("cannot find %s in namespace %q: %w", guestDevice, s.NetnsPath, err)
			}
			return addressGuest(h, eth, s)
		})
	})
}

func withHandle(f func(*netlink.Handle) error) error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("cannot open netlink: %w", err)
	}
	defer h.Close()
	return f(h)
}

// bringUp keeps the device from making addresses, and so traffic, of its own.
// It must run in the device's namespace, for the sysctl.
func bringUp(h *netlink.Handle, l netlink.Link, ipv6 bool) error {
	if ipv6 {
		if err := setSysctl("net/ipv6/conf/"+l.Attrs().Name+"/disable_ipv6", "0"); err != nil {
			return err
		}
		if err := h.LinkSetIP6AddrGenMode(l, nl6None); err != nil {
			return fmt.Errorf("cannot switch off own addresses of %q: %w", l.Attrs().Name, err)
		}
	}
	if err := h.LinkSetUp(l); err != nil {
		return fmt.Errorf("cannot bring up %q: %w", l.Attrs().Name, err)
	}
	return nil
}

const nl6None = 1 // IN6_ADDR_GEN_MODE_NONE

func addressGuest(h *netlink.Handle, eth netlink.Link, s *Slot) error {
	if err := removeStrayAddrs(h, eth, s); err != nil {
		return err
	}
	if err := addAddr(h, eth, hostNet(s.IPv4)); err != nil {
		return err
	}
	if err := addGateway(h, eth, s.Gateway4); err != nil {
		return err
	}
	if !s.IPv6.IsValid() {
		return nil
	}
	if err := addAddr(h, eth, &net.IPNet{IP: s.IPv6.AsSlice(), Mask: net.CIDRMask(112, 128)}); err != nil {
		return err
	}
	return addGateway(h, eth, s.Gateway6)
}

// removeStrayAddrs takes away the address of an earlier owner.
func removeStrayAddrs(h *netlink.Handle, eth netlink.Link, s *Slot) error {
	if !s.Gateway6.IsValid() {
		return nil
	}
	addrs, err := h.AddrList(eth, netlink.FAMILY_V6)
	if err != nil {
		return fmt.Errorf("cannot list addresses of %s: %w", guestDevice, err)
	}
	for _, a := range addrs {
		if a.IP.IsLinkLocalUnicast() || a.IP.Equal(s.IPv6.AsSlice()) {
			continue
		}
		if err := h.AddrDel(eth, &a); err != nil {
			return fmt.Errorf("cannot remove address %s: %w", a.IP, err)
		}
	}
	return nil
}

// addAddr skips duplicate address detection, which would hold the address back
// for a second, on a link where only we give addresses.
func addAddr(h *netlink.Handle, l netlink.Link, ip *net.IPNet) error {
	a := &netlink.Addr{IPNet: ip}
	if ip.IP.To4() == nil {
		a.Flags = unix.IFA_F_NODAD
	}
	if ip.IP.IsLinkLocalUnicast() {
		a.Scope = int(netlink.SCOPE_LINK)
	}
	if err := h.AddrReplace(l, a); err != nil {
		return fmt.Errorf("cannot add address %s to %q: %w", ip, l.Attrs().Name, err)
	}
	return nil
}

// addGateway makes gw the neighbour that every packet goes to. A link-local
// gateway needs no route to itself.
func addGateway(h *netlink.Handle, l netlink.Link, gw netip.Addr) error {
	if err := addNeighbour(h, l, gw, hostMAC); err != nil {
		return err
	}
	idx := l.Attrs().Index
	if gw.Is4() {
		onlink := &netlink.Route{LinkIndex: idx, Dst: hostNet(gw), Scope: netlink.SCOPE_LINK}
		if err := h.RouteReplace(onlink); err != nil {
			return fmt.Errorf("cannot add route to gateway %s: %w", gw, err)
		}
	}
	def := &netlink.Route{LinkIndex: idx, Dst: ipNet(netip.PrefixFrom(unspecified(gw), 0)), Gw: gw.AsSlice()}
	if err := h.RouteReplace(def); err != nil {
		return fmt.Errorf("cannot add default route via %s: %w", gw, err)
	}
	return nil
}

func unspecified(like netip.Addr) netip.Addr {
	if like.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

func addNeighbour(h *netlink.Handle, l netlink.Link, a netip.Addr, mac net.HardwareAddr) error {
	neigh := &netlink.Neigh{LinkIndex: l.Attrs().Index, IP: a.AsSlice(), HardwareAddr: mac, State: netlink.NUD_PERMANENT}
	if err := h.NeighSet(neigh); err != nil {
		return fmt.Errorf("cannot add neighbour %s on %q: %w", a, l.Attrs().Name, err)
	}
	return nil
}

// prepareHost configures the host's end, once.
func (n *Network) prepareHost(s *Slot) error {
	l, err := n.host.LinkByName(s.HostDevice)
	if err != nil {
		return fmt.Errorf("cannot find device %q: %w", s.HostDevice, err)
	}
	if err := bringUp(n.host, l, s.Gateway6.IsValid()); err != nil {
		return err
	}
	if s.Gateway6.IsValid() {
		if err := addAddr(n.host, l, &net.IPNet{IP: gateway6.AsSlice(), Mask: net.CIDRMask(64, 128)}); err != nil {
			return err
		}
	}
	if err := n.addPeer(l, s.IPv4, s.Gateway4, s); err != nil {
		return err
	}
	return n.setAlias(l, s.Identity)
}

// addPeer routes one address of the guest to its device; src is what the host
// itself, so the router, speaks from.
func (n *Network) addPeer(l netlink.Link, peer, src netip.Addr, s *Slot) error {
	if err := addNeighbour(n.host, l, peer, guestMAC(s.IPv4)); err != nil {
		return err
	}
	r := &netlink.Route{LinkIndex: l.Attrs().Index, Dst: hostNet(peer), Src: src.AsSlice()}
	if peer.Is4() {
		r.Scope = netlink.SCOPE_LINK
	}
	if err := n.host.RouteReplace(r); err != nil {
		return fmt.Errorf("cannot add route to %s on %q: %w", peer, s.HostDevice, err)
	}
	return nil
}

// configure moves both ends of a slot from the old owner to the next. In
// between the slot is nobody's, also if the daemon is killed there.
func (n *Network) configure(old, next *Slot, group uint32) error {
	if err := n.configureGuest(next); err != nil {
		return err
	}
	l, err := n.host.LinkByName(next.HostDevice)
	if err != nil {
		return fmt.Errorf("cannot find device %q: %w", next.HostDevice, err)
	}
	if old.Assigned() && old.Identity != next.Identity {
		if err := n.disown(l, old); err != nil {
			return err
		}
	}
	if next.IPv6.IsValid() {
		if err := n.addPeer(l, next.IPv6, resolver6(n.cfg.IPv6), next); err != nil {
			return err
		}
	}
	if old.Identity == next.Identity {
		return nil
	}
	if err := n.setAlias(l, next.Identity); err != nil {
		return err
	}
	return n.setGroup(l, group)
}

func (n *Network) disown(l netlink.Link, old *Slot) error {
	if err := n.setGroup(l, 0); err != nil {
		return err
	}
	if !old.IPv6.IsValid() {
		return nil
	}
	return n.removePeer(l, old.IPv6)
}

// setGroup says which org the device is of; 0 is none.
func (n *Network) setGroup(l netlink.Link, group uint32) error {
	if err := n.host.LinkSetGroup(l, int(group)); err != nil {
		return fmt.Errorf("cannot set group of device %q: %w", l.Attrs().Name, err)
	}
	return nil
}

func (n *Network) removePeer(l netlink.Link, peer netip.Addr) error {
	idx := l.Attrs().Index
	err := n.host.RouteDel(&netlink.Route{LinkIndex: idx, Dst: hostNet(peer)})
	if err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("cannot remove route to %s: %w", peer, err)
	}
	err = n.host.NeighDel(&netlink.Neigh{LinkIndex: idx, IP: peer.AsSlice()})
	if err != nil && !errors.Is(err, syscall.ENOENT) {
		return fmt.Errorf("cannot remove neighbour %s: %w", peer, err)
	}
	return nil
}

// setAlias writes whose the device is into the kernel, for the next daemon and
// for people at `ip link`.
func (n *Network) setAlias(l netlink.Link, id Identity) error {
	text, err := json.Marshal(id)
	if err != nil {
		return err
	}
	if len(text) > aliasMax {
		return fmt.Errorf("its names take %d bytes, more than the %d a device can remember: use shorter ones", len(text), aliasMax)
	}
	if err := n.host.LinkSetAlias(l, string(text)); err != nil {
		return fmt.Errorf("cannot write owner of device %q: %w", l.Attrs().Name, err)
	}
	return nil
}

// links lists the devices of ours, again if a change elsewhere cut the list short.
func (n *Network) links() ([]netlink.Link, error) {
	for {
		all, err := n.host.LinkList()
		if errors.Is(err, netlink.ErrDumpInterrupted) {
			continue
		}
		var ours []netlink.Link
		for _, l := range all {
			if strings.HasPrefix(l.Attrs().Name, n.cfg.Prefix+"-") {
				ours = append(ours, l)
			}
		}
		return ours, err
	}
}

// slotID reads the id from a device's name.
func (n *Network) slotID(device string) (int, bool) {
	digits, ours := strings.CutPrefix(device, n.cfg.Prefix+"-")
	id, err := strconv.Atoi(digits)
	return id, ours && err == nil && n.device(id) == device
}

// deleteDevice speaks through a socket of its own: the kernel takes tens of
// milliseconds to let a device go, and Assign must not wait for that.
func (n *Network) deleteDevice(name string) error {
	l, err := n.host.LinkByName(name)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot find device %q: %w", name, err)
	}
	return n.deleteLink(l)
}

func (n *Network) deleteLink(l netlink.Link) error {
	return withHandle(func(h *netlink.Handle) error {
		if err := h.LinkDel(l); err != nil && !errors.Is(err, syscall.ENODEV) {
			return fmt.Errorf("cannot remove device %q: %w", l.Attrs().Name, err)
		}
		return nil
	})
}
