package catalog

import (
	"maps"
	"slices"
	"strings"
	"sync"
)

// Entry is one record as it is in memory. Value is shared: read-only.
type Entry[T any] struct {
	Key      string
	Value    T
	Revision uint64 // grows with every write in the whole catalog
}

// mirror is a table in memory. Everything that changes it carries a revision,
// and the larger one wins, so that the node's own writes (applied when they are
// acknowledged) and the watcher's news may come in any order.
type mirror[T any] struct {
	mu      sync.RWMutex // guards what follows
	entries map[string]*Entry[T]
	keys    []string          // sorted
	gone    map[string]uint64 // own deletes that the watcher has not passed yet
	subs    map[*subscription[T]]struct{}
}

func newMirror[T any]() *mirror[T] {
	return &mirror[T]{entries: map[string]*Entry[T]{}, gone: map[string]uint64{}, subs: map[*subscription[T]]struct{}{}}
}

func (m *mirror[T]) get(key string) (Entry[T], bool) {
	m.mu.RLock()
	e := m.entries[key]
	m.mu.RUnlock()
	if e == nil {
		return Entry[T]{}, false
	}
	return *e, true
}

func (m *mirror[T]) list(prefix string) []Entry[T] {
	m.mu.RLock()
	defer m.mu.RUnlock()
	from, _ := slices.BinarySearch(m.keys, prefix)
	var out []Entry[T]
	for _, k := range m.keys[from:] {
		if !strings.HasPrefix(k, prefix) {
			break
		}
		out = append(out, *m.entries[k])
	}
	return out
}

// put applies a value unless something newer is known.
func (m *mirror[T]) put(e *Entry[T]) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.putLocked(e)
}

func (m *mirror[T]) putLocked(e *Entry[T]) {
	if !m.isNews(e) {
		return
	}
	if m.entries[e.Key] == nil {
		at, _ := slices.BinarySearch(m.keys, e.Key)
		m.keys = slices.Insert(m.keys, at, e.Key)
	}
	m.entries[e.Key] = e
	m.tell(Change[T]{Entry: *e})
}

func (m *mirror[T]) isNews(e *Entry[T]) bool {
	old := m.entries[e.Key]
	return (old == nil || old.Revision < e.Revision) && m.gone[e.Key] <= e.Revision
}

// putAll is put for many: one sort instead of an insert for each.
func (m *mirror[T]) putAll(all map[string]*Entry[T]) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.putAllLocked(all)
}

func (m *mirror[T]) putAllLocked(all map[string]*Entry[T]) {
	for _, key := range slices.Sorted(maps.Keys(all)) {
		e := all[key]
		if !m.isNews(e) {
			continue
		}
		if m.entries[key] == nil {
			m.keys = append(m.keys, key)
		}
		m.entries[key] = e
		m.tell(Change[T]{Entry: *e})
	}
	slices.Sort(m.keys)
}

// remove applies a delete of the given revision. An own delete leaves a trace
// until the watcher has passed it, or an older put still under way to us would
// bring the key back.
func (m *mirror[T]) remove(key string, rev uint64, own bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if own {
		m.gone[key] = max(m.gone[key], rev)
	}
	m.removeLocked(key, rev)
}

func (m *mirror[T]) removeLocked(key string, rev uint64) {
	old := m.entries[key]
	if old == nil || old.Revision > rev {
		return
	}
	delete(m.entries, key)
	if at, ok := slices.BinarySearch(m.keys, key); ok {
		m.keys = slices.Delete(m.keys, at, at+1)
	}
	m.tell(Change[T]{Entry: Entry[T]{Key: key, Revision: rev}, Deleted: true})
}

// passed forgets own deletes that the watcher can no longer contradict.
func (m *mirror[T]) passed(rev uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for k, r := range m.gone {
		if r <= rev {
			delete(m.gone, k)
		}
	}
}

// load applies a complete reading of the table that began when the store stood
// at revision asOf: keys not in it are gone unless written after that.
func (m *mirror[T]) load(all map[string]*Entry[T], asOf uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, key := range slices.Clone(m.keys) {
		if all[key] == nil {
			m.removeLocked(key, asOf)
		}
	}
	m.putAllLocked(all)
}

// tell hands a change to every subscription; m.mu is held.
func (m *mirror[T]) tell(c Change[T]) {
	for s := range m.subs {
		s.offer(c)
	}
}
