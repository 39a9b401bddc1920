package catalog

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
)

// Table is all records of one kind: T as JSON, by key. Its methods may be called
// from any goroutine. The package comment says what they promise.
type Table[T any] struct {
	cat  *Catalog
	b    *bucket
	name string
	mem  *mirror[T]
}

// NewTable opens the table name (one token) of the replicated state and returns
// when its records are in memory: those of the members if one can be reached,
// else those that this node knew when it last could. A table is opened once per
// Catalog, by the room that owns it.
func NewTable[T any](c *Catalog, name string) (*Table[T], error) {
	t, err := newTable[T](c, c.state, name)
	if err != nil {
		return nil, err
	}
	if err := c.moveToState(name, t); err != nil {
		c.releaseTable(name)
		return nil, fmt.Errorf("cannot open table %q: %w", name, err)
	}
	return t, nil
}

// NewLocal opens the table name of records that this node keeps for itself, on
// its own disk. It never needs the network; otherwise it is as [NewTable].
func NewLocal[T any](c *Catalog, name string) (*Table[T], error) {
	if c.own == nil {
		return nil, fmt.Errorf("cannot open table %q: the catalog has no directory to keep a node's own records in", name)
	}
	return newTable[T](c, c.own, name)
}

func newTable[T any](c *Catalog, b *bucket, name string) (*Table[T], error) {
	if err := checkTable(name); err != nil {
		return nil, err
	}
	if err := c.claimTable(name); err != nil {
		return nil, err
	}
	t := &Table[T]{cat: c, b: b, name: name, mem: newMirror[T]()}
	b.feed.open(name, t)
	if err := c.await(b.feed, func() { b.feed.openFromCopy(name, t) }); err != nil {
		c.releaseTable(name)
		return nil, fmt.Errorf("cannot open table %q: %w", name, err)
	}
	return t, nil
}

// load implements sink.
func (t *Table[T]) load(all map[string]record, asOf uint64) {
	entries := make(map[string]*Entry[T], len(all))
	for key, r := range all {
		if e := t.decode(r); e != nil {
			entries[key] = e
		} else {
			t.mem.remove(key, r.rev, false) // it may be newer than asOf
		}
	}
	t.mem.load(entries, asOf)
	t.mem.passed(asOf)
}

// change implements sink.
func (t *Table[T]) change(r record) {
	if e := t.decode(r); e != nil {
		t.mem.put(e)
	} else {
		t.mem.remove(r.key, r.rev, false)
	}
	t.mem.passed(r.rev)
}

// decode returns nil for a delete, and for a record that cannot be read: one bad
// record must not take the rest of its table away.
func (t *Table[T]) decode(r record) *Entry[T] {
	if r.deleted {
		return nil
	}
	e := &Entry[T]{Key: r.key, Revision: r.rev}
	if err := json.Unmarshal(r.data, &e.Value); err != nil {
		t.cat.log.Error("catalog record cannot be read and is left out", "table", t.name, "key", r.key, "error", err)
		return nil
	}
	return e
}

func checkTable(name string) error {
	if err := CheckKey(name); err != nil || strings.ContainsAny(name, "./=") {
		return fmt.Errorf("cannot open table %q: the name must be one token of letters, digits, '-' and '_'", name)
	}
	return nil
}

// begin counts a goroutine that Close must wait for; false when it is too late.
func (c *Catalog) begin() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.isClosed {
		return false
	}
	c.wg.Add(1)
	return true
}

func (c *Catalog) claimTable(name string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tables[name] {
		return fmt.Errorf("cannot open table %q: it is open already; share the one that is", name)
	}
	c.tables[name] = true
	return nil
}

func (c *Catalog) releaseTable(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.tables, name)
}

// Get returns the record from memory. The value is shared: treat it as read-only.
func (t *Table[T]) Get(key string) (Entry[T], bool) { return t.mem.get(key) }

// List returns the records whose keys begin with prefix, sorted by key. The
// values are shared: treat them as read-only. To list one app's machines and not
// those of its namesakes, end the prefix with a dot.
func (t *Table[T]) List(prefix string) []Entry[T] { return t.mem.list(prefix) }

// Create writes a record that must not exist yet, or returns ErrExists.
func (t *Table[T]) Create(ctx context.Context, key string, v T) (uint64, error) {
	return t.write(ctx, Reserve, key, v, create)
}

// Update writes the record if it still has revision rev, or returns ErrConflict.
func (t *Table[T]) Update(ctx context.Context, key string, v T, rev uint64) (uint64, error) {
	return t.write(ctx, LastReserve, key, v, func(full string, data []byte) storing { return update(full, data, rev) })
}

// Put writes the record, whatever was there.
func (t *Table[T]) Put(ctx context.Context, key string, v T) (uint64, error) {
	return t.write(ctx, LastReserve, key, v, put)
}

// write stores the record and shows it in memory. What is shown is decoded from
// the bytes stored, so it shares nothing with the caller's value and is what
// every other node will see.
func (t *Table[T]) write(ctx context.Context, need int64, key string, v T, how func(full string, data []byte) storing) (uint64, error) {
	data, shown, err := t.encode(key, v)
	if err != nil {
		return 0, t.fault("write", key, err)
	}
	if err := t.b.room(need); err != nil {
		return 0, t.fault("write", key, t.closedOr(err))
	}
	rev, err := t.b.write(ctx, how(t.name+"."+key, data))
	if err != nil {
		return 0, t.fault("write", key, t.closedOr(err))
	}
	t.mem.put(&Entry[T]{Key: key, Value: shown, Revision: rev})
	return rev, nil
}

func (t *Table[T]) encode(key string, v T) (data []byte, shown T, err error) {
	if err = CheckKey(key); err != nil {
		return nil, shown, err
	}
	return encode(v)
}

// encode returns the bytes to store and the value that everyone will read.
func encode[T any](v T) (data []byte, shown T, err error) {
	if data, err = json.Marshal(v); err != nil {
		return nil, shown, err
	}
	if len(data) > MaxRecord {
		return nil, shown, fmt.Errorf("record has %d bytes, the most is %d", len(data), MaxRecord)
	}
	err = json.Unmarshal(data, &shown)
	return data, shown, err
}

// Delete removes the record; a record that is not there is no error.
func (t *Table[T]) Delete(ctx context.Context, key string) error { return t.delete(ctx, key) }

// DeleteAt removes the record if it still has revision rev, or returns
// ErrConflict: for who has judged by what the record says.
func (t *Table[T]) DeleteAt(ctx context.Context, key string, rev uint64) error {
	return t.delete(ctx, key, jetstream.WithExpectLastSequencePerSubject(rev))
}

func (t *Table[T]) delete(ctx context.Context, key string, opts ...jetstream.PublishOpt) error {
	if err := CheckKey(key); err != nil {
		return t.fault("delete", key, err)
	}
	if err := t.b.room(LastReserve); err != nil {
		return t.fault("delete", key, t.closedOr(err))
	}
	rev, err := t.b.write(ctx, remove(t.name+"."+key, t.cat.ttl, nil, opts...))
	if err != nil {
		return t.fault("delete", key, t.closedOr(err))
	}
	t.mem.remove(key, rev, true)
	return nil
}

func (t *Table[T]) closedOr(err error) error {
	if t.cat.ctx.Err() != nil {
		return ErrClosed
	}
	return err
}

func (t *Table[T]) fault(verb, key string, err error) error {
	return fmt.Errorf("cannot %s %s record %q: %w", verb, t.name, key, err)
}
