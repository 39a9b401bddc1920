//go:build linux

package fabric

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Announce makes a host a destination of the prefix, in each city as soon as
// the news has travelled there. Saying it again changes nothing.
func (f *Fabric) Announce(host string, prefix netip.Prefix) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	p, ok := f.names[host]
	if !ok {
		return f.unknown(host)
	}
	if !prefix.IsValid() || prefix.Bits() == 0 || prefix.Masked() != prefix {
		return fmt.Errorf("cannot announce %s from host %q: want a prefix without host bits, such as 192.0.2.0/24", prefix, host)
	}
	for a := range f.view.Load().ports {
		if prefix.Contains(a) {
			return fmt.Errorf("cannot announce %s from host %q: the address %s in it belongs to a host: choose another prefix", prefix, host, a)
		}
	}
	f.spread(p, prefix, true)
	return nil
}

// Withdraw ends what Announce began. What was never announced is no error.
func (f *Fabric) Withdraw(host string, prefix netip.Prefix) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	p, ok := f.names[host]
	if !ok {
		return f.unknown(host)
	}
	f.spread(p, prefix, false)
	return nil
}

type origin struct {
	host   *Port
	prefix netip.Prefix
}

// spread lets news of a route travel to every city. A later word about the same
// route wins, whenever the earlier one arrives. The caller holds f.mu.
func (f *Fabric) spread(p *Port, prefix netip.Prefix, up bool) {
	o := origin{p, prefix}
	if f.words[o].up == up {
		return
	}
	w := word{up: up, at: f.words[o].at + 1}
	f.words[o] = w
	for i, city := range f.cities {
		delay := f.cfg.Converge
		if delay == 0 {
			delay = f.rules.path(p.place(), place{city: city}).delay
		}
		f.later(delay, func() {
			if f.words[o] == w {
				f.hear(i, o, up)
				f.rebuild()
			}
		})
	}
}

type word struct {
	up bool
	at int
}

func (f *Fabric) hear(city int, o origin, up bool) {
	hosts := slices.DeleteFunc(slices.Clone(f.heard[city][o.prefix]), func(p *Port) bool { return p == o.host })
	if up {
		hosts = append(hosts, o.host)
	}
	f.heard[city][o.prefix] = hosts
	if len(hosts) == 0 {
		delete(f.heard[city], o.prefix)
	}
}

// later runs a change of the network after a delay, under f.mu, unless the
// fabric is closed by then.
func (f *Fabric) later(d time.Duration, change func()) {
	time.AfterFunc(d, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if !f.closed {
			change()
		}
	})
}

// reroute lets the cities' routers notice cuts between them: routes through
// what cannot be reached go, and come back when it heals. The caller holds f.mu.
func (f *Fabric) reroute() {
	f.later(f.cfg.Reroute, func() {
		f.unreachable = map[pair]bool{}
		for _, a := range f.cities {
			for _, b := range f.cities {
				if a != b && (f.rules.cut(place{city: a}, place{city: b}) || f.rules.cut(place{city: b}, place{city: a})) {
					f.unreachable[pair{a, b}] = true
				}
			}
		}
		f.rebuild()
	})
}

// Routes lists what every city knows of anycast prefixes.
func (f *Fabric) Routes() []Route {
	f.mu.Lock()
	defer f.mu.Unlock()
	v := f.view.Load()
	var out []Route
	for i, city := range f.cities {
		for prefix, hosts := range f.heard[i] {
			r := Route{City: city, Prefix: prefix}
			near := v.anycast[i].best[prefix]
			if near != nil {
				r.Host = near.Name
			}
			for _, h := range hosts {
				if h != near {
					r.Others = append(r.Others, h.Name)
				}
			}
			slices.Sort(r.Others)
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b Route) int {
		return cmp.Or(a.Prefix.Addr().Compare(b.Prefix.Addr()), cmp.Compare(a.City, b.City))
	})
	return out
}
