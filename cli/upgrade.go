package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/spf13/cobra"
)

func upgradeCmd(e *env) *cobra.Command {
	var all bool
	var wait time.Duration
	c := &cobra.Command{
		Use: "upgrade [NODE ...]", Short: "Put the new program on a node's disk in the place of the one that runs",
		Long: `Put the program perigeed that is on a node's disk now in the place of the one
that runs, without failing a request: the new one takes the open ports over, and
the former one ends when its connections have. If the new one does not get to
work, the former one goes on. Machines run on.

Replace the program on each server first, by a rename: install -m 755 perigeed
/usr/local/bin/ does that. Nodes are upgraded one after the other, each when
the one before it is up again; without a name it is the node that answers.`,
		Example: "  perigee node upgrade\n  perigee node upgrade fra1 fra2\n  perigee node upgrade --all",
		RunE: func(c *cobra.Command, args []string) error {
			if all && len(args) > 0 {
				return usagef("--all is every node; name none with it")
			}
			return e.upgrade(c.Context(), args, all, wait)
		},
	}
	c.Flags().BoolVar(&all, "all", false, "every node of the cloud")
	c.Flags().DurationVar(&wait, "wait", 2*time.Minute, "how long each node may take")
	return c
}

func (e *env) upgrade(ctx context.Context, names []string, all bool, wait time.Duration) error {
	client, err := e.client()
	if err != nil {
		return err
	}
	nodes, err := client.ListNodes(ctx)
	if err != nil {
		return e.explain(err)
	}
	if names = toUpgrade(nodes, names, all); len(names) == 0 {
		return fmt.Errorf("the node that answers does not say which it is")
	}
	for _, name := range names {
		if err := e.upgradeOne(ctx, client, name, wait); err != nil {
			return err
		}
	}
	return nil
}

// toUpgrade puts the node that answers last: it is asked how the others do.
func toUpgrade(nodes []api.ClusterNode, names []string, all bool) []string {
	if len(names) > 0 {
		return names
	}
	self := ""
	for _, n := range nodes {
		if n.Self {
			self = n.Name
		} else if all {
			names = append(names, n.Name)
		}
	}
	if self != "" {
		names = append(names, self)
	}
	return names
}

func (e *env) upgradeOne(ctx context.Context, client *api.Client, name string, wait time.Duration) error {
	before, err := client.GetNode(ctx, name)
	if err != nil {
		return e.explain(err)
	}
	if !before.Up {
		return hint(fmt.Errorf("node %q is down", name), "start it, or remove it with perigee node remove %s; the nodes before it are upgraded", name)
	}
	u, err := client.UpgradeNode(ctx, name)
	if err != nil {
		return e.explain(err)
	}
	after, err := e.awaitUpgraded(ctx, client, before, wait)
	if err != nil {
		return err
	}
	return e.did("%s runs version %s, after %s", name, first(after.Version, u.Version), before.Version)
}

// upgradePoll is how often a node that is upgraded is looked at.
const upgradePoll = 200 * time.Millisecond

// awaitUpgraded waits until the node's new program serves, or the former one says
// why not. A node that does not answer for a moment may be the one that was asked.
func (e *env) awaitUpgraded(ctx context.Context, client *api.Client, before api.ClusterNode, wait time.Duration) (n api.ClusterNode, err error) {
	for ends := time.Now().Add(wait); ; {
		n, err = client.GetNode(ctx, before.Name)
		switch {
		case err == nil && n.Up && n.Synced && !n.StartedAt.Equal(before.StartedAt):
			return n, nil
		case err == nil && n.Fault != "" && n.Fault != before.Fault:
			return n, hint(fmt.Errorf("node %q was not upgraded: %s", before.Name, n.Fault), "it goes on with version %s; its log tells more", n.Version)
		case err != nil && refused(err):
			return n, e.explain(err)
		case time.Now().After(ends):
			return n, hint(fmt.Errorf("node %q was not upgraded within %s", before.Name, wait), "look again with perigee node show %s; its log tells more", before.Name)
		}
		select {
		case <-ctx.Done():
			return n, ctx.Err()
		case <-time.After(upgradePoll):
		}
	}
}
