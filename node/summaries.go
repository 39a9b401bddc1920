package node

import (
	"context"
	"slices"

	"github.com/perigee-run/perigee/machine"
	"github.com/perigee-run/perigee/placement"
)

// keepSummaries tells all nodes of this one's machines, as they change.
func (n *Node) keepSummaries(ctx context.Context) error {
	select {
	case <-n.machines.Ready():
	case <-ctx.Done():
		return nil
	}
	changes := n.machines.Changes(ctx)
	said := n.machines.Summaries()
	n.summaries.Replace(said)
	for id := range changes {
		if n.last.Load() {
			return nil // others are made from what its machines were before they ended
		}
		s, ok := n.machines.Summary(id)
		old, known := said[id]
		switch {
		case ok && !(known && old.Equal(s)):
			said[id] = s
			n.summaries.Set(id, s)
		case !ok && known:
			delete(said, id)
			n.summaries.Unset(id)
		}
	}
	return nil
}

// keepIndex puts what the other nodes say of their machines where it is found by
// machine and by app.
func (n *Node) keepIndex(ctx context.Context) error {
	changes := n.summaries.Watch(ctx)
	for _, e := range n.summaries.List() { // what is known already, at once
		if e.Node != n.cfg.Name {
			n.index.Put(e.Value)
		}
	}
	close(n.indexed)
	for c := range changes {
		switch {
		case c.Node == n.cfg.Name: // what is true of ours is known here better
		case c.Deleted:
			n.index.Drop(c.Node, c.Key)
		default:
			n.index.Put(c.Value)
		}
	}
	return nil
}

// forgetRemoved drops what nodes said that were removed from the cluster: of their
// machines, each as soon as another stands for it, which is made from that.
func (n *Node) forgetRemoved(ctx context.Context) {
	for _, name := range n.cluster.RemovedNames() {
		if err := n.statuses.Forget(ctx, name); err != nil {
			n.log.Warn("cannot forget a removed node; it is tried again", "node", name, "err", err)
			return
		}
		if err := n.inheritVolumes(ctx, name); err != nil {
			n.log.Warn("cannot take over the snapshots of a removed node; it is tried again", "node", name, "err", err)
			return
		}
		for _, s := range n.index.On(name) {
			if !n.replaced(n.placed(s)) {
				continue
			}
			if err := n.summaries.Forget(ctx, name, s.ID); err != nil {
				n.log.Warn("cannot forget a machine of a removed node; it is tried again", "node", name, "machine", s.ID, "err", err)
				return
			}
			n.index.Drop(name, s.ID)
		}
	}
}

// replaced reports whether another machine stands for one that is lost, or none ever
// will.
func (n *Node) replaced(p placement.Placed) bool {
	moves := n.moves.Of(p)
	if p.Mounted || placement.Judge(p, moves) == placement.Destroy {
		return true
	}
	_, moving := moves[p.ID]
	return !moving && slices.ContainsFunc(n.machinesOf(p.App), func(s machine.Summary) bool { return s.Replaces == p.ID })
}
