// Package sandbox isolates machines with gVisor. It holds the node's side: the
// types and a Client for the supervisor, perigee-sandbox, which is a program of
// its own (cmd/perigee-sandbox) and the only one that links gVisor.
//
// One supervisor serves one node. It outlives the daemon, and the sandboxes
// outlive the supervisor: each is a process of its own session, and a new
// supervisor finds them again in its state directory. A sandbox id names one
// life of one machine, from Start or Restore to Destroy; use a fresh id for
// each.
//
// The package does not make networks, images or volumes: it is handed the path
// of a network namespace that is ready, an EROFS file and directories. It knows
// nothing of apps, releases or restart policies either; that is the machine
// room's work.
//
// To add an operation: a request type in wire.go, a method in client.go, and
// its handler in cmd/perigee-sandbox/server.go.
package sandbox
