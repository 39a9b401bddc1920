package app

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/appconfig"
)

// secretSet is the record of an app's secrets.
type secretSet struct {
	Version uint64            `json:"version"`
	Items   map[string]secret `json:"items"`
}

type secret struct {
	Sealed    []byte    `json:"sealed"`
	Digest    string    `json:"digest"`
	Version   uint64    `json:"version"`
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
}

// keptSets is how many former sets of an app's secrets are kept for machines that
// were made with them.
const keptSets = 20

const maxSecrets = 384 << 10 // bytes of one change; sealed and in base64 it must fit a record

// Secrets returns the values of the app's secrets, and the version of the whole
// set: that of the latest change.
func (s *Store) Secrets(_ context.Context, app string) (map[string]string, uint64, error) {
	e, _ := s.secrets.Get(app)
	values, err := s.unseal(app, &e.Value)
	return values, e.Value.Version, err
}

// SecretsAt returns the values as they were at the version, 0 being before the
// first change. If that is longer ago than the last 20 changes, they are the
// present ones.
func (s *Store) SecretsAt(_ context.Context, app string, version uint64) (map[string]string, error) {
	if version == 0 {
		return nil, nil
	}
	now, _ := s.secrets.Get(app)
	if now.Value.Version != version {
		if old, ok := s.oldSecrets.Get(setKey(app, version)); ok {
			return s.unseal(app, &old.Value)
		}
	}
	return s.unseal(app, &now.Value)
}

func (s *Store) unseal(app string, set *secretSet) (map[string]string, error) {
	values := make(map[string]string, len(set.Items))
	for name, sec := range set.Items {
		v, err := s.seal.open(app, name, sec.Sealed)
		if err != nil {
			return nil, err
		}
		values[name] = v
	}
	return values, nil
}

func setKey(app string, version uint64) string { return fmt.Sprintf("%s.%020d", app, version) }

// keep writes down a set that is about to be replaced.
func (s *Store) keep(ctx context.Context, app string, set secretSet) error {
	if set.Version == 0 {
		return nil
	}
	_, err := s.oldSecrets.Put(ctx, setKey(app, set.Version), set)
	return err
}

// forgetSets removes all but the newest former sets of the app.
func (s *Store) forgetSets(ctx context.Context, app string, keep int) error {
	all := s.oldSecrets.List(app + ".")
	for i := range max(0, len(all)-keep) {
		if err := s.oldSecrets.Delete(ctx, all[i].Key); err != nil {
			return err
		}
	}
	return nil
}

// ListSecrets returns the app's secrets without their values, by name, and the
// version of the set.
func (s *Store) ListSecrets(app string) ([]api.Secret, uint64, error) {
	if _, err := s.Get(app); err != nil {
		return nil, 0, err
	}
	e, _ := s.secrets.Get(app)
	return e.Value.shown(), e.Value.Version, nil
}

// FormerSecrets returns the app's secrets as they were at a version, without their
// values; none if that is not a former version, or too long ago.
func (s *Store) FormerSecrets(app string, version uint64) []api.Secret {
	if now, _ := s.secrets.Get(app); version == 0 || now.Value.Version == version {
		return nil
	}
	old, _ := s.oldSecrets.Get(setKey(app, version))
	return old.Value.shown()
}

func (set secretSet) shown() []api.Secret {
	out := make([]api.Secret, 0, len(set.Items))
	for name, sec := range set.Items {
		out = append(out, api.Secret{Name: name, Type: "encrypted", Digest: sec.Digest, Version: sec.Version, CreatedAt: sec.CreatedAt, UpdatedAt: sec.UpdatedAt})
	}
	slices.SortFunc(out, func(a, b api.Secret) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// SetSecrets sets values, and removes those that are nil; all or nothing.
// Machines get the change when they are made or updated next, not when they
// start again: the set that they were made with is kept for that.
func (s *Store) SetSecrets(ctx context.Context, app string, values map[string]*string) ([]api.Secret, uint64, error) {
	if _, err := s.usable(app); err != nil {
		return nil, 0, err
	}
	if err := checkSecrets(values); err != nil {
		return nil, 0, err
	}
	set, err := edit(ctx, s.secrets, app, func(set *secretSet) error {
		old := *set
		if err := s.change(set, app, values); err != nil {
			return err
		}
		return s.keep(ctx, app, old)
	})
	if err != nil {
		return nil, 0, err
	}
	return set.shown(), set.Version, s.forgetSets(ctx, app, keptSets)
}

// change applies values to the set. A removal of what is not there is refused:
// it is a misspelled name.
func (s *Store) change(set *secretSet, app string, values map[string]*string) error {
	set.Version++
	set.Items = maps.Clone(set.Items)
	if set.Items == nil {
		set.Items = map[string]secret{}
	}
	now := time.Now().UTC()
	for _, name := range slices.Sorted(maps.Keys(values)) {
		old, had := set.Items[name]
		v := values[name]
		switch {
		case v == nil && !had:
			return api.Errorf(api.CodeNotFound, "app %q has no secret %q", app, name).WithField("values." + name)
		case v == nil:
			delete(set.Items, name)
			continue
		case !had:
			old.CreatedAt = now
		}
		set.Items[name] = secret{Sealed: s.seal.close(app, name, *v), Digest: s.seal.sum(app, name, *v), Version: set.Version, CreatedAt: old.CreatedAt, UpdatedAt: now}
	}
	return checkSize(set)
}

func checkSize(set *secretSet) error {
	size := 0
	for name, sec := range set.Items {
		size += len(name) + len(sec.Sealed)
	}
	if size > maxSecrets {
		return invalid("values", "the app's secrets have %d bytes together; the most is %d", size, maxSecrets).
			WithHint("keep large files in the image or on a volume")
	}
	return nil
}

func checkSecrets(values map[string]*string) error {
	if len(values) == 0 {
		return invalid("values", "no secret is given").WithHint(`{"values":{"NAME":"value"}}; null removes one`)
	}
	for name, v := range values {
		if err := appconfig.CheckSecretName(name); err != nil {
			return invalid("values."+api.Clip(name), "%v", err)
		}
		if v != nil && strings.ContainsRune(*v, 0) {
			return invalid("values."+name, "the value of secret %q has a zero byte, which an environment cannot hold", name).
				WithHint("encode it in base64")
		}
	}
	return nil
}
