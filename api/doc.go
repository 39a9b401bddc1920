// Package api holds the words that travel between Perigee's programs: the
// types of the Machines API (apps, machines, leases, events, exec, wait) with
// the paths and shapes of Fly's API of the same name, Perigee's own additions
// beside them, the error codes, and a Go client.
//
// It is public and imports nothing else of Perigee, so that any program may
// use it. It is not the place for rules: what a value may be is decided by the
// rooms that act on it.
//
// A new endpoint begins here: its request and answer types in the file of the
// thing that it is about, its method on [Client], then its row in package
// httpapi.
package api
