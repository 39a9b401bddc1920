package ssh

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	gossh "golang.org/x/crypto/ssh"
)

// The critical options of our certificates. They are critical so that no other
// server which were told to trust the authority takes a certificate without
// knowing how narrow it is.
const (
	optOrg      = "org@perigee"
	optApps     = "apps@perigee"
	optMachines = "machines@perigee"
	optToken    = "token@perigee"
	optUntil    = "until@perigee"
)

var options = []string{optOrg, optApps, optMachines, optToken, optUntil}

// Grant is what a certificate is good for.
type Grant struct {
	// Who is the name of the one it was made for, Token the id of the token that
	// it was asked for with; "" if there was none.
	Who, Token string
	// Until is when that token ends, as it was presented: it may have been narrowed.
	// What was begun with the certificate ends then; zero if never.
	Until time.Time
	Org   string
	// Users are the users of a machine that it may become.
	Users []string
	// Apps and Machines narrow it; empty means all of the org, or of the apps.
	Apps, Machines []string
	// Serial is the certificate's number.
	Serial uint64
}

// grantOf reads a certificate whose signature is known to be good.
func grantOf(c *gossh.Certificate) (Grant, error) {
	g := Grant{Who: c.KeyId, Users: c.ValidPrincipals, Serial: c.Serial, Org: c.CriticalOptions[optOrg], Token: c.CriticalOptions[optToken],
		Apps: list(c.CriticalOptions[optApps]), Machines: list(c.CriticalOptions[optMachines])}
	if g.Org == "" || len(g.Users) == 0 { // to other servers no user means any
		return g, errors.New("the certificate names no org or no user")
	}
	if s := c.CriticalOptions[optUntil]; s != "" {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return g, errors.New("the certificate has a time that is none")
		}
		g.Until = time.Unix(n, 0)
	}
	return g, nil
}

// ended is the error of a grant whose token has ended.
func (g Grant) ended(now time.Time) error {
	if g.Until.IsZero() || now.Before(g.Until) {
		return nil
	}
	return fmt.Errorf("the token that the certificate was asked for with ended at %s", g.Until.UTC().Format(time.RFC3339))
}

// options is the grant as a certificate holds it.
func (g Grant) options() map[string]string {
	out := map[string]string{optOrg: g.Org}
	for name, v := range map[string]string{optToken: g.Token, optApps: strings.Join(g.Apps, ","), optMachines: strings.Join(g.Machines, ",")} {
		if v != "" {
			out[name] = v
		}
	}
	if !g.Until.IsZero() {
		out[optUntil] = strconv.FormatInt(g.Until.Unix(), 10)
	}
	return out
}

// covers refuses a machine or a user that is not in the grant.
func (g Grant) covers(user string, m Machine) error {
	switch {
	case g.Org != m.Org:
		return fmt.Errorf("the certificate is for org %q, and machine %s belongs to %q", g.Org, m.ID, m.Org)
	case !holds(g.Users, user):
		return fmt.Errorf("the certificate is not for user %q, but for %s", user, strings.Join(g.Users, ", "))
	case len(g.Apps) > 0 && !holds(g.Apps, m.App):
		return fmt.Errorf("the certificate is not for app %q, but for %s", m.App, strings.Join(g.Apps, ", "))
	case len(g.Machines) > 0 && !holds(g.Machines, m.ID):
		return fmt.Errorf("the certificate is not for machine %s, but for %s", m.ID, strings.Join(g.Machines, ", "))
	}
	return nil
}

func holds(list []string, s string) bool { return slices.Contains(list, s) }

func list(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}
