package token

import (
	"context"
	"errors"
	"time"

	"github.com/perigee-run/perigee/catalog"
)

const (
	tendEvery = 5 * time.Minute
	// usedEvery is how fine the time of the last use is: writing it down at each use
	// would make every call a write of the cloud.
	usedEvery = time.Hour
	// keepEnded is how long a token that has ended is still listed.
	keepEnded = 30 * 24 * time.Hour
)

// Run writes down when tokens were used last, and forgets those that ended long
// ago, until ctx ends.
func (s *Store) Run(ctx context.Context) error {
	tick := time.NewTicker(tendEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			s.tend(ctx, now)
		}
	}
}

// touch remembers a use.
func (s *Store) touch(id string, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used[id] = now
}

func (s *Store) uses() map[string]time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	used := s.used
	s.used = map[string]time.Time{}
	return used
}

func (s *Store) tend(ctx context.Context, now time.Time) {
	used := s.uses()
	for _, e := range s.table.List("") {
		r := e.Value
		var err error
		switch at, ok := used[r.ID]; {
		case r.ended(now.Add(-keepEnded)):
			err = s.table.DeleteAt(ctx, e.Key, e.Revision)
		case ok && at.Sub(r.LastUsed) > usedEvery:
			r.LastUsed = at.UTC()
			_, err = s.table.Update(ctx, e.Key, r, e.Revision)
		}
		if err != nil && !errors.Is(err, catalog.ErrConflict) && ctx.Err() == nil {
			s.cfg.Logger.Debug("cannot tend token", "token", r.ID, "error", err)
		}
	}
}

// ended reports whether the token has been useless since before a time.
func (r Record) ended(before time.Time) bool {
	return !r.ExpiresAt.IsZero() && r.ExpiresAt.Before(before) || !r.RevokedAt.IsZero() && r.RevokedAt.Before(before)
}
