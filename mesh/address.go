package mesh

import (
	"crypto/sha256"
	"encoding/binary"
	"net"
	"net/netip"
)

// Offsets in the IPv4 pool. The first 16 addresses are ours.
const (
	gatewayOffset  = 1
	resolverOffset = 3
	slotOffset     = 16
)

const machineHost = 2 // the machine's own address in its /112

var (
	gateway6 = netip.MustParseAddr("fe80::1")
	// hostMAC is the far end of every slot, so that a machine resumed elsewhere
	// still knows its gateway. Each veth pair is a link of its own.
	hostMAC = net.HardwareAddr{0x0a, 0x58, 0, 0, 0, 0x01}
)

// PrivateIPv6 returns the address of a machine in the /16 base, by the layout
// in the package comment. It needs no network, so an API can name the address
// before the machine runs.
func PrivateIPv6(base netip.Prefix, node string, id Identity) netip.Addr {
	a := base.Masked().Addr().As16()
	binary.BigEndian.PutUint32(a[2:], field("org", id.Org))
	binary.BigEndian.PutUint32(a[6:], field("node", node))
	binary.BigEndian.PutUint32(a[10:], field("machine", id.Machine))
	binary.BigEndian.PutUint16(a[14:], machineHost)
	return netip.AddrFrom16(a)
}

// field hashes a name to 32 bits that are never 0, since 0 is ours.
func field(kind, name string) uint32 {
	sum := sha256.Sum256([]byte(kind + "\x00" + name))
	if v := binary.BigEndian.Uint32(sum[:]); v != 0 {
		return v
	}
	return 1
}

// resolver6 is base::3.
func resolver6(base netip.Prefix) netip.Addr {
	a := base.Masked().Addr().As16()
	a[15] = resolverOffset
	return netip.AddrFrom16(a)
}

// at returns the n-th address of an IPv4 pool.
func at(pool netip.Prefix, n int) netip.Addr {
	a := pool.Masked().Addr().As4()
	binary.BigEndian.PutUint32(a[:], binary.BigEndian.Uint32(a[:])+uint32(n))
	return netip.AddrFrom4(a)
}

// slotCount is how many slots a pool has room for; its last address stays unused.
func slotCount(pool netip.Prefix) int {
	return 1<<(32-pool.Bits()) - slotOffset - 1
}

// guestMAC is made from the slot's IPv4 address, as CNI does.
func guestMAC(ip netip.Addr) net.HardwareAddr {
	a := ip.As4()
	return net.HardwareAddr{0x0a, 0x58, a[0], a[1], a[2], a[3]}
}

func hostNet(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
