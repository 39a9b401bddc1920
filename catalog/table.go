package catalog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Table is all records of one kind: T as JSON, by key. Its methods may be called
// from any goroutine. The package comment says what they promise.
type Table[T any] struct {
	cat  *Catalog
	name string
	mem  *mirror[T]
}

// NewTable opens the table name (one token) and returns when all its records
// are in memory. A table is opened once per Catalog, by the room that owns it.
func NewTable[T any](c *Catalog, name string) (*Table[T], error) {
	if err := checkTable(name); err != nil {
		return nil, err
	}
	if err := c.claimTable(name); err != nil {
		return nil, err
	}
	t := &Table[T]{cat: c, name: name, mem: newMirror[T]()}
	ready := make(chan error, 1)
	if !c.begin() {
		return nil, fmt.Errorf("cannot open table %q: %w", name, ErrClosed)
	}
	go func() {
		defer c.wg.Done()
		t.follow(c.ctx, ready)
	}()
	if err := <-ready; err != nil {
		c.releaseTable(name)
		return nil, fmt.Errorf("cannot open table %q: %w", name, err)
	}
	return t, nil
}

// NewLocal opens the table name of records that this node keeps for itself, on
// its own disk. It never needs the network; otherwise it is as [NewTable].
func NewLocal[T any](c *Catalog, name string) (*Table[T], error) { return NewTable[T](c, name) }

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
	return t.write(ctx, Reserve, key, v, func(ctx context.Context, full string, data []byte) (uint64, error) {
		rev, err := t.cat.kv.Create(ctx, full, data)
		if errors.Is(err, jetstream.ErrKeyExists) {
			return 0, ErrExists
		}
		return rev, err
	})
}

// Update writes the record if it still has revision rev, or returns ErrConflict.
func (t *Table[T]) Update(ctx context.Context, key string, v T, rev uint64) (uint64, error) {
	return t.write(ctx, LastReserve, key, v, func(ctx context.Context, full string, data []byte) (uint64, error) {
		rev, err := t.cat.kv.Update(ctx, full, data, rev)
		if wrongRevision(err) {
			return 0, ErrConflict
		}
		return rev, err
	})
}

// Put writes the record, whatever was there.
func (t *Table[T]) Put(ctx context.Context, key string, v T) (uint64, error) {
	return t.write(ctx, LastReserve, key, v, func(ctx context.Context, full string, data []byte) (uint64, error) {
		return t.cat.kv.Put(ctx, full, data)
	})
}

func wrongRevision(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence
}

// write stores the record and shows it in memory. What is shown is decoded from
// the bytes stored, so it shares nothing with the caller's value and is what
// every other node will see.
func (t *Table[T]) write(ctx context.Context, need int64, key string, v T, store func(ctx context.Context, full string, data []byte) (uint64, error)) (uint64, error) {
	data, shown, err := t.encode(key, v)
	if err != nil {
		return 0, t.fault("write", key, err)
	}
	if err := t.cat.Room(need); err != nil {
		return 0, t.fault("write", key, t.closedOr(err))
	}
	guarded, done := t.cat.guard(ctx)
	defer done()
	rev, err := store(guarded, t.name+"."+key, data)
	if err != nil {
		return 0, t.fault("write", key, t.plainly(ctx, guarded, err))
	}
	t.mem.put(&Entry[T]{Key: key, Value: shown, Revision: rev})
	return rev, nil
}

func (t *Table[T]) encode(key string, v T) (data []byte, shown T, err error) {
	if err = CheckKey(key); err != nil {
		return nil, shown, err
	}
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
func (t *Table[T]) Delete(ctx context.Context, key string) error {
	if err := CheckKey(key); err != nil {
		return t.fault("delete", key, err)
	}
	// Published by hand because the library's Delete does not tell the revision.
	msg := nats.NewMsg("$KV." + bucketName + "." + t.name + "." + key)
	msg.Header.Set("KV-Operation", "DEL")
	msg.Header.Set(jetstream.MsgTTLHeader, t.cat.ttl)
	if err := t.cat.Room(LastReserve); err != nil {
		return t.fault("delete", key, t.closedOr(err))
	}
	guarded, done := t.cat.guard(ctx)
	defer done()
	ack, err := t.cat.js.PublishMsg(guarded, msg)
	if err != nil {
		return t.fault("delete", key, t.plainly(ctx, guarded, err))
	}
	t.mem.remove(key, ack.Sequence, true)
	return nil
}

// plainly is why the store did not write: that the disk is full, if it failed.
func (t *Table[T]) plainly(ctx, guarded context.Context, err error) error {
	if ctx.Err() == nil && guarded.Err() != nil {
		err = t.cat.disk.full(LastReserve)
	}
	return t.closedOr(err)
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
