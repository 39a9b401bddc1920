package app

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/catalog"
)

// orgRecord is what is kept of an org, under its name.
type orgRecord struct {
	// Number stands for the org in private addresses. It is given once and is no
	// two orgs', because the firewalls between nodes go by it.
	Number    uint32    `json:"number"`
	CreatedAt time.Time `json:"created_at,omitzero"`
}

// DefaultOrg owns the apps that name no other.
func (s *Store) DefaultOrg() string { return s.cfg.Org }

// OrgNumber returns the number that stands for an org in private addresses, 0
// for an org that has none yet.
func (s *Store) OrgNumber(org string) uint32 {
	if catalog.CheckKey(org) != nil {
		return 0
	}
	e, _ := s.orgs.Get(org)
	return e.Value.Number
}

// Orgs returns all orgs by name, among them the one that owns apps which name no
// other.
func (s *Store) Orgs() []api.Org {
	apps := map[string]int{}
	for _, a := range s.List() {
		apps[a.Org]++
	}
	out := []api.Org{}
	for _, e := range s.orgs.List("") {
		out = append(out, api.Org{ID: e.Key, Slug: e.Key, Name: e.Key, Apps: apps[e.Key], CreatedAt: e.Value.CreatedAt})
	}
	if _, ok := s.orgs.Get(s.cfg.Org); !ok {
		out = append(out, api.Org{ID: s.cfg.Org, Slug: s.cfg.Org, Name: s.cfg.Org})
	}
	slices.SortFunc(out, func(a, b api.Org) int { return strings.Compare(a.Slug, b.Slug) })
	return out
}

// GetOrg returns an org; api.CodeNotFound if there is none of the name.
func (s *Store) GetOrg(slug string) (api.Org, error) {
	for _, o := range s.Orgs() {
		if o.Slug == slug {
			return o, nil
		}
	}
	return api.Org{}, api.Errorf(api.CodeNotFound, "there is no org named %q", api.Clip(slug)).WithField("org_slug").WithHint("GET /v1/orgs lists them")
}

// CreateOrg makes an org; api.CodeNameTaken if there is one of the name.
func (s *Store) CreateOrg(ctx context.Context, slug string) (api.Org, error) {
	if err := checkSlug("slug", slug); err != nil {
		return api.Org{}, err
	}
	if s.OrgNumber(slug) != 0 {
		return api.Org{}, api.Errorf(api.CodeNameTaken, "there is an org named %q already", slug).WithField("slug").WithHint("choose another name")
	}
	if _, err := s.EnsureOrg(ctx, slug); err != nil {
		return api.Org{}, err
	}
	return s.GetOrg(slug)
}

// EnsureOrg gives the org its number if it has none, and returns it. Of two nodes
// that do so at the same time, both return the same.
func (s *Store) EnsureOrg(ctx context.Context, org string) (uint32, error) {
	if err := checkSlug("org_slug", org); err != nil {
		return 0, err
	}
	for range tries {
		if n := s.OrgNumber(org); n != 0 {
			return n, nil
		}
		r := orgRecord{Number: s.freeNumber(), CreatedAt: time.Now().UTC()}
		_, err := s.orgs.Create(ctx, org, r)
		switch {
		case err == nil:
			return r.Number, nil
		case !errors.Is(err, catalog.ErrExists):
			return 0, err
		}
		// The other node's record is on its way to our memory.
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	return 0, errors.New("cannot read the number of org " + org + ": another node has just made it; try again")
}

// freeNumber picks at random, so that two nodes that pick for two orgs at the
// same moment do not pick the same.
func (s *Store) freeNumber() uint32 {
	taken := map[uint32]bool{0: true} // 0 is the nodes' own
	for _, e := range s.orgs.List("") {
		taken[e.Value.Number] = true
	}
	for {
		if n := rand.Uint32(); !taken[n] {
			return n
		}
	}
}
