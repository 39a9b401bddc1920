package app

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/perigee-run/perigee/api"
)

// RecordRelease writes down a release that a client carries out. Recorded ones
// before it whose clients never said how they ended have failed by that.
func (s *Store) RecordRelease(ctx context.Context, r Release) (Release, error) {
	if owner, what := s.Locked(r.App); owner != "" && !strings.HasSuffix(owner, Mover) {
		return r, api.Errorf(api.CodeConflict, "app %q is %s by node %q", r.App, what, owner).WithHint("wait until that has ended, then try again")
	}
	before := s.Releases(r.App)
	r.Recorded, r.Status = true, api.ReleasePending
	r, err := s.AddRelease(ctx, r)
	if err != nil {
		return r, err
	}
	for _, old := range before {
		if old.Recorded && !old.ended() {
			if _, err := s.UpdateRecorded(ctx, r.App, old.Version, superseded); err != nil && !api.IsCode(err, api.CodeNotFound) {
				return r, err
			}
		}
	}
	return r, nil
}

// superseded ends a release whose client was never heard of again. If it is heard
// of after all, its word counts.
func superseded(r *Release) {
	r.Status, r.Reason = api.ReleaseFailed, "another release began before the client said how this one ended"
}

// UpdateRecorded changes a recorded release; api.CodePrecondition if the cloud
// carries it out, for then its outcome is not for clients to say.
func (s *Store) UpdateRecorded(ctx context.Context, app string, version int, change func(*Release)) (Release, error) {
	if _, err := s.Release(app, version); err != nil {
		return Release{}, err
	}
	return edit(ctx, s.releases, releaseKey(app, version), func(r *Release) error {
		switch {
		case r.Version == 0: // it went in between
			return api.Errorf(api.CodeNotFound, "app %q has no release v%d", app, version)
		case !r.Recorded:
			return api.Errorf(api.CodePrecondition, "release v%d of app %q was carried out by the cloud, which knows what has become of it", version, app)
		}
		change(r)
		r.FinishedAt = nil
		if r.ended() {
			now := time.Now().UTC()
			r.FinishedAt = &now
		}
		return nil
	})
}

// Recordable are the states that a client may say its release is in.
var Recordable = []string{api.ReleasePending, api.ReleaseRunning, api.ReleaseComplete, api.ReleaseFailed}

// CheckRecord refuses a state that a client cannot say its release is in.
func CheckRecord(status string) error {
	if !slices.Contains(Recordable, status) {
		return invalid("status", "a release cannot be made %q", api.Clip(status)).WithHint(strings.Join(Recordable, ", "))
	}
	return nil
}
