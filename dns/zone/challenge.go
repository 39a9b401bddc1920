package zone

import (
	"fmt"
	"slices"

	"github.com/miekg/dns"
)

const (
	challengeLabel = "_acme-challenge."
	maxChallenges  = 1000 // names
	maxValues      = 8    // of one name; two certificates may be ordered at once
)

// SetChallenge answers TXT questions to _acme-challenge.<name> with the values,
// by which a certificate authority sees that the name is ours (DNS-01). Without
// values it takes the record away. The name is in full and in the zone. Every
// name server of the zone must be told: the authority asks any.
func (s *Server) SetChallenge(name string, values ...string) error {
	full, err := fullName(name)
	if err != nil {
		return fmt.Errorf("cannot set challenge: %w", err)
	}
	if !dns.IsSubDomain(s.cfg.Zone, full) {
		return fmt.Errorf("cannot set challenge for %q: it is not in zone %s", name, s.cfg.Zone)
	}
	if len(values) > maxValues {
		return fmt.Errorf("cannot set challenge for %q: %d values, the most is %d", name, len(values), maxValues)
	}
	for _, v := range values {
		if len(v) == 0 || len(v) > 255 {
			return fmt.Errorf("cannot set challenge for %q: a value has 1 to 255 bytes, not %d", name, len(v))
		}
	}
	return s.setChallenge(challengeLabel+full, slices.Clone(values))
}

func (s *Server) setChallenge(name string, values []string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(values) == 0 {
		delete(s.challenges, name)
		s.grow()
		return nil
	}
	if _, there := s.challenges[name]; !there && len(s.challenges) >= maxChallenges {
		return fmt.Errorf("cannot set challenge for %q: there are %d already", name, maxChallenges)
	}
	s.challenges[name] = values
	s.grow()
	return nil
}

// challenged returns the name's values, and whether a challenge is below the
// name, which makes it exist.
func (s *Server) challenged(name string) (values []string, below bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.challenges) == 0 {
		return nil, false
	}
	values = s.challenges[name]
	for have := range s.challenges {
		if dns.IsSubDomain(name, have) {
			return values, true
		}
	}
	return values, false
}
