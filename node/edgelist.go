package node

import (
	"sync/atomic"
	"time"

	"github.com/perigee-run/perigee/dns/zone"
)

// edgesFor is how long a list of the edges answers the questions of strangers.
const edgesFor = time.Second

// edgeList is a source whose edges are made once and then given for a while: who
// asks has shown no right to have all nodes looked at.
type edgeList struct {
	zone.Source
	kept atomic.Pointer[edgesAt]
}

type edgesAt struct {
	edges []zone.Edge
	at    time.Time
}

// Edges implements zone.Source.
func (l *edgeList) Edges() []zone.Edge {
	k := l.kept.Load()
	if k == nil || time.Since(k.at) >= edgesFor {
		k = &edgesAt{at: time.Now()}
		k.edges = l.Source.Edges()
		l.kept.Store(k)
	}
	return k.edges
}
