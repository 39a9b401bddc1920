package catalog

import (
	"context"
	"strings"
	"sync"
)

// Change is one record written, or with Deleted, removed (Value is then zero).
type Change[T any] struct {
	Entry[T]
	Deleted bool
}

// Watch sends the present records whose keys begin with prefix, in key order,
// and then each change, until ctx ends or the catalog is closed; then the
// channel is closed. Writers never wait for the reader: of several changes to a
// key that the reader has not taken yet, it is given the last. A key that came
// and went meanwhile shows as Deleted only.
func (t *Table[T]) Watch(ctx context.Context, prefix string) <-chan Change[T] {
	return watch(ctx, t.cat, t.mem, prefix, func(c Change[T]) Change[T] { return c })
}

func watch[T, C any](ctx context.Context, c *Catalog, m *mirror[T], prefix string, as func(Change[T]) C) <-chan C {
	out := make(chan C)
	s := &subscription[T]{prefix: prefix, pending: map[string]Change[T]{}, kick: make(chan struct{}, 1)}
	if !c.begin() {
		close(out)
		return out
	}
	m.subscribe(s)
	go func() {
		defer c.wg.Done()
		defer close(out)
		defer m.unsubscribe(s)
		pump(ctx, s, c.ctx.Done(), out, as)
	}()
	return out
}

// subscription is what one reader has not taken yet.
type subscription[T any] struct {
	prefix string
	kick   chan struct{} // holds one token when pending may have something

	mu      sync.Mutex // guards what follows; taken with the mirror's lock held
	pending map[string]Change[T]
	order   []string // keys of pending, in the order of their first change
}

func (m *mirror[T]) subscribe(s *subscription[T]) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, k := range m.keys {
		s.offer(Change[T]{Entry: *m.entries[k]})
	}
	m.subs[s] = struct{}{}
}

func (m *mirror[T]) unsubscribe(s *subscription[T]) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.subs, s)
}

func (s *subscription[T]) offer(c Change[T]) {
	if !strings.HasPrefix(c.Key, s.prefix) {
		return
	}
	s.mu.Lock()
	if _, waiting := s.pending[c.Key]; !waiting {
		s.order = append(s.order, c.Key)
	}
	s.pending[c.Key] = c
	s.mu.Unlock()
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

func (s *subscription[T]) take() (c Change[T], ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.order) == 0 {
		s.order = nil // let go of the array that was sliced down
		return c, false
	}
	c = s.pending[s.order[0]]
	delete(s.pending, s.order[0])
	s.order = s.order[1:]
	return c, true
}

func pump[T, C any](ctx context.Context, s *subscription[T], closed <-chan struct{}, out chan<- C, as func(Change[T]) C) {
	for {
		for c, ok := s.take(); ok; c, ok = s.take() {
			select {
			case out <- as(c):
			case <-ctx.Done():
				return
			case <-closed:
				return
			}
		}
		select {
		case <-s.kick:
		case <-ctx.Done():
			return
		case <-closed:
			return
		}
	}
}
