package zone

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// minimalTTL is how long the short answer to ANY may be kept.
const minimalTTL = 3600

// answer answers a question to the zone, and says for how many bits of the
// client's address it was chosen.
func (s *Server) answer(client netip.Addr, ask dns.Question) (*dns.Msg, int) {
	m := &dns.Msg{MsgHdr: dns.MsgHdr{Authoritative: true}}
	name := dns.CanonicalName(ask.Name)
	app, isApp := s.app(name)
	fixed := s.fixed[name]
	if !isApp && fixed == nil && !s.above(name) {
		m.Rcode = dns.RcodeNameError
		m.Ns = []dns.RR{s.negative()}
		return m, 0
	}
	bits := 0
	switch ask.Qtype {
	case dns.TypeANY: // RFC 8482: nobody needs all, and who forges addresses wants large answers
		m.Answer = []dns.RR{&dns.HINFO{Hdr: header(ask.Name, dns.TypeHINFO, minimalTTL), Cpu: "RFC8482"}}
		return m, 0
	case dns.TypeSOA:
		if name == s.cfg.Zone {
			m.Answer = []dns.RR{s.authority(ask.Name, uint32(s.soa.Hdr.Ttl))}
		}
	case dns.TypeA, dns.TypeAAAA:
		if isApp {
			m.Answer, bits = s.addresses(client, app, ask)
		}
	}
	m.Answer = append(m.Answer, matching(fixed, ask)...)
	if len(m.Answer) == 0 {
		m.Ns = []dns.RR{s.negative()}
	}
	m.Extra = s.glue(m.Answer)
	return m, bits
}

// app returns the app that the name is, or is below and is a wildcard.
func (s *Server) app(name string) (App, bool) {
	rest, in := strings.CutSuffix(name, "."+s.cfg.Zone)
	if !in {
		return App{}, false
	}
	label, exact := rest, true
	if i := strings.LastIndexByte(rest, '.'); i >= 0 {
		label, exact = rest[i+1:], false
	}
	a, ok := s.cfg.Source.App(label)
	return a, ok && a.Exists && (exact || a.Wildcard)
}

// addresses are the app's own, or those of edges near the client.
func (s *Server) addresses(client netip.Addr, app App, ask dns.Question) ([]dns.RR, int) {
	ipv6 := ask.Qtype == dns.TypeAAAA
	ttl := seconds(s.cfg.TTL)
	if len(app.IPs) > 0 {
		own := slices.DeleteFunc(slices.Clone(app.IPs), func(a netip.Addr) bool { return a.Is4() == ipv6 })
		return records(ask.Name, own, ttl), 0
	}
	all := candidates(s.cfg.Source.Edges(), ipv6)
	if len(all) < 2 { // nothing to choose: the answer is the same for all clients
		return records(ask.Name, s.picker.pick(all, place{}), ttl), 0
	}
	where, bits := s.places.find(client)
	return records(ask.Name, s.picker.pick(all, where), ttl), bits
}

func records(name string, addrs []netip.Addr, ttl uint32) []dns.RR {
	var rrs []dns.RR
	for _, a := range addrs {
		if a.Is4() {
			rrs = append(rrs, &dns.A{Hdr: header(name, dns.TypeA, ttl), A: a.AsSlice()})
		} else {
			rrs = append(rrs, &dns.AAAA{Hdr: header(name, dns.TypeAAAA, ttl), AAAA: a.AsSlice()})
		}
	}
	return rrs
}

// matching are the fixed records of the type, or the alias that stands for all
// types, under the name as it was asked.
func matching(fixed []dns.RR, ask dns.Question) []dns.RR {
	var rrs []dns.RR
	for _, rr := range fixed {
		if t := rr.Header().Rrtype; t == ask.Qtype || t == dns.TypeCNAME {
			rr = dns.Copy(rr)
			rr.Header().Name = ask.Name
			rrs = append(rrs, rr)
		}
	}
	return rrs
}

// glue are the addresses of the name servers in the answer, as far as they are ours.
func (s *Server) glue(answer []dns.RR) []dns.RR {
	var rrs []dns.RR
	for _, rr := range answer {
		ns, ok := rr.(*dns.NS)
		if !ok {
			continue
		}
		for _, own := range s.fixed[ns.Ns] {
			if t := own.Header().Rrtype; t == dns.TypeA || t == dns.TypeAAAA {
				rrs = append(rrs, own)
			}
		}
	}
	return rrs
}

// above reports whether the name has no records but a fixed name below it: then
// it exists, empty.
func (s *Server) above(name string) bool {
	for have := range s.fixed {
		if dns.IsSubDomain(name, have) {
			return true
		}
	}
	return false
}

func header(name string, rrtype uint16, ttl uint32) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: rrtype, Class: dns.ClassINET, Ttl: ttl}
}

func seconds(d time.Duration) uint32 { return uint32(d / time.Second) }
