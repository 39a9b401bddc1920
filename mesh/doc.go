// Package mesh gives every machine of this node its own network: a network
// namespace with one device, a private IPv4 and IPv6 address, a way out to the
// internet, and a firewall that keeps orgs, and the host, apart.
//
// It is not a proxy (that is router), answers no names (that is dns, which
// listens on the addresses of [Network.ResolverAddrs]), encrypts nothing (that
// is package wire, the device that leads to other nodes) and starts no process.
//
// # Slots
//
// A [Slot] is a network for one machine. [Network.Acquire] makes one ahead of
// need, [Network.Assign] gives it to a machine in well under two milliseconds,
// [Network.Release] ends it. A slot is a namespace, bound to a file in
// [Config.Dir], with a veth pair: "eth0" inside, "<prefix>-<id>" on the host.
// The kernel is the only state: the device's name is the slot's id, its alias
// says whose it is. So a daemon that was killed finds every slot again
// ([Network.Slots]), and a power cut leaves nothing stale to believe in.
//
// # Addresses
//
// A slot's IPv4 address is the node's own affair: pool base + 16 + slot id. The
// private IPv6 address follows the machine, wherever it runs:
//
//	 0       16              48             80             112    127
//	| fdaa  | node (32 bits) | org (32)     | machine (32) | host |
//
// The numbers of node and org are unique in the cluster ([Config.NodeNumber],
// [Config.OrgNumber]); that of the machine is a hash of its name. The node comes
// first, so that each is one /48 to the others ([NodePrefix]). A machine owns the
// whole /112 and answers on host 2, a laptop ([PeerAddr]) on host 4. Org 0 is
// ours: a node is host 1 of machine 0 in it ([NodeAddr]). Node 0 is every
// node: fdaa::3 is the resolver, and each app has an address there ([ServiceAddr]). On one node the firewall goes by device, never by
// address bits; between nodes by the org number in the other end's address, which
// that end's node has seen to.
//
// The far end of every slot looks the same (gateway base + 1 and fe80::1, one
// hardware address), so that a machine resumed in another slot keeps a valid
// idea of its gateway. Both ends know each other by permanent neighbour entries:
// a first packet never waits for ARP.
//
// # Firewall
//
// One nftables table of ours, replaced in one transaction by Setup; the tables
// of others are never touched. Machines reach the internet, local networks of
// the host, and machines of their own org. They do not reach machines of other
// orgs, cloud metadata services, or the host's own ports, but for the resolver,
// ping, [Config.HostPorts] and the router at addresses of apps (services.go). A packet with a source address that is not the
// slot's is dropped before it is tracked. A slot of no org ([Network.Isolate])
// reaches the internet alone. The next rule goes in rules.go.
//
// On [Config.Wire] an org reaches itself, on other nodes and at laptops
// ([Network.SetPeers]), by one lookup of its number; nodes reach each other's
// [HostRouterPort]; nothing else passes, in or out. Those rules are in wirerules.go.
package mesh
