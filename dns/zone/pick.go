package zone

import (
	"cmp"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"

	"github.com/perigee-run/perigee/region"
)

// place is where a client is.
type place struct {
	known    bool
	region   string // "" where only the coordinates are known
	lat, lon float64
	located  bool // lat and lon are known
}

// inRegion is the place of a client that the operator counts to a region, which
// may be one that has no place on earth.
func inRegion(code string) place {
	c, ok := region.Lookup(code)
	return place{known: true, region: code, lat: c.Lat, lon: c.Lon, located: ok}
}

// at is the place with these coordinates.
func at(lat, lon float64) place { return place{known: true, lat: lat, lon: lon, located: true} }

// distance to an edge in kilometres: 0 in the same region, infinite where
// either's place on earth is unknown.
func (p place) distance(edgeRegion string) float64 {
	if p.region != "" && p.region == edgeRegion {
		return 0
	}
	c, ok := region.Lookup(edgeRegion)
	if !ok || !p.located {
		return math.Inf(1)
	}
	return region.Distance(p.lat, p.lon, c.Lat, c.Lon)
}

// candidate is an edge that may be in the answer.
type candidate struct {
	addr     netip.Addr
	edge     Edge
	badness  int
	distance float64
	order    float64
}

// badness says how sorry we would be to send a client there.
func badness(e Edge) int {
	switch {
	case e.Up && !e.Draining:
		return 0
	case e.Up:
		return 1
	case !e.Draining:
		return 2
	}
	return 3
}

// candidates are the least bad edges with an address of the family.
func candidates(edges []Edge, ipv6 bool) []candidate {
	var all []candidate
	least := math.MaxInt
	for _, e := range edges {
		addrs := e.IPv4
		if ipv6 {
			addrs = e.IPv6
		}
		if len(addrs) > 0 {
			all = append(all, candidate{addr: addrs[0], edge: e, badness: badness(e)})
			least = min(least, badness(e))
		}
	}
	return slices.DeleteFunc(all, func(c candidate) bool { return c.badness > least })
}

// picker chooses edges. The zero value is not useful: spread and random are needed.
type picker struct {
	answers int
	spread  float64
	random  func() float64 // from [0, 1)
}

// pick returns the addresses for a client at p: of the edges hardly farther than
// the nearest, some, with a preference for those with less load.
func (k picker) pick(all []candidate, p place) []netip.Addr {
	nearest := math.Inf(1)
	regions := map[string]float64{} // many edges are in few
	for i := range all {
		d, ok := regions[all[i].edge.Region]
		if !ok {
			d = p.distance(all[i].edge.Region)
			regions[all[i].edge.Region] = d
		}
		all[i].distance = d
		nearest = min(nearest, all[i].distance)
	}
	near := all
	if !math.IsInf(nearest, 1) {
		near = slices.DeleteFunc(all, func(c candidate) bool { return c.distance > nearest+k.spread })
	}
	addrs := make([]netip.Addr, 0, k.answers)
	for _, c := range k.first(near) {
		addrs = append(addrs, c.addr)
	}
	return addrs
}

// first draws an order and returns as many as are answered, without sorting the
// rest.
func (k picker) first(near []candidate) (best []*candidate) {
	for i := range near {
		c := &near[i]
		c.order = k.draw(c.edge.Load)
		at, _ := slices.BinarySearchFunc(best, c, func(a, b *candidate) int {
			return cmp.Or(cmp.Compare(a.order, b.order), strings.Compare(a.edge.Node, b.edge.Node))
		})
		if at < k.answers {
			best = slices.Insert(best, at, c)
			best = best[:min(len(best), k.answers)]
		}
	}
	return best
}

// draw is a random number, smaller for less load: the smallest of several draws
// is an edge's in proportion to what it has free (Efraimidis and Spirakis).
func (k picker) draw(load float64) float64 {
	const least = 0.02 // also a full edge may be the only one to answer
	free := 1 - load
	if !(free > least) { // NaN too
		free = least
	}
	return -math.Log(1-k.random()) / min(free, 1)
}

func newPicker(cfg Config) picker {
	return picker{answers: cfg.Answers, spread: cfg.Spread, random: rand.Float64}
}
