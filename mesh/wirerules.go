package mesh

import (
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// HostRouterPort is the one port that other nodes reach on a node's own address.
const HostRouterPort = 4284

// Offsets of the addresses in the IPv6 header.
const (
	source6      = 8
	destination6 = 24
)

// wireSourceRules drop what a packet from the wire may not say it is. WireGuard
// lets a node speak for its /48 and a laptop for its one address; here a source
// must also be one that we route to the wire, so never an address of our own.
func (n *Network) wireSourceRules(r rules) {
	if n.cfg.Wire == "" {
		return
	}
	r.add(n.fromWire(), family(unix.NFPROTO_IPV4), drop())
	r.add(n.fromWire(), elsewhere(n.cfg.IPv6, source6), drop())
	r.add(n.fromWire(), notRoutedBack(), drop())
}

// wireInputRules keep the wire, and everybody else outside, from the host. A
// node may speak to our host router, a laptop of ours to the resolver and to the
// apps of its org.
func (n *Network) wireInputRules(r rules, f firewall) {
	own := NodePrefix(n.cfg.IPv6, n.cfg.NodeNumber)
	resolver := netip.PrefixFrom(resolver6(n.cfg.IPv6), 128)
	if n.cfg.Wire != "" {
		r.add(n.fromWire(), tracked(), accept())
		for _, p := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
			r.add(n.fromWire(), fromNode(), daddr(n.ownAddr()), port(p, HostRouterPort), accept())
			r.add(n.fromWire(), saddr(own), daddr(resolver), port(p, 53), accept())
		}
		r.add(n.fromWire(), saddr(own), daddr(resolver), icmp6(icmp6Echo), accept())
		n.laptopServiceRules(r, f)
		r.refuse(n.fromWire())
	}
	// A neighbour on the host's own network could send us packets for addresses
	// that no device there has.
	for _, p := range []netip.Prefix{own, servicePrefix(n.cfg.IPv6)} {
		r.add(n.notFromMachine(), device(expr.MetaKeyIIFNAME, expr.CmpOpNeq, "lo"), daddr(p), drop())
	}
}

// wireForwardRules let orgs reach themselves on other nodes. The org's number is
// in both addresses, and the sender's node has seen to it that the source is true.
func (n *Network) wireForwardRules(r rules, f firewall) {
	if n.cfg.Wire == "" {
		return
	}
	own := NodePrefix(n.cfg.IPv6, n.cfg.NodeNumber)
	clampSegments(r, n.fromWire())
	clampSegments(r, n.toWire())

	r.add(n.fromMachine(), n.toWire(), orgAndGroup(destination6, expr.MetaKeyIIFGROUP), member(f.remote), accept())
	r.refuse(n.fromMachine(), n.toWire())
	// Without the link, as while the daemon restarts, a new connection fails at
	// once and one that stands waits: a reset would end it.
	r.add(n.fromMachine(), orgAndGroup(destination6, expr.MetaKeyIIFGROUP), member(f.remote), elsewhere(own, destination6), noRoute())
	r.add(n.fromWire(), n.toMachine(), orgAndGroup(source6, expr.MetaKeyOIFGROUP), member(f.remote), accept())
	r.add(n.fromWire(), n.toMachine(), proto(unix.IPPROTO_ICMPV6), state(expr.CtStateBitRELATED), accept())
	r.refuse(n.fromWire(), n.toMachine())

	for _, one := range [][]expr.Any{saddr(own), daddr(own)} { // one end is a laptop of ours
		r.add(n.fromWire(), n.toWire(), one, bothOrgs(), member(f.laptops), accept())
		r.add(n.fromWire(), n.toWire(), one, proto(unix.IPPROTO_ICMPV6), state(expr.CtStateBitRELATED), accept())
	}
	r.refuse(n.fromWire())
	r.add(n.toWire(), drop())
}

func (n *Network) ownAddr() netip.Prefix {
	return netip.PrefixFrom(NodeAddr(n.cfg.IPv6, n.cfg.NodeNumber), 128)
}

func (n *Network) fromWire() []expr.Any {
	return device(expr.MetaKeyIIFNAME, expr.CmpOpEq, n.cfg.Wire)
}

func (n *Network) toWire() []expr.Any {
	return device(expr.MetaKeyOIFNAME, expr.CmpOpEq, n.cfg.Wire)
}

// device compares the whole name, so that the device may come and go.
func device(key expr.MetaKey, op expr.CmpOp, name string) []expr.Any {
	return []expr.Any{meta(key, regKey), &expr.Cmp{Op: op, Register: regKey, Data: ifname(name)}}
}

// elsewhere matches an IPv6 address outside of p.
func elsewhere(p netip.Prefix, offset uint32) []expr.Any {
	size := uint32(p.Bits() / 8)
	return append(load(regKey, offset, size),
		&expr.Cmp{Op: expr.CmpOpNeq, Register: regKey, Data: p.Addr().AsSlice()[:size]})
}

// fromNode matches the address of a node, whichever: org 0, machine 0, host 1.
func fromNode() []expr.Any {
	tail := make([]byte, 10)
	tail[9] = nodeHost
	return append(append(family(unix.NFPROTO_IPV6), load(regKey, source6+orgByte, 10)...),
		&expr.Cmp{Op: expr.CmpOpEq, Register: regKey, Data: tail})
}

// orgAndGroup makes one key of the org number in an address and the group of a device.
func orgAndGroup(address uint32, group expr.MetaKey) []expr.Any {
	return append(append(family(unix.NFPROTO_IPV6), load(regFirst, address+orgByte, 4)...), meta(group, regSecond))
}

// bothOrgs makes one key of the org numbers in both addresses.
func bothOrgs() []expr.Any {
	return append(append(family(unix.NFPROTO_IPV6), load(regFirst, source6+orgByte, 4)...), load(regSecond, destination6+orgByte, 4)...)
}

// state matches tracked packets in one of the states.
func state(bits uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: regKey},
		&expr.Bitwise{SourceRegister: regKey, DestRegister: regKey, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: regKey, Data: make([]byte, 4)},
	}
}

func noRoute() []expr.Any {
	return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_NO_ROUTE}}
}

const (
	tcpOptionSize = 2 // maximum segment size
	tcpFlagsByte  = 13
	tcpSYN        = 2
)

// clampSegments tells both ends of a connection what fits through the wire, for
// those that do not heed "packet too big".
func clampSegments(r rules, match []expr.Any) {
	r.add(match, proto(unix.IPPROTO_TCP), []expr.Any{
		&expr.Payload{DestRegister: regKey, Base: expr.PayloadBaseTransportHeader, Offset: tcpFlagsByte, Len: 1},
		&expr.Bitwise{SourceRegister: regKey, DestRegister: regKey, Len: 1, Mask: []byte{tcpSYN}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: regKey, Data: []byte{0}},
		&expr.Rt{Register: regKey, Key: expr.RtTCPMSS},
		&expr.Byteorder{SourceRegister: regKey, DestRegister: regKey, Op: expr.ByteorderHton, Len: 2, Size: 2},
		&expr.Exthdr{SourceRegister: regKey, Type: tcpOptionSize, Offset: 2, Len: 2, Op: expr.ExthdrOpTcpopt},
	})
}

func remoteElement(o org) nftables.SetElement {
	return nftables.SetElement{Key: append(binaryutil.BigEndian.PutUint32(o.number), binaryutil.NativeEndian.PutUint32(o.group)...)}
}

func laptopElement(number uint32) nftables.SetElement {
	b := binaryutil.BigEndian.PutUint32(number)
	return nftables.SetElement{Key: append(b, b...)}
}
