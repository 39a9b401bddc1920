package node

import (
	"context"

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
		case !c.Deleted && n.cluster.WasRemoved(c.Node): // it ends its machines, and others are made from what they were
		case c.Deleted:
			n.index.Drop(c.Node, c.Key)
		default:
			n.index.Put(c.Value)
		}
	}
	return nil
}

// forgetRemoved drops what nodes said of their machines that were removed from the
// cluster, each as soon as others stand for its machines: they are made from that.
func (n *Node) forgetRemoved(ctx context.Context) {
	wanted := map[string]bool{}
	for _, s := range n.index.List("") {
		if n.cluster.WasRemoved(s.Node) {
			wanted[s.Node] = wanted[s.Node] || !n.standIns(n.placed(s))
		}
	}
	for name, still := range wanted {
		if still {
			continue
		}
		if err := n.summaries.Forget(ctx, name); err != nil {
			n.log.Warn("cannot forget the machines of a removed node", "node", name, "err", err)
			continue
		}
		n.index.Replace(name, nil)
	}
}

// standIns reports whether another machine stands for one that is lost, or never
// will.
func (n *Node) standIns(p placement.Placed) bool {
	m, ok := n.moves.Of(p)[p.ID]
	return p.Mounted || ok && m.Phase != placement.Open
}
