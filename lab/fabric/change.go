//go:build linux

package fabric

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// change makes sure of the names, changes the rules and makes them hold.
func (f *Fabric) change(a, b string, do func(pair)) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.known(a, b); err != nil {
		return err
	}
	if a == b {
		return fmt.Errorf("cannot set a path from %q to itself: name two ends", a)
	}
	do(pair{a, b})
	f.rebuild()
	f.reroute()
	return nil
}

// Cut lets nothing pass between two cities or hosts; World is everything else.
func (f *Fabric) Cut(a, b string) error {
	return f.change(a, b, func(p pair) { f.rules.cuts[p], f.rules.cuts[p.back()] = true, true })
}

// CutOneWay lets nothing pass in one direction.
func (f *Fabric) CutOneWay(from, to string) error {
	return f.change(from, to, func(p pair) { f.rules.cuts[p] = true })
}

// Isolate cuts a city or a host off from the world; what is inside goes on.
func (f *Fabric) Isolate(name string) error { return f.Cut(name, World) }

// Mend ends the cut between two, in both directions.
func (f *Fabric) Mend(a, b string) error {
	return f.change(a, b, func(p pair) { delete(f.rules.cuts, p); delete(f.rules.cuts, p.back()) })
}

// Heal ends all cuts, losses, and delays that were set.
func (f *Fabric) Heal() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rules = newRules()
	f.rebuild()
	f.reroute()
}

// SetLoss loses a share of what passes between two, 0 to 1, in both directions. What
// the kernel hands over in one piece, up to 64 KB of a TCP stream, is lost whole.
func (f *Fabric) SetLoss(a, b string, share float64) error {
	if !(share >= 0 && share <= 1) {
		return fmt.Errorf("cannot lose %v of the packets between %q and %q: want a share from 0 to 1", share, a, b)
	}
	return f.change(a, b, func(p pair) { f.rules.loss[p], f.rules.loss[p.back()] = share, share })
}

// SetRTT replaces the round trip between two.
func (f *Fabric) SetRTT(a, b string, d time.Duration) error {
	if d < 0 || d > time.Minute {
		return fmt.Errorf("cannot set the round trip between %q and %q to %s: want up to a minute", a, b, d)
	}
	return f.change(a, b, func(p pair) { f.rules.delay[p], f.rules.delay[p.back()] = d/2, d/2 })
}

// SetJitter delays every packet between two by up to d more, by chance. Packets
// from one host to another stay in order.
func (f *Fabric) SetJitter(a, b string, d time.Duration) error {
	if d < 0 || d > time.Minute {
		return fmt.Errorf("cannot set the jitter between %q and %q to %s: want up to a minute", a, b, d)
	}
	return f.change(a, b, func(p pair) { f.rules.jitter[p], f.rules.jitter[p.back()] = d, d })
}

// Delay is how long a packet takes from one city or host to another, without
// jitter.
func (f *Fabric) Delay(from, to string) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.rules.path(f.where(from), f.where(to)).delay
}

// DelayTo is how long a packet takes from a city to an address, 0 if it leads
// nowhere.
func (f *Fabric) DelayTo(city string, a netip.Addr) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.view.Load().find(slices.Index(f.cities, city), a)
	if p == nil {
		return 0
	}
	return f.rules.path(place{city: city}, p.place()).delay
}

// where is the place that a name stands for. The caller holds f.mu.
func (f *Fabric) where(name string) place {
	if p, ok := f.names[name]; ok {
		return p.place()
	}
	return place{city: name}
}

// Faults lists what was changed, in words for people.
func (f *Fabric) Faults() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := []string{}
	for p := range f.rules.cuts {
		out = append(out, fmt.Sprintf("cut %s → %s", p.from, p.to))
	}
	for p, v := range f.rules.loss {
		out = append(out, fmt.Sprintf("loss %s → %s %.3g%%", p.from, p.to, v*100))
	}
	for p, v := range f.rules.delay {
		out = append(out, fmt.Sprintf("delay %s → %s %s", p.from, p.to, v))
	}
	for p, v := range f.rules.jitter {
		out = append(out, fmt.Sprintf("jitter %s → %s %s", p.from, p.to, v))
	}
	slices.SortFunc(out, strings.Compare)
	return out
}
