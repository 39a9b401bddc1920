package catalog

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	// looseFor is how long an entry may be on its way into the bucket.
	looseFor = 30 * time.Second
	// forgetAfter is how long it is known that an entry was taken back, and
	// forgetEvery is how many such news make it worth looking who is forgotten.
	forgetAfter = 10 * time.Minute
	forgetEvery = 1000
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
	out  *speaker // nil for a node alone

	mu sync.Mutex // guards what follows; before the locks of mem and out
	// loose are entries of others that came as a message alone, and when: they
	// are on their way into the bucket.
	loose map[string]time.Time
	taken int // entries taken back since it was last looked who is forgotten
}

// NewPublished opens the table name (one token) of what nodes say of themselves.
// It does not wait: what others say arrives in a moment, and meanwhile it is what
// this node last knew. A table is opened once per Catalog.
func NewPublished[T any](c *Catalog, name string) (*Published[T], error) {
	if err := checkTable(name); err != nil {
		return nil, err
	}
	if err := c.claimTable("published/" + name); err != nil {
		return nil, err
	}
	p := &Published[T]{cat: c, name: name, mem: newMirror[T](), loose: map[string]time.Time{}}
	if c.said == nil {
		return p, nil
	}
	if err := p.join(); err != nil {
		c.releaseTable("published/" + name)
		return nil, fmt.Errorf("cannot open table %q: %w", name, err)
	}
	return p, nil
}

// join begins to speak and to listen.
func (p *Published[T]) join() error {
	p.out = newSpeaker(p.cat, p.name)
	sub, err := p.cat.conn.Subscribe(p.out.heard+">", func(m *nats.Msg) { p.hear(m.Subject[len(p.out.heard):], m.Data) })
	if err != nil {
		return err
	}
	// What is missed here is in the bucket.
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		return err
	}
	f := p.cat.said.feed
	f.openFromCopy(p.name, p)
	f.open(p.name, p)
	p.cat.goOn(p.out.run)
	return nil
}

// Set says key of this node. It shows in this node's memory at once and in
// everyone else's as soon as it can. A key is one that CheckKey takes. To say
// again what is said already is nothing.
func (p *Published[T]) Set(key string, v T) {
	data, shown, err := encode(v)
	if err == nil {
		err = CheckKey(key)
	}
	if err != nil {
		p.cat.log.Error("catalog cannot publish", "table", p.name, "key", key, "error", err)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	seq := p.cat.seq.next()
	if p.out != nil && !p.out.say(key, seq, data) {
		return
	}
	p.mem.put(&Entry[T]{Key: p.own(key), Value: shown, Revision: seq})
}

// Unset takes the key back.
func (p *Published[T]) Unset(key string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	seq := p.cat.seq.next()
	if p.out != nil {
		p.out.takeBack(key, seq)
	}
	p.mem.remove(p.own(key), seq, false)
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
	if p.out != nil {
		p.out.wholeSaid()
	}
}

// hear is for a message of another node: entry is <node>.<key>.
func (p *Published[T]) hear(entry string, data []byte) {
	if strings.HasPrefix(entry, p.own("")) || len(data) < seqSize {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.apply(entry, data, len(data) == seqSize) {
		p.loose[entry] = time.Now()
	}
}

// apply takes an entry of another node unless a newer one is known.
func (p *Published[T]) apply(entry string, data []byte, deleted bool) bool {
	if deleted {
		p.mem.remove(entry, seqOf(data), true)
		if p.taken++; p.taken >= forgetEvery {
			p.forgetTaken(time.Now())
		}
		return false
	}
	e := p.newer(entry, data)
	if e != nil {
		p.mem.put(e)
	}
	return e != nil
}

// newer reads an entry; nil if one as new is known, or it cannot be read.
func (p *Published[T]) newer(entry string, data []byte) *Entry[T] {
	e := &Entry[T]{Key: entry, Revision: seqOf(data)}
	if known, ok := p.mem.get(entry); ok && known.Revision >= e.Revision {
		return nil
	}
	if err := json.Unmarshal(data[seqSize:], &e.Value); err != nil {
		p.cat.log.Error("what a node says cannot be read and is left out", "table", p.name, "entry", entry, "error", err)
		return nil
	}
	return e
}

// load implements sink.
func (p *Published[T]) load(all map[string]record, _ uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	own, fresh := map[string]record{}, map[string]*Entry[T]{}
	for entry, r := range all {
		key, mine := strings.CutPrefix(entry, p.own(""))
		switch {
		case mine:
			own[key] = r
		case r.deleted, len(r.data) < seqSize:
			p.read(r)
		default:
			delete(p.loose, entry)
			if e := p.newer(entry, r.data); e != nil {
				fresh[entry] = e
			}
		}
	}
	p.mem.putAll(fresh)
	for _, e := range p.mem.list("") {
		if r, ok := all[e.Key]; (!ok || r.deleted) && !strings.HasPrefix(e.Key, p.own("")) && time.Since(p.loose[e.Key]) > looseFor {
			p.mem.remove(e.Key, e.Revision, false)
		}
	}
	p.forgetTaken(time.Now())
	p.out.compare(own)
}

// forgetTaken forgets what was taken back long ago; mu is held.
func (p *Published[T]) forgetTaken(now time.Time) {
	p.taken = 0
	p.mem.passed(uint64(now.Add(-forgetAfter).UnixNano()))
}

// change implements sink.
func (p *Published[T]) change(r record) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if key, ok := strings.CutPrefix(r.key, p.own("")); ok {
		p.out.compareOne(key, r)
		return
	}
	p.read(r)
}

// read takes what the bucket has. A marker without a number is of the store's
// own making, and says nothing new.
func (p *Published[T]) read(r record) {
	delete(p.loose, r.key)
	if len(r.data) >= seqSize {
		p.apply(r.key, r.data, r.deleted)
	}
}

func has[V any](m map[string]V, key string) bool {
	_, ok := m[key]
	return ok
}

func (p *Published[T]) own(key string) string { return p.cat.node + "." + key }

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

// Forget takes back what a node said that is gone for good: under the keys, or all.
func (p *Published[T]) Forget(ctx context.Context, node string, keys ...string) error {
	said := slices.DeleteFunc(p.mem.list(node+"."), func(e Entry[T]) bool {
		return len(keys) > 0 && !slices.Contains(keys, strings.TrimPrefix(e.Key, node+"."))
	})
	if len(said) == 0 {
		return nil
	}
	if p.out != nil {
		if err := p.forgetStored(ctx, node, said); err != nil {
			return err
		}
	}
	for _, e := range said {
		p.mem.remove(e.Key, e.Revision, true)
		if p.out != nil {
			_ = p.cat.conn.Publish(p.out.heard+e.Key, seqBytes(e.Revision)) // the bucket tells those who miss it
		}
	}
	return nil
}

func (p *Published[T]) forgetStored(ctx context.Context, node string, said []Entry[T]) error {
	msgs := make([]*nats.Msg, len(said))
	for i, e := range said {
		msgs[i] = p.out.marker(e.Key, e.Revision)
	}
	ctx, cancel := context.WithTimeout(ctx, writeLimit)
	defer cancel()
	for {
		if msgs = p.out.store(ctx, msgs); len(msgs) == 0 {
			return nil
		}
		if !pause(ctx, writeRetry) {
			return fmt.Errorf("cannot forget what node %q said: %w", node, p.cat.unreachable(ctx.Err()))
		}
	}
}
