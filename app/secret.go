package app

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/perigee-run/perigee/api"
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

const (
	maxSecretName = 255
	maxSecrets    = 384 << 10 // bytes of one change; sealed and in base64 it must fit a record
)

// Secrets returns the values of the app's secrets, and the version of the whole
// set: that of the latest change.
func (s *Store) Secrets(_ context.Context, app string) (map[string]string, uint64, error) {
	e, ok := s.secrets.Get(app)
	if !ok {
		return nil, 0, nil
	}
	values := make(map[string]string, len(e.Value.Items))
	for name, sec := range e.Value.Items {
		v, err := s.seal.open(app, name, sec.Sealed)
		if err != nil {
			return nil, 0, err
		}
		values[name] = v
	}
	return values, e.Value.Version, nil
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

func (set secretSet) shown() []api.Secret {
	out := make([]api.Secret, 0, len(set.Items))
	for name, sec := range set.Items {
		out = append(out, api.Secret{Name: name, Type: "encrypted", Digest: sec.Digest, Version: sec.Version, CreatedAt: sec.CreatedAt, UpdatedAt: sec.UpdatedAt})
	}
	slices.SortFunc(out, func(a, b api.Secret) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// SetSecrets sets values, and removes those that are nil; all or nothing.
// Machines get the change when they are made or updated next.
func (s *Store) SetSecrets(ctx context.Context, app string, values map[string]*string) ([]api.Secret, uint64, error) {
	if _, err := s.usable(app); err != nil {
		return nil, 0, err
	}
	if err := checkSecrets(values); err != nil {
		return nil, 0, err
	}
	set, err := edit(ctx, s.secrets, app, func(set *secretSet) error { return s.change(set, app, values) })
	return set.shown(), set.Version, err
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
		if why := variable(name); why != "" {
			return invalid("values."+clip(name), "secret name %q %s", clip(name), why).
				WithHint("letters, digits and underscores, not beginning with a digit")
		}
		if v != nil && strings.ContainsRune(*v, 0) {
			return invalid("values."+name, "the value of secret %q has a zero byte, which an environment cannot hold", name).
				WithHint("encode it in base64")
		}
	}
	return nil
}

// variable says why s cannot name an environment variable; "" if it can.
func variable(s string) string {
	switch {
	case s == "":
		return "is empty"
	case len(s) > maxSecretName:
		return "is too long"
	case s[0] >= '0' && s[0] <= '9':
		return "begins with a digit"
	}
	for _, r := range s {
		if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_' {
			return "has the character " + quote(r)
		}
	}
	return ""
}
