package token

import (
	"slices"
	"strings"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/token/caveat"
)

// Limits is the scope of somebody who has a token: what all its limits allow. It
// never reaches the nodes and the cloud itself. No limit at all allows nothing.
type Limits []caveat.Caveat

// Grant is the scope of somebody who has some classes in an org and perhaps in some
// apps of it only.
func Grant(org string, apps []string, classes ...Class) Limits {
	l := Limits{{Name: caveat.Org, Words: []string{org}}, {Name: caveat.Actions, Words: words(classes)}}
	if len(apps) > 0 {
		l = append(l, caveat.Caveat{Name: caveat.Apps, Words: apps})
	}
	return l
}

func words(classes []Class) []string {
	out := make([]string, len(classes))
	for i, c := range classes {
		out[i] = string(c)
	}
	return out
}

// May implements [Scope].
func (l Limits) May(w Want) error {
	if w.Class == Known {
		return nil
	}
	if len(l) == 0 || w.Class == Operates {
		return Forbidden(w, "only the cloud's own token does")
	}
	for _, c := range l {
		if why := refuses(c, w); why != "" {
			return Forbidden(w, why)
		}
	}
	return nil
}

// refuses says why a limit does not allow something, "" if it does.
func refuses(c caveat.Caveat, w Want) string {
	anywhere := w.Org == "" && w.App == ""
	switch c.Name {
	case caveat.Actions:
		if !slices.Contains(c.Words, string(w.Class)) {
			return "it is for " + strings.Join(c.Words, ", ") + ", not " + string(w.Class)
		}
	case caveat.Org:
		if !anywhere && w.Org != c.Words[0] {
			return "it is for org " + c.Words[0]
		}
	case caveat.Apps:
		if !anywhere && !(w.Each && w.App == "") && !slices.Contains(c.Words, w.App) {
			return "it is for app " + strings.Join(c.Words, ", ")
		}
	case caveat.Machines:
		if !anywhere && !w.Each && !slices.Contains(c.Words, w.Machine) {
			return "it is for machine " + strings.Join(c.Words, ", ")
		}
	case caveat.Commands:
		return refusesCommand(c, w)
	case caveat.NotBefore, caveat.Expires: // asked at the door, see [untimely]
	default:
		return "a limit of it is not known here"
	}
	return ""
}

// refusesCommand: whoever may run some commands only may look, and run those.
func refusesCommand(c caveat.Caveat, w Want) string {
	switch {
	case w.Class == Reads, w.Class == Execs && w.Command == nil && !w.Altered:
		return ""
	case w.Class != Execs:
		return "it is for some commands, not for " + string(w.Class)
	case w.Altered:
		return "it runs commands as the machine has them, without environment, user or folder of the caller's"
	case !c.Allows(w.Command):
		return "the command is not one that it is for"
	}
	return ""
}

// untimely is the error of a token whose time is not now.
func (l Limits) untimely(now time.Time) error {
	for _, c := range l {
		switch {
		case c.Name == caveat.Expires && !now.Before(c.Time):
			return refused("the token expired at %s", c.Time.UTC().Format(time.RFC3339))
		case c.Name == caveat.NotBefore && now.Before(c.Time):
			return refused("the token is valid from %s on", c.Time.UTC().Format(time.RFC3339))
		}
	}
	return nil
}

// Ends is when the first limit of time ends; zero if none does.
func (l Limits) Ends() (end time.Time) {
	for _, c := range l {
		if c.Name == caveat.Expires && (end.IsZero() || c.Time.Before(end)) {
			end = c.Time
		}
	}
	return end
}

// words are what every limit of a name has in common; nil if there is none.
func (l Limits) words(name string) []string {
	var out []string
	seen := false
	for _, c := range l {
		switch {
		case c.Name != name:
		case !seen:
			out, seen = slices.Clone(c.Words), true
		default:
			out = slices.DeleteFunc(out, func(w string) bool { return !slices.Contains(c.Words, w) })
		}
	}
	return out
}

// Only is which apps and which machines it is limited to; nil where it is not.
func (l Limits) Only() (apps, machines []string) {
	return l.words(caveat.Apps), l.words(caveat.Machines)
}

// Current is the scope in the API's words.
func (l Limits) Current() api.CurrentToken {
	t := api.CurrentToken{Apps: l.words(caveat.Apps), Actions: l.words(caveat.Actions)}
	if orgs := l.words(caveat.Org); len(orgs) == 1 {
		t.OrgSlug, t.Organization = orgs[0], orgs[0]
	}
	if machines := l.words(caveat.Machines); len(machines) == 1 {
		t.RestrictedToMachine = machines[0]
	}
	for _, c := range l {
		if line := c.String(); !slices.Contains(t.Limits, line) {
			t.Limits = append(t.Limits, line)
		}
	}
	return t
}

func refused(format string, a ...any) error {
	return api.Errorf(api.CodeUnauthorized, format, a...).WithHint("perigee tokens create makes another; perigee login takes it")
}
