package mesh

import (
	"net"
	"net/netip"
	"testing"

	"github.com/perigee-run/perigee/mesh/wire"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// sendRaw puts a packet on a device with hardware addresses, past the stack.
func sendRaw(t testing.TB, p place, dev string, pkt []byte) {
	t.Helper()
	sendLink(t, p, dev, hostMAC, pkt)
}

// sendOnWire hands a packet to WireGuard, past the firewall of the node.
func sendOnWire(t testing.TB, p place, pkt []byte) {
	t.Helper()
	sendLink(t, p, "wire0", nil, pkt)
}

func sendLink(t testing.TB, p place, dev string, mac net.HardwareAddr, pkt []byte) {
	t.Helper()
	err := p.do(func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(htons(unix.ETH_P_IPV6)))
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		l, err := net.InterfaceByName(dev)
		if err != nil {
			return err
		}
		to := &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_IPV6), Ifindex: l.Index, Halen: uint8(len(mac))}
		copy(to.Addr[:], mac)
		return unix.Sendto(fd, pkt, 0, to)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// sendTo makes one node believe that the other leads everywhere, sends, and
// brings the truth back.
func sendTo(t testing.TB, from, to *node, pkt []byte) {
	t.Helper()
	truth := to.peer()
	lie := truth
	lie.Allowed = []netip.Prefix{defaultIPv6}
	from.call(nodeCall{Op: "peers", Peers: append(from.peersBut(to), lie)})
	sendOnWire(t, from.place, pkt)
	from.call(nodeCall{Op: "peers", Peers: append(from.peersBut(to), truth)})
}

// none: while it lies, the node has one link
func (n *node) peersBut(*node) []wire.Peer { return nil }

func hardwareAddr(t testing.TB, p place, dev string) (mac net.HardwareAddr) {
	t.Helper()
	err := p.do(func() error {
		l, err := net.InterfaceByName(dev)
		if err == nil {
			mac = l.HardwareAddr
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return mac
}

// addNeighbourRoute routes the mesh to a neighbour on the device.
func addNeighbourRoute(t testing.TB, p place, dev string, mac net.HardwareAddr) {
	t.Helper()
	gw := netip.MustParseAddr("fe80::77")
	err := p.do(func() error {
		return withHandle(func(h *netlink.Handle) error {
			l, err := h.LinkByName(dev)
			if err != nil {
				return err
			}
			if err := addAddr(h, l, ipNet(netip.MustParsePrefix("fe80::99/64"))); err != nil {
				return err
			}
			if err := addAddr(h, l, hostNet(netip.MustParseAddr("2001:db8::99"))); err != nil {
				return err
			}
			if err := addNeighbour(h, l, gw, mac); err != nil {
				return err
			}
			return h.RouteReplace(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet(defaultIPv6), Gw: gw.AsSlice()})
		})
	})
	if err != nil {
		t.Fatal(err)
	}
}
