package httpapi

import (
	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/token"
)

// access says who may call an endpoint.
type access = token.Class

// The classes, short, to keep the table of routes in columns.
const (
	reads    = token.Reads
	changes  = token.Changes
	execs    = token.Execs
	shells   = token.Shells
	owns     = token.Owns
	operates = token.Operates
	known    = token.Known
	open     = token.Open
)

// asksEach reports whether the handler asks for each of the machines it is about.
func (r *route) asksEach() bool {
	e, ok := r.endpoint.(interface{ asksEach() bool })
	return ok && e.asksEach()
}

// want is what the call is about to do, as far as its path tells.
func (c *call) want() token.Want {
	w := token.Want{Class: c.route.access, App: c.path("app_name"), Org: c.path("org_slug"), Machine: c.path("machine_id"), Each: c.route.asksEach()}
	if w.App != "" {
		w.Org = c.server.orgOf(w.App)
	}
	return w
}

// orgOf is the app's owner, "" where there is no such app.
func (s *Server) orgOf(app string) string {
	a, err := s.cfg.Apps.Get(app)
	if err != nil {
		return ""
	}
	return a.Org
}

// may asks the caller's scope. Before each call it has been asked what the path
// tells; a handler asks for what only the body, or the thing itself, tells.
func (c *call) may(w token.Want) error {
	if c.who.Scope == nil {
		return token.Forbidden(w, "it has no scope")
	}
	return c.who.Scope.May(w)
}

// mayApp is may for an app that the path does not name.
func (c *call) mayApp(app string) error {
	return c.may(token.Want{Class: c.route.access, Org: c.server.orgOf(app), App: app})
}

// mayRun is may for a command in the machine of the path. It is altered where the
// caller gives it an environment, a user or a folder, or it is a program of ours.
func (c *call) mayRun(command []string, altered bool) error {
	w := c.want()
	w.Command, w.Altered = command, altered
	return c.may(w)
}

// seesMachine reports whether the caller may know of a machine.
func (c *call) seesMachine(org string, m api.Machine) bool {
	return c.may(token.Want{Class: reads, Org: org, App: m.App, Machine: m.ID}) == nil
}

// sees reports whether the caller may know of an app; lists go by it.
func (c *call) sees(org, app string) bool {
	return c.may(token.Want{Class: reads, Org: org, App: app}) == nil
}
