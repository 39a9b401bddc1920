package image

import (
	"context"
	"sync"
)

// flights lets several callers who want the same image share one making of it.
// The zero value is ready.
type flights struct {
	mu     sync.Mutex // guards flying and, in each flight, waiters and listeners
	flying map[string]*flight
}

// flight is one making. It goes on while anyone waits for it.
type flight struct {
	cancel  context.CancelFunc
	done    chan struct{}
	err     error // after done
	waiters int

	listening sync.Mutex // keeps calls of listeners from overlapping
	listeners map[int]func(Progress)
	next      int
}

// do runs work under key, or joins the one who does. When the last caller's
// context ends, so does work's, and do returns after work has. A caller that
// finds a cancelled flight waits for its end and starts another.
func (fs *flights) do(ctx context.Context, key string, progress func(Progress), work func(context.Context, func(Progress)) error) error {
	for {
		f, id, joined := fs.join(ctx, key, progress, work)
		if joined {
			return fs.wait(ctx, key, f, id)
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			return alive(ctx)
		}
	}
}

func (fs *flights) join(ctx context.Context, key string, progress func(Progress), work func(context.Context, func(Progress)) error) (f *flight, id int, joined bool) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	f = fs.flying[key]
	if f == nil {
		f = fs.start(ctx, key, work)
	}
	if f.waiters < 0 {
		return f, 0, false
	}
	f.waiters++
	return f, f.listen(progress), true
}

// start begins a flight; fs.mu is held.
func (fs *flights) start(ctx context.Context, key string, work func(context.Context, func(Progress)) error) *flight {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	f := &flight{cancel: cancel, done: make(chan struct{}), listeners: map[int]func(Progress){}}
	if fs.flying == nil {
		fs.flying = map[string]*flight{}
	}
	fs.flying[key] = f
	go func() {
		defer close(f.done)
		defer cancel()
		f.err = work(ctx, f.tell)
		fs.mu.Lock()
		delete(fs.flying, key)
		fs.mu.Unlock()
	}()
	return f
}

func (fs *flights) wait(ctx context.Context, key string, f *flight, id int) error {
	defer f.unlisten(id)
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
	}
	fs.mu.Lock()
	f.waiters--
	last := f.waiters == 0
	if last {
		f.waiters = -1 // too late to join
		f.cancel()
	}
	fs.mu.Unlock()
	if last {
		<-f.done
	}
	return alive(ctx)
}

func (f *flight) listen(progress func(Progress)) int {
	f.listening.Lock()
	defer f.listening.Unlock()
	f.next++
	if progress != nil {
		f.listeners[f.next] = progress
	}
	return f.next
}

func (f *flight) unlisten(id int) {
	f.listening.Lock()
	defer f.listening.Unlock()
	delete(f.listeners, id)
}

func (f *flight) tell(p Progress) {
	f.listening.Lock()
	defer f.listening.Unlock()
	for _, l := range f.listeners {
		l(p)
	}
}
