package app

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/catalog"
)

// host is the record of one custom name.
type host struct {
	App       string    `json:"app"`
	Host      string    `json:"host"`
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at,omitzero"`
	// NoACME keeps the cloud from getting certificates for the name by itself.
	NoACME bool `json:"no_acme,omitempty"`
	// Custom is the certificate, with its key, that the owner brought, sealed.
	Custom []byte `json:"custom,omitempty"`
}

// Hosts returns the app's custom names, sorted.
func (s *Store) Hosts(app string) []string {
	out := []string{}
	for _, e := range s.hosts.List("") {
		if e.Value.App == app {
			out = append(out, e.Value.Host)
		}
	}
	return out
}

// AllHosts returns the custom names of every app that has some.
func (s *Store) AllHosts() map[string][]string {
	out := map[string][]string{}
	for _, e := range s.hosts.List("") {
		out[e.Value.App] = append(out[e.Value.App], e.Value.Host)
	}
	return out
}

// AddHost lets the app answer to a name. One that it has already is no error;
// api.CodeNameTaken if another app has it.
func (s *Store) AddHost(ctx context.Context, app, name string) error {
	if _, err := s.usable(app); err != nil {
		return err
	}
	name = tidyHost(name)
	if err := s.checkHost(name); err != nil {
		return err
	}
	_, err := s.hosts.Create(ctx, hostKey(name), host{App: app, Host: name, CreatedAt: time.Now().UTC()})
	if !errors.Is(err, catalog.ErrExists) {
		return err
	}
	if e, ok := s.hosts.Get(hostKey(name)); ok && e.Value.App == app {
		return nil
	}
	return hostTaken(name)
}

func hostTaken(name string) error {
	return api.Errorf(api.CodeNameTaken, "host %q belongs to another app", name).WithField("host").
		WithHint("remove it there first")
}

// RemoveHost takes a name from the app; api.CodeNotFound if it does not have it.
func (s *Store) RemoveHost(ctx context.Context, app, name string) error {
	name = tidyHost(name)
	if catalog.CheckKey(hostKey(name)) == nil {
		if e, ok := s.hosts.Get(hostKey(name)); ok && e.Value.App == app {
			return s.hosts.Delete(ctx, e.Key)
		}
	}
	return noHost(app, name)
}

// SetHosts makes names the app's custom names, in addition to those it has.
func (s *Store) SetHosts(ctx context.Context, app string, names []string) error {
	for _, n := range names {
		if err := s.AddHost(ctx, app, n); err != nil {
			return err
		}
	}
	return nil
}

func hostKey(name string) string { return strings.ReplaceAll(name, "*", "_") }

// checkHost reports why name cannot be a custom name.
func (s *Store) checkHost(name string) error {
	hint := "a full name such as shop.example.com, or *.example.com for any one label"
	if _, err := netip.ParseAddr(name); err == nil {
		return invalid("host", "host %q is an address, not a name", name).WithHint(hint)
	}
	labels := strings.Split(name, ".")
	if len(name) > 253 || len(labels) < 2 {
		return invalid("host", "host %q is not a full name", api.Clip(name)).WithHint(hint)
	}
	if s.cfg.Domain != "" && (name == s.cfg.Domain || strings.HasSuffix(name, "."+s.cfg.Domain)) {
		return invalid("host", "host %q is under the node's own domain", name).WithHint("apps answer to <app>." + s.cfg.Domain + " by themselves")
	}
	for i, l := range labels {
		if l == "*" && i == 0 && len(labels) > 2 {
			continue
		}
		if why := label(l); why != "" {
			return invalid("host", "host %q: its part %q %s", api.Clip(name), api.Clip(l), why).WithHint(hint)
		}
	}
	return nil
}
