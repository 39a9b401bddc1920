package catalog

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	copyWhole = "_whole" // the key that says that the copy was complete once
	// copyDelay is how far the copy of the catalog is behind, copyLazy that of
	// what nodes say of themselves, which changes all the time.
	copyDelay = 100 * time.Millisecond
	copyLazy  = 5 * time.Second
	copyAgain = time.Second // after a fault
)

// diskCopy is what this node last knew of the replicated state, in its own
// store: a node that is started while no member can be reached begins with it.
// It is written behind, and not synced: it is no one's truth.
type diskCopy struct {
	name   string
	delay  time.Duration
	log    *slog.Logger
	stream jetstream.Stream
	js     jetstream.JetStream
	kick   chan struct{}

	mu    sync.Mutex                   // guards what follows
	begin map[string]map[string]record // what was on disk; nil once it is not needed
	whole bool                         // the copy was complete once
	have  map[string]uint64            // revisions on disk, by table.key
	dirty map[string]record
	top   uint64 // the largest revision in have, at the start
}

// openCopy reads the copy from the local store.
func openCopy(ctx context.Context, js jetstream.JetStream, name string, delay time.Duration, log *slog.Logger) (*diskCopy, error) {
	c := &diskCopy{name: name, delay: delay, log: log, js: js, kick: make(chan struct{}, 1), begin: map[string]map[string]record{},
		have: map[string]uint64{}, dirty: map[string]record{}}
	var err error
	c.stream, err = js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name: "KV_" + name, Description: "what was last known of the replicated state", Subjects: []string{"$KV." + name + ".>"},
		MaxMsgsPerSubject: 1, Discard: jetstream.DiscardNew, AllowDirect: true, PersistMode: jetstream.AsyncPersistMode,
	})
	if err == nil {
		err = c.read(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open the copy of the state: %w", err)
	}
	return c, nil
}

func (c *diskCopy) read(ctx context.Context) error {
	kv, err := c.js.KeyValue(ctx, c.name)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w, err := kv.WatchAll(ctx)
	if err != nil {
		return err
	}
	defer w.Stop()
	for e := range w.Updates() {
		if e == nil {
			return nil
		}
		c.found(e.Key(), e.Value())
	}
	return errors.New("the reading ended early")
}

func (c *diskCopy) found(full string, value []byte) {
	table, key, ok := strings.Cut(full, ".")
	switch {
	case full == copyWhole:
		c.whole = true
	case ok && len(value) > 8:
		r := record{table: table, key: key, rev: binary.BigEndian.Uint64(value), data: value[8:]}
		gather(c.begin, r)
		c.have[full] = r.rev
		c.top = max(c.top, r.rev)
	}
}

// isWhole reports whether there is something to begin with.
func (c *diskCopy) isWhole() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.whole
}

func (c *diskCopy) table(name string) map[string]record {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.begin[name]
}

func (c *diskCopy) at() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.top
}

// load makes the copy what a complete reading says.
func (c *diskCopy) load(all map[string]map[string]record, _ uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.begin = nil
	for full := range c.have {
		table, key, _ := strings.Cut(full, ".")
		if _, ok := all[table][key]; !ok {
			c.dirty[full] = record{table: table, key: key, deleted: true}
		}
	}
	for _, records := range all {
		for _, r := range records {
			c.mark(r)
		}
	}
	c.wake()
}

func (c *diskCopy) change(r record) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mark(r)
	c.wake()
}

// mark notes what must be written; c.mu is held.
func (c *diskCopy) mark(r record) {
	full := r.table + "." + r.key
	if rev, ok := c.have[full]; r.deleted && ok || !r.deleted && rev != r.rev {
		c.dirty[full] = r
	} else {
		delete(c.dirty, full)
	}
}

func (c *diskCopy) wake() {
	select {
	case c.kick <- struct{}{}:
	default:
	}
}

// run writes what changed until ctx ends, and then once more.
func (c *diskCopy) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.Background(), askLimit)
			defer cancel()
			c.flush(last)
			return
		case <-c.kick:
		}
		if pause(ctx, c.delay) && !c.flush(ctx) && pause(ctx, copyAgain) {
			c.wake()
		}
	}
}

// flush writes what changed, and reports whether it could.
func (c *diskCopy) flush(ctx context.Context) bool {
	todo, complete := c.take()
	for full, r := range todo {
		if err := c.write(ctx, full, r); err != nil {
			if ctx.Err() == nil {
				c.log.Warn("cannot keep a copy of the state on disk, for now", "key", full, "error", err)
			}
			c.putBack(todo)
			return false
		}
		delete(todo, full)
	}
	if complete {
		c.markWhole(ctx)
	}
	return true
}

// putBack is for what could not be written: it is tried again.
func (c *diskCopy) putBack(todo map[string]record) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for full, r := range todo {
		if _, newer := c.dirty[full]; !newer {
			c.dirty[full] = r
		}
	}
}

// markWhole says on disk that the copy can be begun with: a complete reading
// was written.
func (c *diskCopy) markWhole(ctx context.Context) {
	if _, err := c.js.Publish(ctx, "$KV."+c.name+"."+copyWhole, []byte("1")); err == nil {
		c.mu.Lock()
		c.whole = true
		c.mu.Unlock()
	}
}

// take takes what is to be written. complete says that the copy is whole with it
// for the first time.
func (c *diskCopy) take() (todo map[string]record, complete bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	taken := c.dirty
	c.dirty = map[string]record{}
	for full, r := range taken { // one that goes meanwhile must be taken off the disk
		if _, ok := c.have[full]; !ok && !r.deleted {
			c.have[full] = 0
		}
	}
	return taken, !c.whole && c.begin == nil
}

func (c *diskCopy) write(ctx context.Context, full string, r record) (err error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit) // for each: all together may take long
	defer cancel()
	subject := "$KV." + c.name + "." + full
	if r.deleted {
		err = c.stream.Purge(ctx, jetstream.WithPurgeSubject(subject))
	} else {
		_, err = c.js.Publish(ctx, subject, append(binary.BigEndian.AppendUint64(nil, r.rev), r.data...))
	}
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.deleted {
		delete(c.have, full)
	} else {
		c.have[full] = r.rev
	}
	return nil
}
