package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/perigee-run/perigee/catalog"
	"github.com/perigee-run/perigee/cluster"
	"github.com/perigee-run/perigee/internal/version"
	"github.com/perigee-run/perigee/mesh"
)

// openCluster finds out who this node is: the first of a cloud, or one that
// joined.
func (n *Node) openCluster() (err error) {
	name := "" // of a node that has one, the cluster's own record tells
	if _, err := os.Stat(n.path("cluster")); errors.Is(err, fs.ErrNotExist) {
		if name, err = keepName(n.cfg.Data, n.cfg.Name); err != nil {
			return err
		}
		// All nodes of the cloud get it, also if certificates by ACME come later.
		if _, err := secretFile(n.path("certificates.key"), 32, false); err != nil {
			return err
		}
	}
	n.cluster, err = cluster.Open(cluster.Config{
		Dir: n.cfg.Data, Name: name, Region: n.cfg.Region, Roles: n.cfg.Roles, Address: n.cfg.Address,
		PeerPort: n.cfg.PeerPort, StatePort: n.cfg.StatePort, RoutePort: n.cfg.RoutePort, WireGuardPort: n.cfg.WireGuardPort,
		Version: version.Version, Members: n.cfg.Members, Bundle: n.bundle, Mourned: func(name string) bool { return len(n.index.On(name)) > 0 }, Status: n.nodeStatus, Logger: n.log,
	})
	if err != nil {
		return err
	}
	if n.cfg.Name, err = keepName(n.cfg.Data, or(n.cfg.Name, n.self().Name)); err != nil {
		return err
	}
	n.cfg.Region = n.self().Region
	n.cfg.Domain, err = keepDomain(n.cfg.Data, n.cfg.Domain)
	return err
}

// self is this node's record.
func (n *Node) self() cluster.Node { return n.cluster.Self() }

// bundle is what all nodes share and a node that joins is given: the keys of what
// the catalog keeps sealed, the local CA, and what the API lets in.
func (n *Node) bundle([]string) (map[string][]byte, error) {
	files := map[string][]byte{}
	for _, name := range []string{"token", "domain", "secrets.key", "certificates.key", "sticky.key", "snapshots.key"} {
		b, err := os.ReadFile(n.path(name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if err == nil {
			files[name] = b
		}
	}
	ca, err := filepath.Glob(n.path("ca", "*"))
	if err != nil {
		return nil, err
	}
	for _, path := range ca {
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		files["ca/"+filepath.Base(path)] = b
	}
	return files, nil
}

// catalogConfig is how the node reaches the replicated state, and keeps it if it
// is a member.
func (n *Node) catalogConfig() catalog.Config {
	cfg := catalog.Config{Dir: n.cfg.Data, Node: n.cfg.Name, Servers: n.cfg.NATSServers, Credentials: n.cfg.NATSCredentials, Replicas: n.cfg.NATSReplicas, Logger: n.log}
	if n.cfg.Alone || len(n.cfg.NATSServers) > 0 {
		return cfg
	}
	self := n.self()
	cfg.ClientListen, cfg.RouteListen = fmt.Sprintf(":%d", self.StatePort), fmt.Sprintf(":%d", self.RoutePort)
	cfg.TLS, cfg.Allow, cfg.Members = n.cluster.ServerTLS(), n.cluster.Allow, n.members()
	return cfg
}

// members are the nodes that keep the state, this one first, then its neighbours
// in the order of their distance.
func (n *Node) members() []catalog.Member {
	var out []catalog.Member
	for _, m := range n.cluster.Nodes() {
		if m.Member {
			out = append(out, catalog.Member{Name: m.Name, ClientAddr: m.StateAddr(), RouteAddr: m.RouteAddr()})
		}
	}
	slices.SortStableFunc(out, func(a, b catalog.Member) int { return n.away(a.Name) - n.away(b.Name) })
	return out
}

// away orders nodes by distance, in microseconds; those of which nothing is
// known come last.
func (n *Node) away(name string) int {
	if name == n.cfg.Name {
		return -1
	}
	if n.prober == nil {
		return 0
	}
	d, ok := n.prober.Snapshot()[name]
	if !ok || !d.Up {
		return int(time.Hour / time.Microsecond)
	}
	return int(d.RTT / time.Microsecond)
}

// listenPeers opens the port for other nodes.
func (n *Node) listenPeers() (net.Listener, error) {
	if n.cfg.Alone {
		return nil, nil
	}
	l, err := n.listen(peerName, func() (net.Listener, error) { return net.Listen("tcp", fmt.Sprintf(":%d", n.self().PeerPort)) })
	if err != nil {
		return nil, fmt.Errorf("cannot open the port for other nodes: %w; choose another with --peer-port, or keep the node to itself with --alone", err)
	}
	return l, nil
}

// meshAddr is a node's own address in the mesh, with the port of its host router
// and prober.
func (n *Node) meshAddr(number uint32) netip.AddrPort {
	return netip.AddrPortFrom(mesh.NodeAddr(n.cfg.IPv6, number), mesh.HostRouterPort)
}

// others are all nodes but this one.
func (n *Node) others() []cluster.Node {
	return slices.DeleteFunc(n.cluster.Nodes(), func(o cluster.Node) bool { return o.Name == n.cfg.Name })
}

// keepCluster follows the nodes' records: who keeps the state, whom the mesh
// leads to, and what a removed node said.
func (n *Node) keepCluster(ctx context.Context) error {
	changes := n.cluster.Changes(ctx)
	tick := time.NewTicker(10 * time.Second) // addresses that are names may change, and so do distances
	defer tick.Stop()
	for {
		select {
		case _, ok := <-changes:
			if !ok {
				return nil
			}
			for more := true; more; { // those that have come already are followed together
				select {
				case _, ok = <-changes:
					if !ok {
						return nil
					}
				default:
					more = false
				}
			}
		case <-tick.C:
		}
		n.followCluster(ctx)
		n.forgetRemoved(ctx)
	}
}

func (n *Node) followCluster(ctx context.Context) {
	if n.cfg.Alone {
		return
	}
	if err := n.catalog.SetMembers(n.members()); err != nil && len(n.cfg.NATSServers) == 0 {
		n.log.Error("cannot follow the members of the state", "err", err)
	}
	n.setPeers(ctx)
	n.pokeTable()
}

// nearest are the other nodes that are up, the nearest first.
func (n *Node) nearest() []cluster.Node {
	up := slices.DeleteFunc(n.others(), func(o cluster.Node) bool { return !n.up(o.Name) })
	slices.SortStableFunc(up, func(a, b cluster.Node) int { return n.away(a.Name) - n.away(b.Name) })
	return up
}
