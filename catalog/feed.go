package catalog

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const followRetry = time.Second // after a pass that failed; a reconnect comes at once

// record is a bucket's record as it is stored; without data if it was deleted.
type record struct {
	table, key string
	rev        uint64
	data       []byte
	deleted    bool
}

// sink is a table that is fed. Its methods are called one at a time.
type sink interface {
	// load is given all records of the table, by key, as of a revision.
	load(all map[string]record, asOf uint64)
	change(record)
}

// feed reads a bucket, whole and then each change, for all tables in it: one
// reader for each bucket, however many tables there are.
type feed struct {
	b    *bucket
	copy *diskCopy // nil if there is none

	mu     sync.Mutex // guards what follows
	sinks  map[string]sink
	early  map[string]map[string]record // of tables that are not open
	at     uint64                       // the latest revision that was read
	loaded chan struct{}                // closed when the bucket was read once
	news   bool                         // changes are arriving: a pass has read all
	signal chan struct{}                // closed and replaced to read all again
	err    error                        // of the latest pass
}

func newFeed(b *bucket) *feed {
	return &feed{b: b, sinks: map[string]sink{}, early: map[string]map[string]record{},
		loaded: make(chan struct{}), signal: make(chan struct{})}
}

// resync makes the feed compare its tables with the store: what was deleted
// while the connection was down may have left no trace to watch.
func (f *feed) resync() {
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.signal)
	f.signal = make(chan struct{})
}

// hurry begins again what could not be read, since there is a leader now.
func (f *feed) hurry() {
	f.mu.Lock()
	waits := !f.news
	f.mu.Unlock()
	if waits {
		f.resync()
	}
}

func (f *feed) resyncSignal() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.signal
}

// open feeds a table from now on. It must not be open already.
func (f *feed) open(table string, s sink) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sinks[table] = s
	if f.isLoaded() {
		s.load(f.early[table], f.at)
		delete(f.early, table)
	}
}

// takeEarly returns the records of a table that is not open, once.
func (f *feed) takeEarly(table string) map[string]record {
	f.mu.Lock()
	defer f.mu.Unlock()
	records := f.early[table]
	delete(f.early, table)
	return records
}

// openFromCopy fills a table that cannot be read yet with what was known before.
func (f *feed) openFromCopy(table string, s sink) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.isLoaded() && f.copy != nil {
		s.load(f.copy.table(table), f.copy.at())
	}
}

func (f *feed) isLoaded() bool {
	select {
	case <-f.loaded:
		return true
	default:
		return false
	}
}

// current reports whether the feed has had revision to.
func (f *feed) current(to uint64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.isLoaded() && f.at >= to
}

// latest is the latest revision that was read.
func (f *feed) latest() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.at
}

// failed is why the bucket could not be read, nil if it was or is being read.
func (f *feed) failed() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// run reads until ctx ends.
func (f *feed) run(ctx context.Context) {
	for ctx.Err() == nil {
		signal := f.resyncSignal()
		err := f.pass(ctx, signal)
		f.note(err)
		if err != nil && ctx.Err() == nil {
			f.b.log.Debug("catalog's bucket is not followed for now; reads go on from memory", "bucket", f.b.name, "error", err)
			f.rest(ctx, signal)
		}
	}
}

func (f *feed) note(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

func (f *feed) rest(ctx context.Context, signal <-chan struct{}) {
	timer := time.NewTimer(followRetry)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-signal:
	case <-timer.C:
	}
}

// pass reads the whole bucket, applies it, and then applies the changes until
// ctx ends, the watch breaks, or signal asks for a new pass.
func (f *feed) pass(ctx context.Context, signal <-chan struct{}) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // ends with the pass
		select {
		case <-signal:
			cancel()
		case <-ctx.Done():
		}
	}()
	defer f.setNews(false)
	kv, at, err := f.begin(ctx)
	if err != nil {
		return f.unless(signal, err)
	}
	w, err := kv.WatchAll(ctx)
	if err != nil {
		return f.unless(signal, err)
	}
	// It tells the store, and waits seconds for an answer if none is there.
	defer f.b.late.Go(func() { _ = w.Stop() })
	return f.unless(signal, f.apply(ctx, w, at))
}

func (f *feed) setNews(on bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.news = on
}

// missed reports whether the feed waits for news and has not had revision to.
func (f *feed) missed(to uint64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.news && f.at < to
}

// unless is err, or nil if the pass was ended to begin another.
func (f *feed) unless(signal <-chan struct{}, err error) error {
	select {
	case <-signal:
		return nil
	default:
		return err
	}
}

func (f *feed) begin(ctx context.Context) (jetstream.KeyValue, jetstream.StreamState, error) {
	var none jetstream.StreamState
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	kv, err := f.b.handle(ctx)
	if err != nil {
		return nil, none, err
	}
	status, err := kv.Status(ctx)
	if err != nil {
		return nil, none, err
	}
	s, ok := status.(*jetstream.KeyValueBucketStatus)
	if !ok {
		return nil, none, errors.New("the bucket's state is not told")
	}
	return kv, s.StreamInfo().State, nil
}

func (f *feed) apply(ctx context.Context, w jetstream.KeyWatcher, at jetstream.StreamState) error {
	all := map[string]map[string]record{} // nil once the first reading is complete
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e, ok := <-w.Updates():
			switch {
			case !ok:
				return jetstream.ErrConsumerDeleted
			case e == nil && short(all, at):
				return errLags
			case e == nil:
				f.load(all, at.LastSeq)
				all = nil
			case all != nil:
				gather(all, stored(e))
			default:
				f.change(stored(e))
			}
		}
	}
}

var errLags = errors.New("what was read is of a member that does not have everything yet")

// short reports whether a reading has fewer records than the leader said that there
// are, and not the latest: a member that has just joined is read before it has them
// all. Records that expire meanwhile are among the oldest.
func short(all map[string]map[string]record, at jetstream.StreamState) bool {
	n, latest := 0, uint64(0)
	for _, t := range all {
		n += len(t)
		for _, r := range t {
			latest = max(latest, r.rev)
		}
	}
	return uint64(n) < at.Msgs && latest < at.LastSeq
}

func stored(e jetstream.KeyValueEntry) record {
	table, key, _ := strings.Cut(e.Key(), ".")
	return record{table: table, key: key, rev: e.Revision(), data: e.Value(), deleted: e.Operation() != jetstream.KeyValuePut}
}

func gather(all map[string]map[string]record, r record) {
	if all[r.table] == nil {
		all[r.table] = map[string]record{}
	}
	all[r.table][r.key] = r
}

// load hands a complete reading out. Deleted records are among it: they may be
// newer than asOf.
func (f *feed) load(all map[string]map[string]record, asOf uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.at, f.err, f.news = max(f.at, asOf), nil, true
	for table, s := range f.sinks {
		s.load(all[table], asOf)
	}
	if f.copy != nil {
		f.copy.load(all, asOf)
	}
	f.early = map[string]map[string]record{}
	for table, records := range all {
		for _, r := range records {
			f.at = max(f.at, r.rev)
		}
		if f.sinks[table] == nil {
			f.early[table] = records
		}
	}
	if !f.isLoaded() {
		close(f.loaded)
	}
}

func (f *feed) change(r record) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.at = max(f.at, r.rev)
	if f.copy != nil {
		f.copy.change(r)
	}
	switch s := f.sinks[r.table]; {
	case s != nil:
		s.change(r)
	case r.deleted:
		delete(f.early[r.table], r.key)
	default:
		gather(f.early, r)
	}
}
