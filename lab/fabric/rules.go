//go:build linux

package fabric

import (
	"fmt"
	"time"

	"github.com/perigee-run/perigee/region"
)

// World is the name that stands for everything outside of what the other end
// of a rule names.
const World = "world"

// place is where a packet starts or ends. A city alone has no host.
type place struct{ host, city string }

func (p place) is(name string) bool { return name == p.city || (name == p.host && name != "") }

// pair names the two ends of a rule, in the direction of the packets.
type pair struct{ from, to string }

func (r pair) back() pair { return pair{r.to, r.from} }

// covers reports whether the rule is about packets from one place to another.
// What stays within the named end never meets the world.
func (r pair) covers(from, to place) bool {
	switch {
	case r.from == World:
		return to.is(r.to) && !from.is(r.to)
	case r.to == World:
		return from.is(r.from) && !to.is(r.from)
	}
	return from.is(r.from) && to.is(r.to)
}

// rank says how exact a rule is: a host beats a city, which beats the world.
func (r pair) rank(from, to place) int {
	n := 0
	for _, e := range []struct{ name, host string }{{r.from, from.host}, {r.to, to.host}} {
		if e.name == e.host {
			n += 2
		} else if e.name != World {
			n++
		}
	}
	return n
}

// rules is what was asked of the network beyond what distance makes of it.
type rules struct {
	cuts   map[pair]bool
	loss   map[pair]float64
	delay  map[pair]time.Duration
	jitter map[pair]time.Duration
}

func newRules() rules {
	return rules{cuts: map[pair]bool{}, loss: map[pair]float64{}, delay: map[pair]time.Duration{}, jitter: map[pair]time.Duration{}}
}

func (r *rules) cut(from, to place) bool {
	for p := range r.cuts {
		if p.covers(from, to) {
			return true
		}
	}
	return false
}

// best finds the most exact rule for two places.
func best[T any](m map[pair]T, from, to place) (T, bool) {
	var found T
	rank := -1
	for p, v := range m {
		if p.covers(from, to) && p.rank(from, to) > rank {
			found, rank = v, p.rank(from, to)
		}
	}
	return found, rank >= 0
}

// path is one direction between two hosts.
type path struct {
	delay, jitter time.Duration
	loss          float64
	cut           bool
}

func (r *rules) path(from, to place) path {
	p := path{cut: r.cut(from, to)}
	p.loss, _ = best(r.loss, from, to)
	p.jitter, _ = best(r.jitter, from, to)
	d, ok := best(r.delay, from, to)
	if !ok {
		d = distance(from.city, to.city)
	}
	p.delay = d
	return p
}

// distance is the one-way delay between cities as the map has it.
func distance(a, b string) time.Duration {
	ca, _ := region.Lookup(a)
	cb, _ := region.Lookup(b)
	return region.RTT(ca, cb) / 2
}

// CheckCities says what is wrong with a lab of these cities.
func CheckCities(cities []string) error {
	seen := map[string]bool{}
	for _, c := range cities {
		if _, ok := region.Lookup(c); !ok {
			return fmt.Errorf("cannot use %q as a city: it is on no map: choose codes such as iad, fra, syd", c)
		}
		if seen[c] {
			return fmt.Errorf("cannot use city %q twice: name each once", c)
		}
		seen[c] = true
	}
	if len(cities) == 0 {
		return fmt.Errorf("cannot make a network of no city: name at least one, such as fra")
	}
	return nil
}
