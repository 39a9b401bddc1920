package token

import (
	"context"
	"strings"
	"time"
	"unicode"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/token/caveat"
)

// longest is how long a token may be valid.
const longest = 20 * 365 * 24 * time.Hour

const maxName = 64

// kinds says which classes a kind of token has, and whether it is of one app:
// always, never or as asked.
var kinds = map[string]struct {
	classes []Class
	app     string
}{
	api.TokenOrg:         {[]Class{Reads, Changes, Execs, Shells, Owns}, "never"},
	api.TokenDeploy:      {[]Class{Reads, Changes, Execs, Shells}, "always"},
	api.TokenReadOnly:    {[]Class{Reads}, "may"},
	api.TokenSSH:         {[]Class{Reads, Shells}, "may"}, // to find the machine that is meant
	api.TokenMachineExec: {[]Class{Reads, Execs}, "always"},
}

// Maker is who makes a token: the new one reaches no further than the maker.
type Maker struct {
	Name  string
	Scope Scope
}

// ends is when the maker's own right ends; zero if never.
func (m Maker) ends() time.Time {
	if l, ok := m.Scope.(interface{ Ends() time.Time }); ok {
		return l.Ends()
	}
	return time.Time{}
}

// Mint makes a token of an org. Its text is in the answer and kept nowhere.
func (s *Store) Mint(ctx context.Context, by Maker, org string, req api.CreateTokenRequest) (api.CreateTokenResponse, error) {
	var none api.CreateTokenResponse
	r, err := s.record(by, org, req)
	if err != nil {
		return none, err
	}
	limits, err := caveat.ParseAll(r.Limits)
	if err != nil {
		return none, api.Errorf(api.CodeInvalid, "%v", err)
	}
	key, err := s.keyOf(r.ID)
	if err != nil {
		return none, err
	}
	t, err := caveat.New(key, r.ID, limits...)
	if err != nil {
		return none, api.Errorf(api.CodeInvalid, "%v", err)
	}
	if _, err := s.table.Create(ctx, r.ID, r); err != nil {
		return none, err
	}
	s.cfg.Logger.Info("token created", "token", r.ID, "kind", r.Kind, "org", org, "app", r.App, "by", by.Name)
	return api.CreateTokenResponse{Token: t.String(), TokenInfo: r.shown()}, nil
}

// record checks a request and makes what is kept of it.
func (s *Store) record(by Maker, org string, req api.CreateTokenRequest) (Record, error) {
	kind, ok := kinds[req.Kind]
	switch {
	case !ok:
		return Record{}, invalid("kind", "there is no kind of token %s", quote(req.Kind)).WithHint("org, deploy, readonly, ssh or machine-exec")
	case kind.app == "always" && req.App == "":
		return Record{}, invalid("app", "a %s token is for one app, and none is named", req.Kind)
	case kind.app == "never" && req.App != "":
		return Record{}, invalid("app", "an %s token is for all apps of the org", req.Kind).WithHint("deploy is the kind for one app")
	case req.Kind != api.TokenMachineExec && len(req.Commands) > 0:
		return Record{}, invalid("kind", "commands go with the kind machine-exec, not %s", req.Kind)
	case req.Kind != api.TokenMachineExec && req.Kind != api.TokenSSH && len(req.Machines) > 0:
		return Record{}, invalid("kind", "machines go with the kinds machine-exec and ssh, not %s", req.Kind)
	case len(req.Name) > maxName || strings.ContainsFunc(req.Name, func(r rune) bool { return !unicode.IsPrint(r) }):
		return Record{}, invalid("name", "the name has more than %d bytes, or a character that is not printed", maxName)
	}
	if req.App != "" && s.cfg.OrgOf(req.App) != org {
		return Record{}, api.Errorf(api.CodeNotFound, "org %q has no app %s", org, quote(req.App)).WithField("app")
	}
	if err := by.reaches(org, req, kind.classes); err != nil {
		return Record{}, err
	}
	now := time.Now().UTC().Truncate(time.Second)
	end, err := by.until(now, req.Expiry)
	if err != nil {
		return Record{}, err
	}
	r := Record{ID: newID(), Kind: req.Kind, Name: req.Name, Org: org, App: req.App, CreatedBy: by.Name, CreatedAt: now, ExpiresAt: end}
	r.Limits, err = limitsOf(org, req, kind.classes, end)
	return r, err
}

// limitsOf are the lines of the limits that a request asks for.
func limitsOf(org string, req api.CreateTokenRequest, classes []Class, end time.Time) ([]string, error) {
	l := Grant(org, nil, classes...)
	if req.App != "" {
		l = append(l, caveat.Caveat{Name: caveat.Apps, Words: []string{req.App}})
	}
	if len(req.Machines) > 0 {
		l = append(l, caveat.Caveat{Name: caveat.Machines, Words: req.Machines})
	}
	if len(req.Commands) > 0 {
		l = append(l, caveat.Caveat{Name: caveat.Commands, Commands: req.Commands})
	}
	l = append(l, caveat.Caveat{Name: caveat.Expires, Time: end})
	var lines []string
	for _, c := range l {
		if _, err := caveat.Parse(c.String()); err != nil {
			return nil, invalid(c.Name, "%v", err)
		}
		lines = append(lines, c.String())
	}
	return lines, nil
}

// reaches refuses what the maker could not do itself.
func (m Maker) reaches(org string, req api.CreateTokenRequest, classes []Class) error {
	machines := req.Machines
	if len(machines) == 0 {
		machines = []string{""}
	}
	for _, class := range classes {
		for _, id := range machines {
			if err := m.Scope.May(Want{Class: class, Org: org, App: req.App, Machine: id, Altered: class == Execs}); err != nil {
				e := api.AsError(err)
				e.Message = "a token cannot make one that reaches further than itself: " + e.Message
				return e
			}
		}
	}
	return nil
}

// until is when a new token ends: never later than the maker's own right.
func (m Maker) until(now time.Time, expiry string) (time.Time, error) {
	own := m.ends()
	if expiry == "" {
		if own.IsZero() {
			own = now.Add(longest)
		}
		return own, nil
	}
	d, err := time.ParseDuration(expiry)
	if err != nil || d <= 0 || d > longest {
		return time.Time{}, invalid("expiry", "expiry is %s; it must be a time span such as 24h, at most %s", quote(expiry), longest)
	}
	end := now.Add(max(d, time.Second))
	if !own.IsZero() && end.After(own) {
		return time.Time{}, invalid("expiry", "the new token would be valid until %s, longer than its maker, who ends at %s",
			end.Format(time.RFC3339), own.UTC().Format(time.RFC3339))
	}
	return end, nil
}

func invalid(field, format string, a ...any) *api.Error {
	return api.Errorf(api.CodeInvalid, format, a...).WithField(field)
}
