// Package anycast announces the addresses that clients enter by to the routers
// beside an edge, over BGP, so that every client is brought to the edge nearest
// to it by the internet's own routing.
//
// Prefixes are announced only while the edge is healthy, which its caller says.
// To drain, an edge first marks them with GRACEFUL_SHUTDOWN (RFC 8326), so that
// routers prefer others while packets still arrive, and then withdraws them. A
// clean end withdraws and closes the sessions. After a kill -9 the neighbor
// notices by the closed connection, or, when the whole server is gone, once the
// hold time is over: BFD, which would be faster, is not spoken.
//
// It takes no routes: whatever a neighbor sends is dropped, and a neighbor that
// sends more than a bound is disconnected. What it announces is never more than
// the configured prefixes. It does not decide whether the edge is healthy and
// forwards no packet; but it has the kernel take in packets for the prefixes.
//
// What is announced is decided in decide.go; gobgp, behind speaker.go, says it.
package anycast
