package app

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/catalog"
)

// Release is the record of one release: what the API shows, and what deploy
// needs to go on with it after a crash. Once written, only Status, Reason,
// FinishedAt, Owner and Job change.
type Release struct {
	api.Release
	// Owner is the node that carries it out.
	Owner string `json:"owner,omitempty"`
	Job   Job    `json:"job"`
}

// Job is deploy's memory of a release under way.
type Job struct {
	// Phase is how far it got; the names are deploy's.
	Phase string `json:"phase,omitempty"`
	// MaxUnavailable, WaitTimeout, Command and CommandTimeout are as asked for.
	MaxUnavailable float64       `json:"max_unavailable,omitempty"`
	WaitTimeout    time.Duration `json:"wait_timeout,omitempty"`
	Command        []string      `json:"command,omitempty"`
	CommandTimeout time.Duration `json:"command_timeout,omitempty"`
	// Keep leaves machines alone that are as the release wants them already.
	Keep bool `json:"keep,omitempty"`
	// Before is the app's machines when the release began, by id: what an undo
	// goes back to.
	Before map[string]Before `json:"before,omitempty"`
}

// Before is what a machine was before a release touched it.
type Before struct {
	Version  string `json:"version"`
	Release  int    `json:"release"`
	State    string `json:"state"`
	Cordoned bool   `json:"cordoned,omitempty"`
}

// Finished reports whether nothing is to be done for the release any more. What a
// client carries out is not ours to do.
func (r *Release) Finished() bool {
	return r.Recorded || r.ended()
}

// ended reports whether the release has come to its end, whoever carries it out.
func (r *Release) ended() bool {
	return r.Status != api.ReleasePending && r.Status != api.ReleaseRunning
}

func releaseKey(app string, version int) string { return fmt.Sprintf("%s.%08d", app, version) }

func releaseApp(key string) string {
	app, _, _ := strings.Cut(key, ".")
	return app
}

// AddRelease gives the release the app's next number and writes it.
func (s *Store) AddRelease(ctx context.Context, r Release) (Release, error) {
	if _, err := s.usable(r.App); err != nil {
		return r, err
	}
	s.numbering.Lock()
	defer s.numbering.Unlock()
	r.CreatedAt = time.Now().UTC()
	for range tries {
		r.Version = 1
		if newest, ok := s.NewestRelease(r.App); ok {
			r.Version = newest.Version + 1
		}
		_, err := s.releases.Create(ctx, releaseKey(r.App, r.Version), r)
		if errors.Is(err, catalog.ErrExists) {
			continue // another node was quicker; its release arrives in memory
		}
		if err != nil {
			return r, fmt.Errorf("cannot record release: %w", err)
		}
		return r, s.prune(ctx, r.App)
	}
	return r, api.Errorf(api.CodeConflict, "other releases of app %q are being made; try again", r.App)
}

// prune removes the oldest finished releases, but never the one that runs.
func (s *Store) prune(ctx context.Context, app string) error {
	all := s.releases.List(app + ".")
	runs, _ := s.CompleteRelease(app, 0)
	for i := 0; i < len(all)-s.cfg.KeepReleases; i++ {
		if r := all[i].Value; r.Finished() && r.Version != runs.Version {
			if err := s.releases.Delete(ctx, all[i].Key); err != nil {
				return err
			}
		}
	}
	return nil
}

// SaveRelease writes what has become of a release; api.CodeConflict if another
// node carries it out by now.
func (s *Store) SaveRelease(ctx context.Context, r Release) error {
	_, err := edit(ctx, s.releases, releaseKey(r.App, r.Version), func(now *Release) error {
		if now.Version != 0 && now.Owner != r.Owner {
			return taken(*now)
		}
		*now = r
		return nil
	})
	return err
}

// Release returns one release; api.CodeNotFound if there is none.
func (s *Store) Release(app string, version int) (Release, error) {
	if _, err := s.Get(app); err != nil {
		return Release{}, err
	}
	if e, ok := s.releases.Get(releaseKey(app, version)); ok {
		return e.Value, nil
	}
	return Release{}, api.Errorf(api.CodeNotFound, "app %q has no release v%d", app, version).WithHint("GET /v1/apps/" + app + "/releases lists them")
}

// Releases returns the app's releases, newest first.
func (s *Store) Releases(app string) []Release {
	entries := s.releases.List(app + ".")
	out := make([]Release, 0, len(entries))
	for _, e := range slices.Backward(entries) {
		out = append(out, e.Value)
	}
	return out
}

// NewestRelease returns the app's newest release, whatever became of it.
func (s *Store) NewestRelease(app string) (Release, bool) {
	entries := s.releases.List(app + ".")
	if len(entries) == 0 {
		return Release{}, false
	}
	return entries[len(entries)-1].Value, true
}

// CompleteRelease returns the app's newest complete release before the version
// given; 0 means of all.
func (s *Store) CompleteRelease(app string, before int) (Release, bool) {
	for _, r := range s.Releases(app) {
		if r.Status == api.ReleaseComplete && (before == 0 || r.Version < before) {
			return r, true
		}
	}
	return Release{}, false
}

// Unfinished returns the releases of all apps that deploy is to go on with.
func (s *Store) Unfinished() []Release {
	var out []Release
	for _, e := range s.releases.List("") {
		if !e.Value.Finished() {
			out = append(out, e.Value)
		}
	}
	return out
}

// Images returns the digests of the images that releases under way and the
// latest keep complete ones of each app need, for a rollback has to work when
// the registry is out of reach.
func (s *Store) Images(keep int) map[string]bool {
	in, complete := map[string]bool{}, map[string]int{}
	for _, e := range slices.Backward(s.releases.List("")) {
		r := e.Value
		if r.Status == api.ReleaseComplete {
			complete[r.App]++
		}
		if !r.ended() || r.Status == api.ReleaseComplete && complete[r.App] <= keep {
			if _, digest, ok := strings.Cut(r.Image, "@"); ok {
				in[digest] = true
			}
		}
	}
	return in
}
