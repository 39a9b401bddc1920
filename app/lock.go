package app

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/catalog"
)

// lock says which node works on an app. A free one keeps its record, without an
// owner, so that taking and leaving are both decided by the record's revision.
type lock struct {
	Owner string    `json:"owner,omitempty"`
	What  string    `json:"what,omitempty"`
	Since time.Time `json:"since,omitzero"`
}

// Mover ends the owner's name where a node moves machines of an app: it and the
// node's deploys keep each other out.
const Mover = "/mover"

// Lock takes the exclusive right to work on the app for the node owner; what
// says in words what it is for ("being deployed"). One that an owner has already,
// from before a crash, it gets again, and Unlock leaves it for all who got it: a
// node keeps its own order by other means. Its deploys of one app follow each
// other, its moves count who shares the lock (placement).
// One of an owner that gone reports is taken over. api.CodeConflict names the
// node that has it.
func (s *Store) Lock(ctx context.Context, name, owner, what string, gone func(node string) bool) error {
	mine := lock{Owner: owner, What: what, Since: time.Now().UTC()}
	for range tries {
		e, ok := s.locks.Get(name)
		var err error
		held := e.Value.Owner
		node := strings.TrimSuffix(held, Mover)
		switch {
		case !ok:
			_, err = s.locks.Create(ctx, name, mine)
		case held != "" && held != owner && !gone(node):
			return api.Errorf(api.CodeConflict, "app %q is %s by node %q", name, e.Value.What, node).WithHint("wait until that has ended, then try again")
		default:
			_, err = s.locks.Update(ctx, name, mine, e.Revision)
		}
		if err == nil || !errors.Is(err, catalog.ErrConflict) && !errors.Is(err, catalog.ErrExists) {
			return err
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil { // who was quicker is about to arrive in memory
			return err
		}
	}
	return api.Errorf(api.CodeConflict, "app %q is being worked on by another node", name).WithHint("wait until that has ended, then try again")
}

// Unlock leaves the lock, unless another node has taken it over.
func (s *Store) Unlock(ctx context.Context, name, owner string) error {
	e, ok := s.locks.Get(name)
	if !ok || e.Value.Owner != owner {
		return nil
	}
	_, err := s.locks.Update(ctx, name, lock{}, e.Revision)
	if errors.Is(err, catalog.ErrConflict) {
		return nil
	}
	return err
}

// Locked names the node that works on the app, and says on what; "" if none does.
func (s *Store) Locked(name string) (owner, what string) {
	e, _ := s.locks.Get(name)
	return e.Value.Owner, e.Value.What
}

// LockedBy are the apps that the owner works on.
func (s *Store) LockedBy(owner string) (apps []string) {
	for _, e := range s.locks.List("") {
		if e.Value.Owner == owner {
			apps = append(apps, e.Key)
		}
	}
	return apps
}

// ClaimRelease makes owner the node that carries the release out; from is the
// one that did so far. It fails with api.CodeConflict if that has changed.
func (s *Store) ClaimRelease(ctx context.Context, r Release, owner string) (Release, error) {
	from := r.Owner
	return edit(ctx, s.releases, releaseKey(r.App, r.Version), func(now *Release) error {
		if now.Version == 0 {
			return api.Errorf(api.CodeNotFound, "app %q has no release v%d", r.App, r.Version)
		}
		if now.Owner != from || now.Finished() {
			return taken(*now)
		}
		now.Owner = owner
		return nil
	})
}

// taken is the error of a node that goes on with a release which is another's.
func taken(r Release) error {
	return api.Errorf(api.CodeConflict, "release v%d of app %q is carried out by node %q now", r.Version, r.App, r.Owner)
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return fmt.Errorf("cannot wait for another node: %w", ctx.Err())
	}
}
