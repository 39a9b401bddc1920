package node

import (
	"net/netip"
	"time"

	"github.com/perigee-run/perigee/cluster"
	"github.com/perigee-run/perigee/mesh"
	"github.com/perigee-run/perigee/mesh/wire"
)

// wireKeepalive keeps what stands between two nodes from forgetting the way.
const wireKeepalive = 25 * time.Second

// wireDevice is the name of the WireGuard device.
func (n *Node) wireDevice() string {
	if n.cfg.Alone {
		return ""
	}
	return n.cfg.NetworkPrefix + "-wg"
}

// openWire makes the device that leads to the other nodes and says its key in
// the node's record.
func (n *Node) openWire() (err error) {
	if n.cfg.Alone {
		return nil
	}
	self := n.self()
	own := mesh.NodeAddr(n.cfg.IPv6, self.Number)
	n.wire, err = wire.New(wire.Config{
		Device: n.wireDevice(), KeyFile: n.path("wireguard.key"), Port: self.WireGuardPort,
		Address: netip.PrefixFrom(own, 128), Logger: n.log,
	})
	return err
}

// setPeers gives the device the nodes and laptops of now.
func (n *Node) setPeers() {
	if n.wire == nil {
		return
	}
	var peers []wire.Peer
	for _, o := range n.others() {
		if p, err := n.peer(o); err == nil {
			peers = append(peers, p)
		} else {
			n.log.Debug("node has no key for the mesh yet", "node", o.Name, "err", err)
		}
	}
	if err := n.wire.SetPeers(append(peers, n.laptops()...)); err != nil {
		n.log.Error("cannot change the mesh", "err", err)
	}
}

func (n *Node) peer(o cluster.Node) (wire.Peer, error) {
	key, err := wire.ParseKey(o.WireGuardKey)
	return wire.Peer{
		Name: o.Name, Key: key, Endpoint: o.WireGuardAddr(), Allowed: []netip.Prefix{mesh.NodePrefix(n.cfg.IPv6, o.Number)}, Keepalive: wireKeepalive,
	}, err
}

// laptops are the WireGuard peers that enter the mesh here.
func (n *Node) laptops() []wire.Peer { return nil }
