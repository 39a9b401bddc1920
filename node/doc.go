// Package node puts the rooms together for one server: it opens the catalog,
// joins image, mesh, sandbox, machine, router, logs, deploy and the API by the
// small interfaces that each declares, and runs them until it is told to stop.
//
// The walk is in node.go, from New to Run. How two rooms meet is in the file
// named after the meeting: table.go makes the router's table of apps and
// machines, idle.go lets placement put machines to sleep, console.go carries
// what machines say to the log, names.go answers the resolver, builds.go leads
// from an uploaded folder to an image. With other nodes: cloud.go (who they are),
// wire.go (the mesh), summaries.go and status.go (what this one says), place.go
// and heal.go (where machines are), edges.go (DNS and BGP).
//
// A node changes hands without failing a request, by package handover: upgrade.go
// asks for it, handover.go says what is let go of, given and kept, and serve.go
// begins anew if the new program fails.
//
// It holds no rules of its own. Nothing imports it but cmd/perigeed.
package node
