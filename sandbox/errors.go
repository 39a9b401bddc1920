package sandbox

import "errors"

// The errors a caller branches on; every error of the Client wraps at most one
// of them (errors.Is).
var (
	// ErrSnapshot: the snapshot cannot be restored here (damaged, made by
	// another gVisor, for another processor or another spec). Start cold.
	ErrSnapshot = errors.New("the snapshot cannot be restored")
	// ErrNotFound: no sandbox has that id.
	ErrNotFound = errors.New("no such sandbox")
	// ErrExists: a sandbox with that id exists already.
	ErrExists = errors.New("the sandbox exists already")
	// ErrState: the sandbox is not in a state that allows this (resume of one
	// that runs, exec in one that is paused).
	ErrState = errors.New("not possible in the sandbox's present state")
	// ErrInvalid: the spec is wrong; the message says what and how to mend it.
	ErrInvalid = errors.New("invalid spec")
)
