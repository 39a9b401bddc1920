package httpapi

import (
	"cmp"
	"maps"
	"slices"
	"strconv"

	"github.com/perigee-run/perigee/api"
)

var secretQuery = []param{
	{"min_version", "integer", "Answer 409 where the change that made this version is not known yet"},
	{"show_secrets", "boolean", "Refused if true: values are shown to machines alone"},
}

func (s *Server) listSecrets(c *call) (api.ListSecretsResponse, error) {
	var none api.ListSecretsResponse
	if show, err := c.bool("show_secrets"); err != nil {
		return none, err
	} else if show {
		return none, api.Errorf(api.CodeUnsupported, "the values of secrets are shown to nobody but the app's machines").WithField("show_secrets").
			WithHint("leave it out: names and digests are listed")
	}
	secrets, version, err := s.cfg.Apps.ListSecrets(c.path("app_name"))
	if err != nil {
		return none, err
	}
	if v := c.text("min_version"); v != "" {
		least, err := strconv.ParseUint(v, 10, 64)
		if err != nil {
			return none, invalid("min_version", "min_version is %q; it must be a whole number", api.Clip(v))
		}
		if version < least {
			return none, api.Errorf(api.CodeConflict, "app %q has secrets of version %d here, not yet %d", c.path("app_name"), version, least).
				WithField("min_version").WithHint("try again in a moment")
		}
	}
	app := c.path("app_name")
	return api.ListSecretsResponse{Secrets: s.spread(app, secrets), Removed: s.removed(app, secrets), Version: version}, nil
}

// removed are the secrets that machines were made with and that are not set any more.
func (s *Server) removed(app string, now []api.Secret) []api.Secret {
	gone, seen := map[string]api.Secret{}, map[uint64]bool{}
	for _, v := range s.secretVersions(app) {
		if seen[v] {
			continue
		}
		seen[v] = true
		for _, old := range s.cfg.Apps.FormerSecrets(app, v) {
			if old.Status = api.SecretRemoved; old.Version >= gone[old.Name].Version {
				gone[old.Name] = old
			}
		}
	}
	for _, set := range now {
		delete(gone, set.Name)
	}
	return slices.SortedFunc(maps.Values(gone), func(a, b api.Secret) int { return cmp.Compare(a.Name, b.Name) })
}

// secretVersions are the sets of secrets that the app's machines have.
func (s *Server) secretVersions(app string) (have []uint64) {
	for _, m := range s.cfg.Machines.List(app) {
		if m.SecretsVersion != nil {
			have = append(have, *m.SecretsVersion)
		}
	}
	return have
}

// spread says of each secret how far it has come: machines get a change when they
// are made or updated, as a deploy does with all of them.
func (s *Server) spread(app string, secrets []api.Secret) []api.Secret {
	have := s.secretVersions(app)
	for i := range secrets {
		n := 0
		for _, v := range have {
			if v >= secrets[i].Version {
				n++
			}
		}
		switch {
		case n == 0:
			secrets[i].Status = api.SecretStaged
		case n < len(have):
			secrets[i].Status = api.SecretPartial
		default:
			secrets[i].Status = api.SecretDeployed
		}
	}
	return secrets
}
