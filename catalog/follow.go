package catalog

import (
	"context"
	"encoding/json"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const followRetry = time.Second // after a pass that failed; a reconnect comes at once

// follow keeps the mirror up to date until ctx ends. The first pass's result
// goes to ready: nil when the table is complete in memory, else why not, and
// then follow returns.
func (t *Table[T]) follow(ctx context.Context, ready chan<- error) {
	resync := t.cat.resyncSignal()
	loaded := func() {
		if ready != nil {
			ready <- nil
			ready = nil
		}
	}
	for {
		err := t.pass(ctx, resync, loaded)
		if ready != nil {
			ready <- err
			return
		}
		if err != nil && ctx.Err() == nil {
			t.cat.log.Warn("catalog table is not followed for now; reads go on from memory", "table", t.name, "error", err)
			t.pause(ctx, resync)
		}
		if ctx.Err() != nil {
			return
		}
		resync = t.cat.resyncSignal()
	}
}

func (t *Table[T]) pause(ctx context.Context, resync <-chan struct{}) {
	timer := time.NewTimer(followRetry)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-resync:
	case <-timer.C:
	}
}

// pass reads the whole table, applies it, calls loaded, and then applies the
// changes until ctx ends, the watch breaks, or resync asks for a new pass.
func (t *Table[T]) pass(ctx context.Context, resync <-chan struct{}, loaded func()) error {
	status, err := t.cat.kv.Status(ctx)
	if err != nil {
		return err
	}
	asOf := uint64(0)
	if s, ok := status.(*jetstream.KeyValueBucketStatus); ok {
		asOf = s.StreamInfo().State.LastSeq
	}
	w, err := t.cat.kv.Watch(ctx, t.name+".>")
	if err != nil {
		return err
	}
	defer w.Stop()
	return t.apply(ctx, w, asOf, resync, loaded)
}

func (t *Table[T]) apply(ctx context.Context, w jetstream.KeyWatcher, asOf uint64, resync <-chan struct{}, loaded func()) error {
	all := map[string]*Entry[T]{} // nil once the first reading is complete
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-resync:
			return nil
		case e, ok := <-w.Updates():
			switch {
			case !ok:
				return jetstream.ErrConsumerDeleted
			case e == nil:
				t.mem.load(all, asOf)
				all = nil
				t.mem.passed(asOf)
				loaded()
			case all != nil:
				t.gather(all, e)
			default:
				t.change(e)
			}
		}
	}
}

func (t *Table[T]) gather(all map[string]*Entry[T], e jetstream.KeyValueEntry) {
	if got := t.decode(e); got != nil {
		all[got.Key] = got
		return
	}
	key := e.Key()[len(t.name)+1:]
	delete(all, key)
	t.mem.remove(key, e.Revision(), false) // it may be newer than the reading's asOf
}

func (t *Table[T]) change(e jetstream.KeyValueEntry) {
	if got := t.decode(e); got != nil {
		t.mem.put(got)
	} else {
		t.mem.remove(e.Key()[len(t.name)+1:], e.Revision(), false)
	}
	t.mem.passed(e.Revision())
}

// decode returns nil for a delete, and for a record that cannot be read: one bad
// record must not take the rest of its table away.
func (t *Table[T]) decode(e jetstream.KeyValueEntry) *Entry[T] {
	if e.Operation() != jetstream.KeyValuePut {
		return nil
	}
	got := &Entry[T]{Key: e.Key()[len(t.name)+1:], Revision: e.Revision()}
	if err := json.Unmarshal(e.Value(), &got.Value); err != nil {
		t.cat.log.Error("catalog record cannot be read and is left out", "table", t.name, "key", got.Key, "error", err)
		return nil
	}
	return got
}
