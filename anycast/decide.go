package anycast

import (
	"net/netip"
	"time"
)

// how a prefix is announced.
type how int

const (
	withdrawn how = iota
	marked        // with GRACEFUL_SHUTDOWN
	announced
)

// wish is what the edge's owner wants.
type wish struct {
	healthy   bool
	set       []netip.Prefix
	draining  bool
	drainEnds time.Time // until then a drain only marks
}

// told is what the neighbors know of a prefix.
type told struct {
	now   how
	since time.Time // of the last announcement that followed a withdrawal
}

// step is one thing to tell the neighbors.
type step struct {
	prefix netip.Prefix
	to     how
}

// decide compares wish and what was told. It returns what to tell now, and when
// to decide again; the zero time is when something changes.
func decide(now time.Time, w wish, prefixes []netip.Prefix, known map[netip.Prefix]told, least time.Duration) (steps []step, again time.Time) {
	sooner := func(t time.Time) {
		if again.IsZero() || t.Before(again) {
			again = t
		}
	}
	if w.draining && now.Before(w.drainEnds) {
		sooner(w.drainEnds)
	}
	for _, p := range prefixes {
		want, have := w.wants(now, p), known[p]
		if want == have.now {
			continue
		}
		if free := have.since.Add(least); have.now == withdrawn && !have.since.IsZero() && now.Before(free) {
			sooner(free)
			continue
		}
		steps = append(steps, step{p, want})
	}
	return steps, again
}

func (w wish) wants(now time.Time, p netip.Prefix) how {
	for _, s := range w.set {
		switch {
		case s != p || !w.healthy:
		case !w.draining:
			return announced
		case now.Before(w.drainEnds):
			return marked
		}
	}
	return withdrawn
}
