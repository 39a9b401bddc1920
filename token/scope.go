package token

import (
	"github.com/perigee-run/perigee/api"
)

// Class is what kind of thing a call does. Every operation of the API is of one.
type Class string

// The classes, from harmless to mighty. None contains another: a token has each
// that it needs.
const (
	Reads    Class = "reads"    // see an app and what it has
	Changes  Class = "changes"  // change an app's things: machines, volumes, secrets, releases
	Execs    Class = "execs"    // run commands in machines
	Shells   Class = "shells"   // get certificates for SSH, and sessions by them
	Owns     Class = "owns"     // make and destroy apps, tokens, addresses; see all of an org
	Operates Class = "operates" // change nodes and the cloud itself
	Known    Class = "known"    // what everyone may who has a token: ask about it
	Open     Class = "open"     // what everyone may, without a token
)

// Classes are all that a token can have.
var Classes = []Class{Reads, Changes, Execs, Shells, Owns, Operates}

// Want is what a caller is about to do. An empty Org and App mean no app or org in
// particular: then the class alone is asked for, and the handler, which knows more,
// asks again for each thing that it touches or shows.
type Want struct {
	Class   Class
	Org     string // "" with an App means that there is no such app
	App     string
	Machine string
	Command []string // what is to be run, of Execs; nil before it is known
	// Each says that the handler asks again for each machine, and where App is empty for
	// each app: limits of those are not in the way yet.
	Each    bool
	Altered bool // it gets an environment, a user or a folder from the caller, or is no command of the machine's
}

// Scope is what somebody may do. May returns nil, or an error of the code
// forbidden whose words tell nothing of what is there.
type Scope interface {
	May(Want) error
}

// Full is the scope of the cloud's own: its root token, its sockets, its nodes.
type Full struct{}

// May allows everything.
func (Full) May(Want) error { return nil }

// Forbidden is the error for a want that a scope does not cover. It is the same
// for what exists and what does not.
func Forbidden(w Want, why string) error {
	what := "this call"
	switch {
	case w.Machine != "":
		what = "machine " + quote(w.Machine) + " of app " + quote(w.App)
	case w.App != "":
		what = "app " + quote(w.App)
	case w.Org != "":
		what = "org " + quote(w.Org)
	}
	return api.Errorf(api.CodeForbidden, "the token does not reach %s: %s", what, why).
		WithHint("perigee tokens inspect shows what a token may; an owner of the org makes others")
}
