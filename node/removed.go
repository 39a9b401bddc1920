package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/perigee-run/perigee/cluster"
)

// ErrRemoved is in the error of a node that was removed from its cloud: to start
// it again changes nothing.
var ErrRemoved = cluster.ErrRemoved

// removedStop bounds how long the machines of a removed node may take to end.
const removedStop = time.Minute

// keepMembership ends the node when it was removed, its machines first: the cloud
// does not know them any more, and others stand for them.
func (n *Node) keepMembership(ctx context.Context) error {
	err := n.cluster.Run(ctx)
	if !errors.Is(err, ErrRemoved) {
		return err
	}
	n.log.Error("this node was removed from the cloud: it ends, its machines first", "err", err)
	n.last.Store(true)
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), removedStop)
	defer cancel()
	n.stopMachines(stop)
	return n.removed(err)
}

// removed says what the operator of a removed node has to know.
func (n *Node) removed(err error) error {
	why := ""
	var r *cluster.RefusedError
	if errors.As(err, &r) {
		why = ": " + r.Text
	}
	return fmt.Errorf("%w%s; no other node speaks to it, its machines are stopped, and its data is still in %s"+
		"\nhint: to use this server again, move that directory away, make a token with perigee node token on a node of the cloud, and run perigee join", ErrRemoved, why, n.cfg.Data)
}

// endLeft ends the machines that an earlier run left on a node that has learned
// at its start that it was removed.
func (n *Node) endLeft(ctx context.Context) {
	if !mounted(n.path("sandbox")) {
		return // nothing has run since the server started
	}
	if err := n.openSandbox(ctx); err != nil {
		n.log.Error("cannot end the machines of this node", "err", err)
		return
	}
	left, err := n.sandbox.List(ctx)
	for _, s := range left {
		err = errors.Join(err, n.sandbox.Destroy(ctx, s.ID))
	}
	if err = errors.Join(err, n.sandbox.Shutdown(ctx), unmountMemory(n.path("sandbox"))); err != nil {
		n.log.Error("cannot end all machines of this node", "err", err)
	}
	removeCgroups(n.cfg.NetworkPrefix)
}
