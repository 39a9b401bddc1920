// Package upstream is the other side of BGP: the internet's router in one city,
// to which hosts announce the prefixes that they want to receive. It waits for
// any host to connect, learns and forgets routes, and announces none itself.
//
// It reads messages with gobgp's parser and keeps the session itself, since a
// session must live in the network namespace of the listener it came from. What
// a route means is not its business: it tells its owner, who has a switch.
package upstream
