package zone

import (
	"hash/maphash"
	"time"

	"github.com/miekg/dns"
)

var serialSeed = maphash.MakeSeed()

// grow needs mu. The serial is the time of the last change of edges, so that it
// does not go back when the server starts again. Nothing but people and monitors
// looks at it: answers are always made anew.
func (s *Server) grow() {
	now := uint32(time.Now().Unix())
	if int32(now-s.serial) > 0 { // serial number arithmetic, RFC 1982
		s.serial = now
	} else {
		s.serial++
	}
}

// authority is the SOA record with the present serial.
func (s *Server) authority(name string, ttl uint32) dns.RR {
	edges := s.cfg.Source.Edges()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.look(edges)
	soa := s.soa
	soa.Hdr.Name, soa.Hdr.Ttl, soa.Serial = name, ttl, s.serial
	return &soa
}

// look makes the serial grow if the edges have changed. It needs mu.
func (s *Server) look(edges []Edge) {
	if len(edges) > 0 && s.looked == &edges[0] {
		return // the same list as the last time
	}
	s.looked = nil
	if len(edges) > 0 {
		s.looked = &edges[0]
	}
	now := fingerprint(edges)
	if s.seen != 0 && now != s.seen {
		s.grow()
	}
	s.seen = now
}

// negative is the SOA that says how long a name's absence may be remembered.
func (s *Server) negative() dns.RR { return s.authority(s.cfg.Zone, seconds(s.cfg.NegativeTTL)) }

// fingerprint of what clients are sent to, whatever the order; 0 is none.
func fingerprint(edges []Edge) uint64 {
	var sum uint64 = 1
	for _, e := range edges {
		var h maphash.Hash
		h.SetSeed(serialSeed)
		maphash.WriteComparable(&h, [2]string{e.Node, e.Region})
		maphash.WriteComparable(&h, [2]bool{e.Up, e.Draining})
		for _, a := range e.IPv4 {
			maphash.WriteComparable(&h, a)
		}
		for _, a := range e.IPv6 {
			maphash.WriteComparable(&h, a)
		}
		sum += h.Sum64()
	}
	return sum
}
