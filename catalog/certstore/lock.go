package certstore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/perigee-run/perigee/catalog"
)

// LockTTL is how long a lock outlives a holder that died. A living holder
// renews it three times in that span. Whoever waits measures it by its own clock,
// as the time for which the record has not changed, so clocks need not agree.
const LockTTL = 30 * time.Second

type lockRecord struct {
	Holder string `json:"holder"`
	Beat   uint64 `json:"beat"` // makes each renewal a change
}

// heldLocks are the locks this process holds, each with the end of its renewal.
type heldLocks struct {
	mu   sync.Mutex // guards held
	held map[string]*heldLock
}

type heldLock struct {
	id     string
	cancel context.CancelFunc
	done   chan struct{}
}

// Lock implements certmagic.Locker. It waits until the lock is free, its holder
// has died, or ctx ends.
func (s *Store) Lock(ctx context.Context, name string) error {
	key, id := keyOf(name), ulid.Make().String()
	watch, stop := context.WithCancel(ctx)
	defer stop()
	var changes <-chan catalog.Change[lockRecord]
	var seen sighting
	for {
		rev, err := s.tryLock(ctx, key, id, &seen)
		if err == nil {
			s.hold(key, id, rev)
			return nil
		}
		if !errors.Is(err, catalog.ErrExists) && !errors.Is(err, catalog.ErrConflict) {
			return fmt.Errorf("cannot lock %q: %w", name, err)
		}
		if changes == nil {
			changes = s.locks.Watch(watch, key)
		}
		if err := s.awaitFree(ctx, &seen, changes); err != nil {
			return fmt.Errorf("cannot lock %q: %w", name, err)
		}
	}
}

// sighting is what one who waits has seen of another's lock.
type sighting struct {
	rev   uint64
	since time.Time // when this revision was seen first
}

func (s *Store) tryLock(ctx context.Context, key, id string, seen *sighting) (uint64, error) {
	e, ok := s.locks.Get(key)
	if !ok {
		*seen = sighting{}
		return s.locks.Create(ctx, key, lockRecord{Holder: id})
	}
	if e.Revision != seen.rev {
		*seen = sighting{e.Revision, time.Now()}
	}
	if time.Since(seen.since) >= s.lockTTL {
		return s.locks.Update(ctx, key, lockRecord{Holder: id}, e.Revision)
	}
	return 0, catalog.ErrExists
}

func (s *Store) awaitFree(ctx context.Context, seen *sighting, changes <-chan catalog.Change[lockRecord]) error {
	wait := 10 * time.Millisecond // someone else has just written and we have not seen it
	if left := s.lockTTL - time.Since(seen.since); seen.rev != 0 && left > 0 {
		wait = left
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case _, ok := <-changes:
		if !ok {
			return errors.Join(ctx.Err(), catalog.ErrClosed)
		}
	case <-timer.C:
	}
	return nil
}

// hold renews the lock until Unlock, or until someone else has it.
func (s *Store) hold(key, id string, rev uint64) {
	ctx, cancel := context.WithCancel(context.Background())
	h := &heldLock{id: id, cancel: cancel, done: make(chan struct{})}
	s.held.mu.Lock()
	defer s.held.mu.Unlock()
	if s.held.held == nil {
		s.held.held = map[string]*heldLock{}
	}
	s.held.held[key] = h
	go func() {
		defer close(h.done)
		s.renew(ctx, key, id, rev)
	}()
}

func (s *Store) renew(ctx context.Context, key, id string, rev uint64) {
	tick := time.NewTicker(s.lockTTL / 3)
	defer tick.Stop()
	for beat := uint64(1); ; beat++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		next, err := s.locks.Update(ctx, key, lockRecord{Holder: id, Beat: beat}, rev)
		switch {
		case errors.Is(err, catalog.ErrConflict) || errors.Is(err, catalog.ErrClosed):
			return
		case err == nil:
			rev = next
		}
	}
}

// Unlock implements certmagic.Locker.
func (s *Store) Unlock(ctx context.Context, name string) error {
	key := keyOf(name)
	s.held.mu.Lock()
	h := s.held.held[key]
	delete(s.held.held, key)
	s.held.mu.Unlock()
	if h == nil {
		return fmt.Errorf("cannot unlock %q: it is not locked here", name)
	}
	h.cancel()
	<-h.done
	if e, ok := s.locks.Get(key); !ok || e.Value.Holder != h.id {
		return nil // it expired and someone else has it
	}
	return s.locks.Delete(ctx, key)
}

// Close ends the renewal of locks still held; they expire by themselves.
func (s *Store) Close() {
	s.held.mu.Lock()
	defer s.held.mu.Unlock()
	for key, h := range s.held.held {
		h.cancel()
		<-h.done
		delete(s.held.held, key)
	}
}
