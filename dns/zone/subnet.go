package zone

import (
	"net/netip"

	"github.com/miekg/dns"
)

// subnet is the client's network as its resolver tells it (RFC 7871).
type subnet struct {
	option *dns.EDNS0_SUBNET // nil if the question has none
	addr   netip.Addr        // invalid if it tells nothing
}

// readSubnet reports false for an option that breaks the RFC's rules.
func readSubnet(q *dns.Msg) (subnet, bool) {
	opt := q.IsEdns0()
	if opt == nil {
		return subnet{}, true
	}
	var s subnet
	for _, o := range opt.Option {
		if e, is := o.(*dns.EDNS0_SUBNET); is {
			if s.option != nil {
				return subnet{}, false
			}
			s.option = e
		}
	}
	return s, s.option == nil || s.read()
}

// read takes the address. A source length of 0 is a client that does not want to
// be told apart: its resolver's address is used, as without the option.
func (s *subnet) read() bool {
	e := s.option
	if e.SourceScope != 0 {
		return false
	}
	if e.SourceNetmask == 0 {
		return true
	}
	ip := e.Address.To16()
	if e.Family == 1 {
		ip = e.Address.To4()
	}
	a, ok := netip.AddrFromSlice(ip)
	if !ok || e.Family != 1 && e.Family != 2 || int(e.SourceNetmask) > a.BitLen() {
		return false
	}
	p := netip.PrefixFrom(a, int(e.SourceNetmask))
	if p.Masked() != p {
		return false
	}
	s.addr = a.Unmap()
	return true
}

// answer is the option for the reply; bits says for how much of the address the
// answer was chosen.
func (s subnet) answer(bits int) *dns.EDNS0_SUBNET {
	e := *s.option
	e.Code, e.SourceScope = dns.EDNS0SUBNET, 0
	if s.addr.IsValid() {
		e.SourceScope = uint8(min(bits, s.addr.BitLen()))
	}
	return &e
}
