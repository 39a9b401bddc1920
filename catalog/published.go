package catalog

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"
)

// PublishedEntry is one thing that a node says of itself. Value is shared:
// read-only.
type PublishedEntry[T any] struct {
	Node, Key string
	Value     T
	Seq       uint64 // grows with each change that the node makes
}

// PublishedChange is one entry that was set, or with Deleted, taken back.
type PublishedChange[T any] struct {
	PublishedEntry[T]
	Deleted bool
}

// Published is what every node says of itself, in everyone's memory. Each node
// writes its own entries alone. Its methods may be called from any goroutine;
// none but Forget waits for anything.
type Published[T any] struct {
	cat  *Catalog
	name string
	mem  *mirror[T]

	mu   sync.Mutex // guards what follows
	last uint64     // the latest sequence number that was used
}

// NewPublished opens the table name (one token) of what nodes say of themselves.
// A table is opened once per Catalog.
func NewPublished[T any](c *Catalog, name string) (*Published[T], error) {
	if err := checkTable(name); err != nil {
		return nil, err
	}
	if err := c.claimTable("published/" + name); err != nil {
		return nil, err
	}
	return &Published[T]{cat: c, name: name, mem: newMirror[T]()}, nil
}

// Set says key of this node. It shows in this node's memory at once and in
// everyone else's as soon as it can. A key is one that CheckKey takes.
func (p *Published[T]) Set(key string, v T) {
	shown, err := copyOf(v)
	if err == nil {
		err = CheckKey(key)
	}
	if err != nil {
		p.cat.log.Error("catalog cannot publish", "table", p.name, "key", key, "error", err)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mem.put(&Entry[T]{Key: p.own(key), Value: shown, Revision: p.next()})
}

// Unset takes the key back.
func (p *Published[T]) Unset(key string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mem.remove(p.own(key), p.next(), false)
}

// Replace sets all that this node says; what it said before and is not in all
// is taken back, also what it said before it was restarted.
func (p *Published[T]) Replace(all map[string]T) {
	for _, e := range p.mem.list(p.own("")) {
		if key := e.Key[len(p.own("")):]; !has(all, key) {
			p.Unset(key)
		}
	}
	for key, v := range all {
		p.Set(key, v)
	}
}

func has[V any](m map[string]V, key string) bool {
	_, ok := m[key]
	return ok
}

func (p *Published[T]) own(key string) string { return p.cat.node + "." + key }

// next is a sequence number larger than all before; p.mu is held.
func (p *Published[T]) next() uint64 {
	p.last = max(p.last+1, uint64(time.Now().UnixNano()))
	return p.last
}

// Get returns what node says under key.
func (p *Published[T]) Get(node, key string) (PublishedEntry[T], bool) {
	e, ok := p.mem.get(node + "." + key)
	if !ok {
		return PublishedEntry[T]{}, false
	}
	return published(e), true
}

// List returns what all nodes say, sorted by node and key.
func (p *Published[T]) List() []PublishedEntry[T] {
	all := p.mem.list("")
	out := make([]PublishedEntry[T], len(all))
	for i, e := range all {
		out[i] = published(e)
	}
	return out
}

func published[T any](e Entry[T]) PublishedEntry[T] {
	node, key, _ := strings.Cut(e.Key, ".")
	return PublishedEntry[T]{Node: node, Key: key, Value: e.Value, Seq: e.Revision}
}

// Watch sends what all nodes say and then each change, until ctx ends or the
// catalog is closed. As with [Table.Watch], nobody waits for the reader.
func (p *Published[T]) Watch(ctx context.Context) <-chan PublishedChange[T] {
	return watch(ctx, p.cat, p.mem, "", func(c Change[T]) PublishedChange[T] {
		return PublishedChange[T]{PublishedEntry: published(c.Entry), Deleted: c.Deleted}
	})
}

// Forget takes back all that a node said that is gone for good.
func (p *Published[T]) Forget(ctx context.Context, node string) error {
	for _, e := range p.mem.list(node + ".") {
		p.mem.remove(e.Key, e.Revision, false)
	}
	return nil
}

func copyOf[T any](v T) (shown T, err error) {
	data, err := json.Marshal(v)
	if err != nil {
		return shown, err
	}
	if len(data) > MaxRecord {
		return shown, fmt.Errorf("record has %d bytes, the most is %d", len(data), MaxRecord)
	}
	return shown, json.Unmarshal(data, &shown)
}
