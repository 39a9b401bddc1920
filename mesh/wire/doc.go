// Package wire is this node's WireGuard device: the encrypted links to every
// other node and to laptops. It knows keys, endpoints and routes, and neither
// orgs nor machines: who may speak to whom is package mesh's firewall.
//
// The kernel's WireGuard is used where there is one. Elsewhere wireguard-go runs
// in this process, over a TUN device; its links end when the process does.
//
// # Links
//
// [Device.SetPeers] takes the whole list of peers and changes what differs, so
// it may be called after every change of the cluster. Each prefix that a peer is
// allowed gets a route. A peer may speak only from those prefixes: WireGuard
// drops everything else.
//
// A peer with a keepalive is greeted: by the device that learns of it, and again
// each second until a session stands, or after one has ended. WireGuard alone
// waits five seconds, and twice as many when two greetings cross; greet_linux.go
// says what is done about that.
//
// # Keys
//
// A WireGuard device has one key. To change it without a gap: [Device.Rotate]
// makes the next key, and the node publishes its public half beside the present
// one. The others put it in [Peer.Next]: they accept the key, but it is allowed
// nothing yet. Once all of them know it, [Device.UseNext] changes over and greets
// every peer with the new key; each of them moves the prefixes to it as soon as
// it has been greeted, at most 50 ms later. What is under way in that moment is
// lost, and TCP sends it again. A node that had not heard of the next key is cut
// off until it has.
//
// # Where things are
//
// A new kind of device is a [backend]. Keys and the configuration of laptops
// ([ClientConfig]) build on every system, the device on Linux alone.
package wire
