package fleet

import (
	"context"
	"sync"
)

// feed tells readers of ids. The zero value is ready.
type feed struct {
	mu      sync.Mutex // guards what follows
	readers map[*reader]struct{}
}

// reader holds the ids that one reader has not been told yet.
type reader struct {
	kick chan struct{} // holds one token when there are any

	mu    sync.Mutex // guards what follows
	known map[string]bool
	order []string
}

func (f *feed) join() *reader {
	r := &reader{kick: make(chan struct{}, 1), known: map[string]bool{}}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.readers == nil {
		f.readers = map[*reader]struct{}{}
	}
	f.readers[r] = struct{}{}
	return r
}

func (f *feed) leave(r *reader) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.readers, r)
}

func (f *feed) tell(ids ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for r := range f.readers {
		r.offer(ids...)
	}
}

func (r *reader) offer(ids ...string) {
	r.mu.Lock()
	for _, id := range ids {
		if !r.known[id] {
			r.known[id] = true
			r.order = append(r.order, id)
		}
	}
	r.mu.Unlock()
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

func (r *reader) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	ids := r.order
	r.order = nil
	clear(r.known)
	return ids
}

// pump sends ids until ctx ends.
func (r *reader) pump(ctx context.Context, out chan<- string) {
	for {
		for _, id := range r.take() {
			select {
			case out <- id:
			case <-ctx.Done():
				return
			}
		}
		select {
		case <-r.kick:
		case <-ctx.Done():
			return
		}
	}
}
