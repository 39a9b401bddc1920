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

const (
	nodeHost    = 1 // a node, in org 0
	machineHost = 2 // the machine's own address in its /112
	peerHost    = 4 // a laptop; so that it is never a machine's
)

// Where the fields of a private IPv6 address begin, in bytes.
const (
	nodeByte    = 2
	orgByte     = 6
	machineByte = 10
	hostByte    = 14
)

var (
	gateway6 = netip.MustParseAddr("fe80::1")
	// hostMAC is the far end of every slot, so that a machine resumed elsewhere
	// still knows its gateway. Each veth pair is a link of its own.
	hostMAC = net.HardwareAddr{0x0a, 0x58, 0, 0, 0, 0x01}
)

// PrivateIPv6 returns the address of a machine in the /16 base, by the layout
// in the package comment. It needs no network, so an API can name the address
// before the machine runs.
func PrivateIPv6(base netip.Prefix, node, org uint32, machine string) netip.Addr {
	return private(base, node, org, field("machine", machine), machineHost)
}

// PeerAddr returns the address of a laptop that enters the mesh at the node.
func PeerAddr(base netip.Prefix, node, org uint32, name string) netip.Addr {
	return private(base, node, org, field("peer", name), peerHost)
}

// NodeAddr returns the address of the node itself, which is in org 0.
func NodeAddr(base netip.Prefix, number uint32) netip.Addr {
	return private(base, number, 0, 0, nodeHost)
}

// NodePrefix returns the /48 that holds every address of the node: the one
// route that other nodes have to it.
func NodePrefix(base netip.Prefix, number uint32) netip.Prefix {
	return netip.PrefixFrom(private(base, number, 0, 0, 0), 48)
}

// NodeOfAddr returns the number of the node that an address of ours is on.
func NodeOfAddr(a netip.Addr) uint32 { return number(a, nodeByte) }

// OrgOfAddr returns the number of the org that an address of ours belongs to.
func OrgOfAddr(a netip.Addr) uint32 { return number(a, orgByte) }

// ResolverAddr returns base::3, where every node's resolver listens.
func ResolverAddr(base netip.Prefix) netip.Addr { return resolver6(base) }

func number(a netip.Addr, from int) uint32 {
	b := a.As16()
	return binary.BigEndian.Uint32(b[from:])
}

func private(base netip.Prefix, node, org, machine uint32, host uint16) netip.Addr {
	a := base.Masked().Addr().As16()
	binary.BigEndian.PutUint32(a[nodeByte:], node)
	binary.BigEndian.PutUint32(a[orgByte:], org)
	binary.BigEndian.PutUint32(a[machineByte:], machine)
	binary.BigEndian.PutUint16(a[hostByte:], host)
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
