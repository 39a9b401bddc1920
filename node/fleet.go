package node

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/perigee-run/perigee/cluster"
	"github.com/perigee-run/perigee/fleet"
	"github.com/perigee-run/perigee/httpapi"
	"github.com/perigee-run/perigee/image"
	"github.com/perigee-run/perigee/logs"
)

// openFleet makes the machines and logs of all nodes look like one node's.
func (n *Node) openFleet(context.Context) (err error) {
	n.fleet, err = fleet.New(fleet.Config{
		Self: n.cfg.Name, Local: n.machines, Peers: fleet.Over(n.cluster), Summaries: n.index, Nodes: neighbours{n},
		Place: n.place, Router: drains{n}, Forget: n.forgetApp, SSH: n.visit, Logger: n.log,
	})
	if err != nil {
		return err
	}
	if err := n.openFleetVolumes(); err != nil {
		return err
	}
	n.lines, err = fleet.NewLines(fleet.LinesConfig{
		Self: n.cfg.Name, Local: lines{n.store}, Peers: fleet.Over(n.cluster), Nodes: neighbours{n}, Logger: n.log,
	})
	return err
}

// named finds a machine of another node that has the name already. The machines
// come before the fleet.
func (n *Node) named(app, name string) string {
	if n.fleet == nil {
		return ""
	}
	return n.fleet.Named(app, name)
}

// neighbours are the nodes as the fleet sees them.
type neighbours struct{ n *Node }

// Nodes implements fleet.Nodes.
func (v neighbours) Nodes() []fleet.Node {
	all := v.n.cluster.Nodes()
	out := make([]fleet.Node, len(all))
	for i, o := range all {
		up, _ := v.n.alive(o.Name)
		out[i] = fleet.Node{
			Name: o.Name, Region: o.Region, Up: up, Cordoned: o.Cordoned || o.Draining || !o.Has(cluster.RoleHost), Edge: o.Has(cluster.RoleEdge),
		}
	}
	return out
}

// Up implements fleet.Nodes.
func (v neighbours) Up(name string) bool {
	up, _ := v.n.alive(name)
	return up
}

// imagePeers are the registries of the other nodes.
type imagePeers struct{ n *Node }

// Sources implements image.Peers: the nearest node first.
func (p imagePeers) Sources(context.Context) []image.Source {
	var out []image.Source
	for _, o := range p.n.nearest() {
		if c, base, err := p.n.cluster.HTTPClient(o.Name); err == nil {
			out = append(out, image.Source{Name: o.Name, Client: c, BaseURL: base})
		}
	}
	return out
}

// peerFace is what other nodes may ask of this one: the API on behalf of those
// who called them, the registry, and the calls that nodes make among themselves.
func (n *Node) peerFace(server *httpapi.Server) http.Handler {
	face, own := n.face(server, httpapi.PeerPrincipal(cluster.PeerFrom)), n.fleet.PeerHandler()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == movePath && r.Method == http.MethodPost:
			n.serveMove(w, r)
			return
		case r.URL.Path == keysPath:
			n.serveKeys(w, r)
			return
		case r.URL.Path == upgradePath && r.Method == http.MethodPost:
			n.serveUpgrade(w, r)
			return
		case strings.HasPrefix(r.URL.Path, "/peer/v1/"):
			own.ServeHTTP(w, r)
			return
		}
		face.ServeHTTP(w, r)
	})
}

// imagesOf returns the digests that machines of any node run.
func (n *Node) imagesOf(used map[string]bool) {
	for _, s := range n.index.List("") {
		used[s.Image.Digest] = true
	}
}

var (
	_ httpapi.Machines = (*fleet.Fleet)(nil)
	_ fleet.LogReader  = lines{(*logs.Store)(nil)}
)

// forgetApp drops what this node keeps of an app that was destroyed: what it said,
// and the images that were pushed for it.
func (n *Node) forgetApp(ctx context.Context, app string) error {
	return errors.Join(n.store.Forget(ctx, app), n.images.ForgetRepository(app))
}
