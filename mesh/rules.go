package mesh

import (
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// metadata are the places where clouds hand out credentials to whoever asks.
var metadata = []netip.Prefix{
	netip.MustParsePrefix("169.254.0.0/16"),     // AWS, Google, Azure, Oracle, and their kin
	netip.MustParsePrefix("168.63.129.16/32"),   // Azure's wire server
	netip.MustParsePrefix("100.100.100.200/32"), // Alibaba
	netip.MustParsePrefix("fd00:ec2::254/128"),  // AWS
	netip.MustParsePrefix("fd20:ce::254/128"),   // Google
}

const (
	icmpEchoRequest = 8
	icmpRedirect    = 5
	icmp6Echo       = 128
	icmp6Solicit    = 135
	icmp6Advert     = 136
)

// Register 1 has 16 bytes; 8 and 9 are its first and second four.
const (
	regKey    = 1
	regFirst  = 8
	regSecond = 9
)

// rules writes one chain; each call of add is one rule.
type rules struct {
	conn  *nftables.Conn
	table *nftables.Table
	chain *nftables.Chain
}

func (r rules) add(parts ...[]expr.Any) {
	var all []expr.Any
	for _, p := range parts {
		all = append(all, p...)
	}
	r.conn.AddRule(&nftables.Rule{Table: r.table, Chain: r.chain, Exprs: all})
}

// refuse answers what matches as a closed port does, always alike, so that
// callers neither wait nor learn anything. A reset, unlike ICMP, has no rate limit.
func (r rules) refuse(match ...[]expr.Any) {
	reset := &expr.Reject{Type: unix.NFT_REJECT_TCP_RST}
	closed := &expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_PORT_UNREACH}
	r.add(append(match[:len(match):len(match)], proto(unix.IPPROTO_TCP), []expr.Any{reset})...)
	r.add(append(match[:len(match):len(match)], []expr.Any{closed})...)
}

func (n *Network) addRules(c *nftables.Conn, f firewall) {
	chain := func(name string, kind nftables.ChainType, hook *nftables.ChainHook, prio *nftables.ChainPriority) rules {
		policy := nftables.ChainPolicyAccept // for packets that are no business of ours
		ch := c.AddChain(&nftables.Chain{Table: f.table, Name: name, Type: kind, Hooknum: hook, Priority: prio, Policy: &policy})
		return rules{c, f.table, ch}
	}
	n.sourceRules(chain("source", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRaw))
	n.leadRules(chain("services", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityMangle))
	n.inputRules(chain("input", nftables.ChainTypeFilter, nftables.ChainHookInput, nftables.ChainPriorityFilter), f)
	n.forwardRules(chain("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter), f)
	n.outputRules(chain("output", nftables.ChainTypeFilter, nftables.ChainHookOutput, nftables.ChainPriorityFilter))
	n.natRules(chain("nat", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource))
}

// sourceRules drop what a machine may not say it is, before it is tracked.
func (n *Network) sourceRules(r rules) {
	n.wireSourceRules(r)
	r.add(n.notFromMachine(), accept())
	r.add(saddr(netip.MustParsePrefix("fe80::/10")), icmp6(icmp6Solicit), accept())
	r.add(saddr(netip.MustParsePrefix("fe80::/10")), icmp6(icmp6Advert), accept())
	r.add(icmp4(icmpRedirect), drop())
	r.add(ofNobody(), drop())
	r.add(notRoutedBack(), drop())
}

// inputRules keep machines from the host's own ports. A refusal is an answer:
// waiting for a timeout would serve nobody.
func (n *Network) inputRules(r rules, f firewall) {
	n.wireInputRules(r, f)
	n.poolRules(r, n.notFromMachine())
	r.add(n.notFromMachine(), accept())
	r.add(tracked(), accept())
	r.refuse(daddr(n.ownAddr()))
	r.add(icmp4(icmpEchoRequest), accept())
	for _, t := range []byte{icmp6Echo, icmp6Solicit, icmp6Advert} {
		r.add(icmp6(t), accept())
	}
	for _, a := range n.resolvers() {
		r.add(daddr(netip.PrefixFrom(a, a.BitLen())), port(unix.IPPROTO_UDP, 53), accept())
		r.add(daddr(netip.PrefixFrom(a, a.BitLen())), port(unix.IPPROTO_TCP, 53), accept())
	}
	n.machineServiceRules(r, f)
	r.add(proto(unix.IPPROTO_TCP), loadPort(), member(f.ports), accept())
	r.refuse()
}

// forwardRules decide between machines, and between a machine and the world.
// Another org's machine looks just like an address of nobody.
func (n *Network) forwardRules(r rules, f firewall) {
	n.wireForwardRules(r, f)
	r.add(n.fromMachine(), n.toMachine(), bothGroups(), member(f.orgs), accept())
	r.refuse(n.fromMachine(), daddr(n.pool))
	r.refuse(n.fromMachine(), daddr(n.cfg.IPv6))
	r.add(n.toMachine(), n.fromMachine(), drop())
	r.add(n.toMachine(), tracked(), accept())
	r.add(n.toMachine(), drop())
	for _, p := range metadata {
		r.refuse(n.fromMachine(), daddr(p))
	}
}

// outputRules make the host's own calls to an address of nobody fail at once.
func (n *Network) outputRules(r rules) {
	r.refuse(equal(meta(expr.MetaKeyOIFNAME, regKey), ifname(n.localDevice())...))
}

// natRules let machines share the host's address, but not on the wire, where
// the source says whose a packet is.
func (n *Network) natRules(r rules) {
	if n.cfg.Wire != "" {
		r.add(n.toWire(), accept())
	}
	for _, p := range []netip.Prefix{n.pool, n.cfg.IPv6} {
		r.add(saddr(p), n.iface(expr.MetaKeyOIFNAME, expr.CmpOpNeq), []expr.Any{&expr.Masq{}})
	}
}

func (n *Network) resolvers() []netip.Addr {
	return []netip.Addr{at(n.pool, resolverOffset), resolver6(n.cfg.IPv6)}
}

func (n *Network) notFromMachine() []expr.Any { return n.iface(expr.MetaKeyIIFNAME, expr.CmpOpNeq) }
func (n *Network) fromMachine() []expr.Any    { return n.iface(expr.MetaKeyIIFNAME, expr.CmpOpEq) }
func (n *Network) toMachine() []expr.Any      { return n.iface(expr.MetaKeyOIFNAME, expr.CmpOpEq) }

// iface compares the beginning of a device's name: "perigee-*".
func (n *Network) iface(key expr.MetaKey, op expr.CmpOp) []expr.Any {
	return []expr.Any{meta(key, regKey), &expr.Cmp{Op: op, Register: regKey, Data: []byte(n.cfg.Prefix + "-")}}
}

// ofNobody matches a slot that was not assigned yet.
func ofNobody() []expr.Any {
	return equal(meta(expr.MetaKeyIIFGROUP, regKey), make([]byte, 4)...)
}

// notRoutedBack matches a source address that we do not route to the device the
// packet came from: strict reverse path.
func notRoutedBack() []expr.Any {
	return equal(&expr.Fib{Register: regKey, ResultOIF: true, FlagSADDR: true, FlagIIF: true}, make([]byte, 4)...)
}

// bothGroups makes one key of the orgs of both devices.
func bothGroups() []expr.Any {
	return []expr.Any{meta(expr.MetaKeyIIFGROUP, regFirst), meta(expr.MetaKeyOIFGROUP, regSecond)}
}

func member(s *nftables.Set) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: regKey, SetName: s.Name, SetID: s.ID}}
}

func meta(key expr.MetaKey, reg uint32) expr.Any { return &expr.Meta{Key: key, Register: reg} }

// load reads from the network header.
func load(reg, offset, length uint32) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length}}
}

func family(f byte) []expr.Any { return equal(meta(expr.MetaKeyNFPROTO, regKey), f) }
func proto(p byte) []expr.Any  { return equal(meta(expr.MetaKeyL4PROTO, regKey), p) }

func equal(get expr.Any, data ...byte) []expr.Any {
	return []expr.Any{get, &expr.Cmp{Op: expr.CmpOpEq, Register: regKey, Data: data}}
}

func saddr(p netip.Prefix) []expr.Any { return within(p, 12, 8) }
func daddr(p netip.Prefix) []expr.Any { return within(p, 16, 24) }

// within matches an address by its offset in the IPv4 or IPv6 header.
func within(p netip.Prefix, offset4, offset6 uint32) []expr.Any {
	fam, offset := byte(unix.NFPROTO_IPV4), offset4
	if p.Addr().Is6() {
		fam, offset = unix.NFPROTO_IPV6, offset6
	}
	addr, size := p.Masked().Addr().AsSlice(), uint32(p.Addr().BitLen()/8)
	return append(append(family(fam), load(regKey, offset, size)...),
		&expr.Bitwise{SourceRegister: regKey, DestRegister: regKey, Len: size, Mask: ipNet(p).Mask, Xor: make([]byte, size)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: regKey, Data: addr})
}

func icmp4(kind byte) []expr.Any {
	return append(append(family(unix.NFPROTO_IPV4), proto(unix.IPPROTO_ICMP)...), icmpType(kind)...)
}

func icmp6(kind byte) []expr.Any {
	return append(append(family(unix.NFPROTO_IPV6), proto(unix.IPPROTO_ICMPV6)...), icmpType(kind)...)
}

func icmpType(kind byte) []expr.Any {
	return equal(&expr.Payload{DestRegister: regKey, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1}, kind)
}

func loadPort() []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: regKey, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}}
}

func port(p byte, number uint16) []expr.Any {
	return append(append(proto(p), loadPort()...),
		&expr.Cmp{Op: expr.CmpOpEq, Register: regKey, Data: binaryutil.BigEndian.PutUint16(number)})
}

// tracked matches answers to what was allowed to begin.
func tracked() []expr.Any { return state(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED) }

func accept() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}} }
func drop() []expr.Any   { return []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}} }
