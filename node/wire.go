package node

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/cluster"
	"github.com/perigee-run/perigee/httpapi"
	"github.com/perigee-run/perigee/mesh"
	"github.com/perigee-run/perigee/mesh/wire"
	"github.com/perigee-run/perigee/peers"
	"github.com/perigee-run/perigee/router/distance"
)

// wireKeepalive keeps what stands between two nodes from forgetting the way.
const wireKeepalive = 25 * time.Second

// wireDevice is the name of the WireGuard device, "" for a node alone.
func (n *Node) wireDevice() string {
	if n.cfg.Alone {
		return ""
	}
	return "wg-" + n.cfg.NetworkPrefix
}

// openWire makes the device that leads to the other nodes, says its key in the
// node's record, and opens the prober on the node's address in the mesh.
func (n *Node) openWire(ctx context.Context) (err error) {
	if n.cfg.Alone {
		return nil
	}
	self := n.self()
	n.cfg.heritage.Want(ctx, wantWire)
	n.wire, err = wire.New(wire.Config{
		Device: n.wireDevice(), KeyFile: n.path("wireguard.key"), Port: self.WireGuardPort,
		Address: netip.PrefixFrom(mesh.NodeAddr(n.cfg.IPv6, self.Number), 128), TUN: n.cfg.heritage.Take(tunName, "/dev/net/tun"), Logger: n.log,
	})
	if err != nil {
		return err
	}
	if t := n.wire.TUN(); t != nil {
		n.next.Keep(tunName, t)
	}
	if err := n.announceKeys(ctx); errors.Is(err, cluster.ErrRemoved) {
		return err
	} else if err != nil { // the cluster writes it later
		n.log.Warn("cannot say this node's WireGuard key yet", "err", err)
	}
	n.peers, err = peers.New(peers.Config{Catalog: n.catalog, Node: n.cfg.Name, Base: n.cfg.IPv6, OrgNumber: n.apps.OrgNumber, Gateways: gateways{n}, Logger: n.log})
	if err != nil {
		return err
	}
	if n.prober, err = distance.New(distance.Config{Listen: n.hostListen(), Peers: n.probed, Busy: n.busyTo, Logger: n.log}); err != nil {
		return err
	}
	n.setPeers(ctx) // who is known of already is not kept waiting
	return nil
}

// meshWorks are what a node that is not alone does beside the others.
func (n *Node) meshWorks() []func(context.Context) error {
	if n.cfg.Alone {
		return nil
	}
	return []func(context.Context) error{n.keepDistances, n.keepLaptops, n.keepImages, n.keepKeys}
}

// keepMesh answers the other nodes' probes, also while the node changes hands.
func (n *Node) keepMesh(ctx context.Context) error {
	if n.cfg.Alone {
		return nil
	}
	return n.prober.Run(ctx)
}

// hostListen is where the routers and probers of other nodes reach this one.
func (n *Node) hostListen() string {
	if n.cfg.Alone {
		return ""
	}
	return n.meshAddr(n.self().Number).String()
}

// isNode reports whether an address in the mesh is another node's own. This node
// has no reason to come to itself that way; what runs on it may, and is no node.
func (n *Node) isNode(a netip.Addr) bool {
	set := n.meshNodes.Load()
	return set != nil && (*set)[a]
}

// nodeAddrs are the nodes' own addresses in the mesh.
func (n *Node) nodeAddrs(nodes []cluster.Node) map[netip.Addr]bool {
	set := make(map[netip.Addr]bool, len(nodes))
	for _, o := range nodes {
		set[mesh.NodeAddr(n.cfg.IPv6, o.Number)] = true
	}
	return set
}

// probed are the nodes whose distance is measured.
func (n *Node) probed() []distance.Peer {
	others := n.others()
	n.few.Store(len(others) <= watchful)
	out := make([]distance.Peer, len(others))
	for i, o := range others {
		out[i] = distance.Peer{Name: o.Name, Addr: n.meshAddr(o.Number)}
	}
	return out
}

// watchful is up to how many nodes each is asked twice a second, so that one
// that goes away is found out sooner.
const watchful = 50

func (n *Node) busyTo(string) bool { return n.few.Load() }

// distances are those of all other nodes, as last measured.
func (n *Node) distances() map[string]distance.Distance {
	if n.prober == nil {
		return nil
	}
	return n.prober.Snapshot()
}

// keepDistances tells the router how far the other nodes are.
func (n *Node) keepDistances(ctx context.Context) error {
	changes := n.prober.Changes()
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	for {
		n.router.SetDistances(n.prober.Snapshot())
		select {
		case <-ctx.Done():
			return nil
		case <-changes:
		case <-tick.C:
		}
	}
}

// setPeers gives the device the nodes and laptops of now, and lets the nodes in.
func (n *Node) setPeers(ctx context.Context) {
	if n.wire == nil {
		return
	}
	n.wiring.Lock()
	defer n.wiring.Unlock()
	var all []wire.Peer
	others := n.others()
	set := n.nodeAddrs(others)
	n.meshNodes.Store(&set)
	for _, o := range others {
		p, err := n.peer(o)
		if err != nil {
			n.log.Debug("node has no key for the mesh yet", "node", o.Name, "err", err)
			continue
		}
		all = append(all, p)
	}
	if err := n.wire.SetPeers(ctx, append(all, n.peers.WirePeers()...)); err != nil {
		n.log.Error("cannot change the mesh", "err", err)
	}
}

func (n *Node) peer(o cluster.Node) (wire.Peer, error) {
	key, err := wire.ParseKey(o.WireGuardKey)
	next, _ := wire.ParseKey(o.WireGuardNext) // mostly there is none
	return wire.Peer{
		Name: o.Name, Key: key, Next: next, Endpoint: o.WireGuardAddr(), Keepalive: wireKeepalive,
		Allowed: []netip.Prefix{mesh.NodePrefix(n.cfg.IPv6, o.Number)},
	}, err
}

// keepLaptops lets those in, and out, who enter the private network here.
func (n *Node) keepLaptops(ctx context.Context) error {
	return n.peers.Run(ctx, func() {
		if err := n.network.SetPeers(n.peers.MeshPeers()); err != nil {
			n.log.Error("cannot change who enters the private network", "err", err)
		}
		n.setPeers(ctx)
	})
}

// peerStore are the laptops for the API, nothing for a node alone.
func (n *Node) peerStore() httpapi.Peers {
	if n.peers == nil {
		return nil
	}
	return n.peers
}

// gateways are the nodes as the peers room sees them.
type gateways struct{ n *Node }

// Choose implements peers.Gateways: the nearest of the region, or of all.
func (g gateways) Choose(region string) (peers.Gateway, error) {
	var best *cluster.Node
	for _, o := range g.n.cluster.Nodes() {
		if region != "" && o.Region != region || o.WireGuardKey == "" || o.Draining || !g.n.up(o.Name) {
			continue
		}
		if best == nil || g.n.away(o.Name) < g.n.away(best.Name) {
			best = &o
		}
	}
	if best == nil {
		return peers.Gateway{}, api.Errorf(api.CodeUnreachable, "no node of region %q takes WireGuard peers now", region).WithHint("perigee nodes shows which are up")
	}
	gw, _ := g.Find(best.Name)
	return gw, nil
}

// Find implements peers.Gateways.
func (g gateways) Find(name string) (peers.Gateway, bool) {
	o, ok := g.n.cluster.Node(name)
	if !ok {
		return peers.Gateway{}, false
	}
	key, err := wire.ParseKey(o.WireGuardKey)
	return peers.Gateway{Node: o.Name, Region: o.Region, Number: o.Number, Key: key, Endpoint: o.WireGuardAddr()}, err == nil
}
