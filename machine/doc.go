// Package machine is a node's machines: it makes them, starts and stops them,
// lets them sleep and wakes them, watches their exits and their checks, and
// remembers all of it across a crash of the daemon.
//
// It does not isolate anything (that is sandbox), make networks (mesh), keep
// images (image), route requests (router) or decide where a machine goes
// (placement). It joins those through the small interfaces in config.go. What a
// configuration may say is in package rules.
//
// # How a machine is kept
//
// A [Record] is what is durable: what the machine is to be (its configuration),
// what its owner wants (Desired) and what was last known (State, Events). A
// life is one sandbox of the machine, from start or restore to its end; it has
// a fresh sandbox id that begins with the machine's id, which is how a life is
// found again after a crash.
//
// One operation at a time has a machine's turn. An operation shows the state it
// passes through, acts, and records the outcome. Readers never wait for a turn:
// they read an immutable view (machine.go). There is no lock over all machines
// on the way to a start.
//
// # What is written when
//
// What was acknowledged is on disk. A stop, an update or a destruction writes
// what is wanted before it acts, so that a crash in the middle is carried to
// its end. A start and a wake do not wait for the disk: the sandbox runs first
// and is recorded right after, for a running sandbox with a newer id than the
// record knows is proof enough (adopt.go).
//
// # How sleep stays invisible
//
// The router counts a request before it reads the machine's state; this room
// shows the state before it asks Config.MaySleep for the count. Whichever comes
// second sees the other, so a request either reaches a machine that runs or
// calls Wake, and never a frozen one (sleep.go).
//
// To add an operation: a method in a file of its own that calls Host.act, with
// the states it may begin in as a [need].
package machine
