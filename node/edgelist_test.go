package node

import (
	"testing"
	"time"

	"github.com/perigee-run/perigee/dns/zone"
)

// countedEdges says with the number of its edges how often it was asked.
type countedEdges struct {
	zone.Source
	asked int
}

func (c *countedEdges) Edges() []zone.Edge {
	c.asked++
	return make([]zone.Edge, c.asked)
}

func TestEdgesAreMadeOnceForManyQuestions(t *testing.T) {
	c := &countedEdges{}
	l := &edgeList{Source: c}
	first := time.Now()
	for range 10_000 {
		l.Edges()
	}
	if most := 2 + int(time.Since(first)/edgesFor); c.asked > most {
		t.Errorf("10000 questions made the edges %d times, want %d at most", c.asked, most)
	}
	before := len(l.Edges())
	l.kept.Store(&edgesAt{edges: l.Edges(), at: time.Now().Add(-edgesFor)})
	if got := len(l.Edges()); got <= before {
		t.Errorf("the list is never made anew: %d edges after %d", got, before)
	}
}
