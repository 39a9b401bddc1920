// Package router is the edge of a node: it accepts the visitors' connections, picks the machine that should answer,
// wakes it if it sleeps, and moves the bytes. It speaks HTTP/1.1, HTTP/2, WebSocket (any Upgrade), raw TCP and TLS.
//
// A machine may be on another node: then the request goes to the host router there, which is this package too (far.go has
// the near side, host.go the far one, order.go what they say). Package distance knows how far nodes are.
//
// It is not the place that knows machines: the node hands it an immutable [Table] whenever something changes, and a
// [Waker] to call when a machine sleeps. It decides nothing about when a machine may go to sleep either, but it makes
// that decision safe: see [Router.Quiesce].
//
// Where a request goes is a pure function, in decide.go: a new rule of choice belongs there. The engine that moves
// bytes stands apart from it: http1 has the parser and writer of raw heads, conn.go the life of a client's
// connection, forward.go one request, h2.go the bridge from HTTP/2, tcp.go everything that is not HTTP.
package router
