//go:build linux

package fabric

import (
	"net/netip"
	"slices"
)

// view is the network at one moment; it never changes.
type view struct {
	ports   map[netip.Addr]*Port
	paths   [][]path // by the ports' numbers: from, to
	anycast []table  // by the cities' numbers
}

// table is how one city routes anycast prefixes.
type table struct {
	bits4, bits6 []int // lengths in use, longest first
	best         map[netip.Prefix]*Port
}

// find says which host a packet from a city goes to; nil is nobody.
func (v *view) find(city int, dst netip.Addr) *Port {
	if p, ok := v.ports[dst]; ok {
		return p
	}
	if city >= len(v.anycast) {
		return nil
	}
	t := &v.anycast[city]
	lengths := t.bits4
	if !dst.Is4() {
		lengths = t.bits6
	}
	for _, n := range lengths {
		prefix, err := dst.Prefix(n)
		if err != nil {
			continue
		}
		if p, ok := t.best[prefix]; ok {
			return p
		}
	}
	return nil
}

func (t *table) add(prefix netip.Prefix, p *Port) {
	t.best[prefix] = p
	lengths := &t.bits4
	if !prefix.Addr().Is4() {
		lengths = &t.bits6
	}
	if !slices.Contains(*lengths, prefix.Bits()) {
		*lengths = append(*lengths, prefix.Bits())
		slices.SortFunc(*lengths, func(a, b int) int { return b - a })
	}
}

// rebuild makes the view anew. The caller holds f.mu.
func (f *Fabric) rebuild() {
	v := &view{ports: map[netip.Addr]*Port{}, paths: make([][]path, f.next)}
	for _, p := range f.ports {
		for _, a := range p.Addrs {
			v.ports[a] = p
		}
		v.paths[p.id] = make([]path, f.next)
		for _, q := range f.ports {
			v.paths[p.id][q.id] = f.rules.path(p.place(), q.place())
		}
	}
	for i := range f.cities {
		v.anycast = append(v.anycast, f.table(i))
	}
	f.view.Store(v)
}

// table chooses the nearest host of each prefix that a city knows of.
func (f *Fabric) table(city int) table {
	t := table{best: map[netip.Prefix]*Port{}}
	here := place{city: f.cities[city]}
	for prefix, hosts := range f.heard[city] {
		var near *Port
		for _, p := range hosts {
			if f.unreachable[pair{here.city, p.City}] {
				continue
			}
			if near == nil || f.closer(here, p, near) {
				near = p
			}
		}
		if near != nil {
			t.add(prefix, near)
		}
	}
	return t
}

// closer orders hosts as a city sees them: by delay, then by who came first.
func (f *Fabric) closer(here place, p, q *Port) bool {
	dp, dq := f.rules.path(here, p.place()).delay, f.rules.path(here, q.place()).delay
	return dp < dq || (dp == dq && p.id < q.id)
}
