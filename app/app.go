package app

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/catalog"
)

// App is the record of one app.
type App struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	Org       string    `json:"org"`
	Network   string    `json:"network"`
	CreatedAt time.Time `json:"created_at"`
	// Key lets a client repeat its call to create the app.
	Key string `json:"key,omitempty"`
	// Deleting says that the app is on its way out; it takes no more changes.
	Deleting bool `json:"deleting,omitempty"`
}

// Create makes an app; api.CodeNameTaken if there is one of the name, unless
// the same idempotency key made it.
func (s *Store) Create(ctx context.Context, req api.CreateAppRequest) (App, error) {
	name := req.AppName
	if name == "" {
		name = req.Name
	}
	if err := CheckName(name); err != nil {
		return App{}, err
	}
	a := App{ID: newID(), Name: name, Org: req.OrgSlug, Network: req.Network, CreatedAt: time.Now().UTC(), Key: req.IdempotencyKey}
	if a.Org == "" {
		a.Org = s.cfg.Org
	}
	if err := checkSlug("org_slug", a.Org); err != nil {
		return App{}, err
	}
	if a.Network == "" {
		a.Network = "default"
	}
	if _, err := s.EnsureOrg(ctx, a.Org); err != nil {
		return App{}, err
	}
	_, err := s.apps.Create(ctx, name, a)
	if errors.Is(err, catalog.ErrExists) {
		return s.again(a)
	}
	return a, err
}

// again answers a repeated create.
func (s *Store) again(a App) (App, error) {
	if e, ok := s.apps.Get(a.Name); ok && a.Key != "" && e.Value.Key == a.Key && e.Value.Org == a.Org {
		return e.Value, nil
	}
	return App{}, api.Errorf(api.CodeNameTaken, "there is an app named %q already", a.Name).
		WithField("app_name").WithHint("choose another name")
}

// Get returns an app; api.CodeNotFound if there is none of the name.
func (s *Store) Get(name string) (App, error) {
	if catalog.CheckKey(name) == nil {
		if e, ok := s.apps.Get(name); ok {
			return e.Value, nil
		}
	}
	return App{}, api.Errorf(api.CodeNotFound, "there is no app named %q", name).WithHint("GET /v1/apps lists them")
}

// usable is Get for those who want to change something.
func (s *Store) usable(name string) (App, error) {
	a, err := s.Get(name)
	if err == nil && a.Deleting {
		err = api.Errorf(api.CodeConflict, "app %q is being destroyed", name)
	}
	return a, err
}

// List returns all apps by name.
func (s *Store) List() []App {
	entries := s.apps.List("")
	out := make([]App, len(entries))
	for i, e := range entries {
		out[i] = e.Value
	}
	return out
}

// Org returns the app's owner. An app that is on its way out has none: it gets
// no new machines.
func (s *Store) Org(_ context.Context, name string) (string, error) {
	a, err := s.usable(name)
	return a.Org, err
}

// Doom marks the app as on its way out. It may be repeated.
func (s *Store) Doom(ctx context.Context, name string) error {
	if _, err := s.Get(name); err != nil {
		return err
	}
	_, err := edit(ctx, s.apps, name, func(a *App) error {
		if a.Name == "" {
			return api.Errorf(api.CodeNotFound, "there is no app named %q", name)
		}
		a.Deleting = true
		return nil
	})
	return err
}

// Delete removes all that belongs to the app, the app's own record last, so
// that it may be repeated after a crash.
func (s *Store) Delete(ctx context.Context, name string) error {
	for _, e := range s.releases.List(name + ".") {
		if err := s.releases.Delete(ctx, e.Key); err != nil {
			return err
		}
	}
	for _, h := range s.Hosts(name) {
		if err := s.hosts.Delete(ctx, hostKey(h)); err != nil {
			return err
		}
	}
	if err := s.releaseAll(ctx, name); err != nil {
		return err
	}
	if err := s.forgetSets(ctx, name, 0); err != nil {
		return err
	}
	if err := s.secrets.Delete(ctx, name); err != nil {
		return err
	}
	if err := s.apps.Delete(ctx, name); err != nil {
		return err
	}
	return s.locks.Delete(ctx, name)
}

func newID() string {
	var b [8]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}
