package machine

import (
	"bytes"
	"encoding/json"
	"hash/maphash"
	"runtime"
	"sync"
	"unique"
	"weak"

	"github.com/perigee-run/perigee/api"
)

// Interner decodes values from JSON and gives the same pointer for the same
// bytes, for as long as anybody holds it. What it gives must not be changed.
// The zero value is ready.
type Interner[T any] struct {
	mu    sync.Mutex                // guards what follows
	known map[uint64][]*interned[T] // by hash of the bytes
	seed  maphash.Seed
}

// interned is a value with the bytes that it came from.
type interned[T any] struct {
	raw   []byte
	value weak.Pointer[T]
}

// configs and images are shared by all summaries of the process.
var (
	configs Interner[api.MachineConfig]
	images  Interner[api.ImageRef]
)

// shared is s in a memory that equal strings share.
func shared(s string) string { return unique.Make(s).Value() }

// Len is how many values somebody holds, or held until lately.
func (i *Interner[T]) Len() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	n := 0
	for _, all := range i.known {
		n += len(all)
	}
	return n
}

// Decode reads JSON, or finds what the same bytes gave before; nil for none.
func (i *Interner[T]) Decode(raw []byte) (*T, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return nil, nil
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.known == nil {
		i.known, i.seed = map[uint64][]*interned[T]{}, maphash.MakeSeed()
	}
	sum := maphash.Bytes(i.seed, raw)
	for _, e := range i.known[sum] {
		if v := e.value.Value(); v != nil && bytes.Equal(e.raw, raw) {
			return v, nil
		}
	}
	v := new(T)
	if err := json.Unmarshal(raw, v); err != nil {
		return nil, err
	}
	e := &interned[T]{raw: bytes.Clone(raw), value: weak.Make(v)}
	i.known[sum] = append(i.known[sum], e)
	runtime.AddCleanup(v, func(sum uint64) { i.sweep(sum) }, sum)
	return v, nil
}

// sweep forgets the values under a hash that nobody holds any more.
func (i *Interner[T]) sweep(sum uint64) {
	i.mu.Lock()
	defer i.mu.Unlock()
	var kept []*interned[T]
	for _, e := range i.known[sum] {
		if e.value.Value() != nil {
			kept = append(kept, e)
		}
	}
	if i.known[sum] = kept; kept == nil {
		delete(i.known, sum)
	}
}
