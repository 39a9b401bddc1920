package placement

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/perigee-run/perigee/catalog"
)

// Lease is the right of one node to decide on moves: a record in the catalog
// that its holder writes anew every third of the time it is valid for. The
// others take it over when it has not changed for that long by their own
// clocks, so clocks need not agree. A node that cannot reach the catalog's
// members cannot write, and lets go.
//
// Two nodes may both believe to hold it for a moment. That is allowed for: each
// step of a move is decided by the revision of its record.
type Lease struct {
	table *catalog.Table[leaseRecord]
	name  string
	node  string
	ttl   time.Duration
	gone  func(node string) bool
	log   *slog.Logger

	mu      sync.Mutex // guards what follows
	seen    uint64     // revision of the record
	since   time.Time  // when it was seen first
	renewed time.Time  // when we wrote it
}

type leaseRecord struct {
	Node string `json:"node"`
	Beat uint64 `json:"beat"` // makes each writing a change
}

// defaultLease is well below the time after which a node counts as dead.
const defaultLease = 15 * time.Second

// NewLease opens the lease of the name for the node. ttl 0 means 15 s. A holder that is
// gone for good loses it at once; without gone none ever is.
func NewLease(c *catalog.Catalog, name, node string, ttl time.Duration, gone func(node string) bool, log *slog.Logger) (*Lease, error) {
	if gone == nil {
		gone = func(string) bool { return false }
	}
	if ttl == 0 {
		ttl = defaultLease
	}
	if log == nil {
		log = slog.Default()
	}
	t, err := catalog.NewTable[leaseRecord](c, "leases")
	return &Lease{table: t, name: name, node: node, ttl: ttl, gone: gone, log: log}, err
}

// Held takes, keeps or renews the lease, and reports whether the node has it.
func (l *Lease) Held(ctx context.Context) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	e, ok := l.table.Get(l.name)
	if e.Revision != l.seen {
		l.seen, l.since = e.Revision, now
	}
	mine := ok && e.Value.Node == l.node
	switch {
	case mine && !l.renewed.IsZero() && now.Sub(l.renewed) < l.ttl/3:
		return true
	case ok && !mine && now.Sub(l.since) < l.ttl && !l.gone(e.Value.Node):
		return false
	}
	if err := l.take(ctx, e, ok); err != nil {
		return mine && !l.renewed.IsZero() && now.Sub(l.renewed) < l.ttl*2/3
	}
	if !mine {
		l.log.Info("this node decides on moves now", "node", l.node)
	}
	l.renewed = now
	return true
}

func (l *Lease) take(ctx context.Context, e catalog.Entry[leaseRecord], ok bool) (err error) {
	ctx, cancel := context.WithTimeout(ctx, l.ttl/3)
	defer cancel()
	next := leaseRecord{Node: l.node, Beat: e.Value.Beat + 1}
	if ok {
		_, err = l.table.Update(ctx, l.name, next, e.Revision)
	} else {
		_, err = l.table.Create(ctx, l.name, next)
	}
	if err != nil && !errors.Is(err, catalog.ErrConflict) && !errors.Is(err, catalog.ErrExists) {
		l.log.Debug("cannot write the lease", "node", l.node, "error", err)
	}
	return err
}
