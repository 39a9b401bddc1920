package node

import "context"

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
		case c.Deleted:
			n.index.Drop(c.Node, c.Key)
		default:
			n.index.Put(c.Value)
		}
	}
	return nil
}

// forgetNode drops what a node said that was removed from the cluster.
func (n *Node) forgetNode(ctx context.Context, name string) {
	if err := n.summaries.Forget(ctx, name); err != nil {
		n.log.Warn("cannot forget the machines of a removed node", "node", name, "err", err)
	}
	if err := n.statuses.Forget(ctx, name); err != nil {
		n.log.Warn("cannot forget a removed node", "node", name, "err", err)
	}
	n.index.Replace(name, nil)
}
