package node

import (
	"context"
	"iter"
	"slices"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/cluster"
	"github.com/perigee-run/perigee/deploy"
	"github.com/perigee-run/perigee/fleet"
	"github.com/perigee-run/perigee/logs"
)

func (n *Node) newDeployer() (*deploy.Deployer, error) {
	return deploy.New(deploy.Config{
		Node: n.cfg.Name, Region: n.cfg.Region, Regions: n.hostRegions, StandIn: n.standIn, Fits: n.fits, Gone: n.gone, Fence: n.fence, CatchUp: n.catalog.CatchUp,
		Apps: n.apps, Machines: n.fleet, Images: n.images, Volumes: appVolumes{n}, Logs: n.lines, Router: edges{n.fleet}, Forget: n.fleet.Forget,
		CheckPorts: n.checkPorts, Logger: n.log,
	})
}

// hostRegions are the regions where machines can be.
func (n *Node) hostRegions() []string {
	var out []string
	for _, o := range n.cluster.Nodes() {
		if o.Has(cluster.RoleHost) {
			out = append(out, o.Region)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// edges are the routers of all nodes, for deploys.
type edges struct{ fleet *fleet.Fleet }

// Drained implements deploy.Router.
func (e edges) Drained(ctx context.Context, machine string) error {
	return e.fleet.AllDrained(ctx, machine)
}

// Routed implements deploy.Witness.
func (e edges) Routed(ctx context.Context, machines []string) error {
	for _, m := range machines {
		if err := e.fleet.AllRouted(ctx, m); err != nil {
			return err
		}
	}
	return nil
}

// lines reads the log in the API's words.
type lines struct{ store *logs.Store }

// Logs gives the selected lines, oldest first.
func (l lines) Logs(ctx context.Context, app string, q api.LogQuery) iter.Seq2[api.LogLine, error] {
	return func(yield func(api.LogLine, error) bool) {
		for line, err := range l.store.Tail(ctx, logs.Query{App: app, Region: q.Region, Machine: q.Machine, Since: q.Since, Lines: q.Lines, Follow: q.Follow, Mark: q.Mark}) {
			if !yield(api.LogLine(line), err) {
				return
			}
		}
	}
}

// drains tells when this node's router has let go of a machine, or knows it.
type drains struct{ n *Node }

// Drained implements fleet.Router: the machine is cordoned already, so once the
// router has a table that says so, what is in flight can only become less.
func (d drains) Drained(ctx context.Context, machine string) error {
	if err := d.n.refresh(); err != nil {
		return err
	}
	return d.n.waitIdle(ctx, machine)
}

// Routed implements fleet.Router.
func (d drains) Routed(context.Context, string) error { return d.n.refresh() }
