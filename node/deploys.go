package node

import (
	"context"
	"iter"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/deploy"
	"github.com/perigee-run/perigee/logs"
)

func (n *Node) newDeployer() (*deploy.Deployer, error) {
	return deploy.New(deploy.Config{
		Apps: n.apps, Machines: n.machines, Images: n.images, Logs: lines{n.store}, Router: drains{n}, Forget: n.store.Forget,
		CheckPorts: n.checkPorts, Logger: n.log, Node: n.cfg.Name, Region: n.cfg.Region,
	})
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

// drains tells when the router has let go of a machine.
type drains struct{ n *Node }

// Drained implements deploy.Router: the machine is cordoned already, so once
// the router has a table that says so, what is in flight can only become less.
func (d drains) Drained(ctx context.Context, machine string) error {
	if err := d.n.refresh(); err != nil {
		return err
	}
	return d.n.waitIdle(ctx, machine)
}
