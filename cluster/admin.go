package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/catalog"
)

// ListNodes returns all nodes as the API shows them, by name.
func (c *Cluster) ListNodes() []api.ClusterNode {
	out := []api.ClusterNode{}
	for _, n := range c.Nodes() {
		out = append(out, c.shown(n))
	}
	return out
}

// ShowNode returns one node.
func (c *Cluster) ShowNode(name string) (api.ClusterNode, error) {
	n, ok := c.Node(name)
	if !ok {
		return api.ClusterNode{}, noNode(name)
	}
	return c.shown(n), nil
}

func noNode(name string) error {
	return api.Errorf(api.CodeNotFound, "there is no node %q", api.Clip(name)).WithHint("perigee nodes lists them")
}

func (c *Cluster) shown(n Node) api.ClusterNode {
	s, self := c.cfg.Status(n.Name), c.Self().Name == n.Name
	s.Up = s.Up || self
	out := api.ClusterNode{Name: n.Name, Region: n.Region, Number: n.Number, Roles: n.Roles, Member: n.Member, Address: n.Address, PeerPort: n.PeerPort,
		Version: n.Version, Cordoned: n.Cordoned, Draining: n.Draining, Up: s.Up, Self: self,
		CPUs: s.CPUs, MemoryMB: s.MemoryMB, HTTP: s.HTTP, HTTPS: s.HTTPS, Machines: s.Machines, Requests: s.Requests,
		Leaving: s.Leaving, Synced: s.Synced, StartedAt: s.StartedAt, Fault: s.Fault, SeenAt: s.SeenAt, JoinedAt: n.JoinedAt, CertifiedAt: n.CertifiedAt.Add(backdate)}
	switch {
	case !s.Up:
		out.State = "down"
	case n.Draining && s.Empty():
		out.State = "drained"
	case n.Draining:
		out.State = "draining"
	case n.Cordoned:
		out.State = "cordoned"
	default:
		out.State = "up"
	}
	return out
}

// edit changes the record of a node that is there.
func (c *Cluster) edit(ctx context.Context, name string, edit func(n *Node) error) error {
	t, err := c.state()
	if err != nil {
		return err
	}
	if !nodeName.MatchString(name) {
		return noNode(name)
	}
	_, err = change(ctx, t.nodes, name, func(n *Node, there bool) error {
		if !there || n.Removed {
			return noNode(name)
		}
		return edit(n)
	})
	return err
}

// CordonNode keeps new machines away from a node.
func (c *Cluster) CordonNode(ctx context.Context, name string) error {
	return c.edit(ctx, name, func(n *Node) error { n.Cordoned = true; return nil })
}

// UncordonNode ends what CordonNode or DrainNode began.
func (c *Cluster) UncordonNode(ctx context.Context, name string) error {
	return c.edit(ctx, name, func(n *Node) error { n.Cordoned, n.Draining = false, false; return nil })
}

// DrainNode cordons a node and has its machines and requests move away. It
// returns at once; the node's status tells when it is empty.
func (c *Cluster) DrainNode(ctx context.Context, name string) error {
	return c.edit(ctx, name, func(n *Node) error { n.Cordoned, n.Draining = true, true; return nil })
}

// RotateNodeKey has a node replace the key that it has in the mesh. It returns at
// once; the node does it when the others know the next key.
func (c *Cluster) RotateNodeKey(ctx context.Context, name string) error {
	return c.edit(ctx, name, func(n *Node) error { n.RetiredKey = n.WireGuardKey; return nil })
}

// RemoveNode ends a node's membership: its certificate is refused everywhere
// from now on. A node that is up must be drained before, or force be given. One
// without which the state could decide nothing is never removed; while another takes
// its part of the state over that is awaited.
func (c *Cluster) RemoveNode(ctx context.Context, name string, force bool) error {
	n, ok := c.Node(name)
	if !ok {
		return noNode(name)
	}
	if err := c.mayLeave(n, force); err != nil {
		return err
	}
	keeps, err := c.awaitLoss(ctx, name)
	if err != nil {
		return err
	}
	if keeps && n.Member {
		if err := c.resign(ctx, name); err != nil {
			return err
		}
	}
	err = c.edit(ctx, name, func(n *Node) error {
		if n.Member && keeps && !c.decidesWithout(name, nil) {
			return c.needed(name)
		}
		if err := c.mayLeave(*n, force); err != nil {
			return err
		}
		n.remove(c.cfg.now())
		return nil
	})
	if err != nil && keeps && n.Member {
		c.stay(context.WithoutCancel(ctx), name)
	}
	return err
}

// mayLeave refuses the removal of a node that has something to do.
func (c *Cluster) mayLeave(n Node, force bool) error {
	if s := c.shown(n); !force && s.Up && s.State != "drained" {
		return api.Errorf(api.CodeConflict, "node %q is up and has %s", n.Name, machines(s.Machines)).
			WithHint("drain it first: perigee node drain " + n.Name + "; or give --force")
	}
	return nil
}

func (n *Node) remove(now time.Time) {
	n.Removed, n.RemovedAt, n.Member = true, now.UTC(), false
}

// Recover removes nodes that are lost for good, where most of those that keep the
// state are among them, so that nothing can be decided: the rest go on without them.
// Only a node that keeps the state can do it. What was written to none but the lost
// ones is lost.
func (c *Cluster) Recover(ctx context.Context, lost []string) error {
	if len(lost) == 0 {
		return api.Errorf(api.CodeInvalid, "no lost node is named").WithField("lost")
	}
	if _, err := c.state(); err != nil {
		return err
	}
	for _, name := range lost {
		if _, ok := c.Node(name); !ok {
			return noNode(name)
		}
		if name == c.Self().Name {
			return api.Errorf(api.CodeInvalid, "node %q is asked, and so is not lost", name).WithField("lost")
		}
	}
	if err := c.keeper().Recover(ctx, lost); err != nil {
		return api.Errorf(api.CodePrecondition, "cannot recover the cloud's state: %v", err)
	}
	for _, name := range lost {
		if err := c.edit(ctx, name, func(n *Node) error { n.remove(c.cfg.now()); return nil }); err != nil {
			return err
		}
	}
	return nil
}

// keeper is the catalog, which is there once the node is attached.
func (c *Cluster) keeper() *catalog.Catalog {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.catalog
}

const (
	// emptiedIn is how long a removal waits for the node's part of the state to be moved.
	emptiedIn = 30 * time.Second
	// ledIn is how long it waits for a leader of the state, which such a move may change.
	ledIn = 10 * time.Second
)

// awaitLoss waits until the state can do without the node, and reports whether it
// keeps a part of it.
func (c *Cluster) awaitLoss(ctx context.Context, name string) (keeps bool, err error) {
	state := c.keeper()
	if state == nil {
		return false, nil // nor can anything be written
	}
	for began := time.Now(); ; {
		keeps, err := state.CheckLoss(ctx, name)
		waited := time.Since(began)
		n, ok := c.Node(name)
		needed := errors.Is(err, catalog.ErrNeeded)
		switch moving := errors.Is(err, catalog.ErrMoving) || needed && ok && !n.Member; {
		case err == nil:
			return keeps, nil
		case needed && !moving:
			return keeps, c.needed(name)
		case moving && waited > emptiedIn:
			return keeps, api.Errorf(api.CodeConflict, "what node %q keeps of the cloud's state is still being copied to others", name).WithHint("try again in a minute")
		case !moving && waited > ledIn:
			return keeps, err
		}
		select {
		case <-ctx.Done():
			return keeps, ctx.Err()
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// machines counts in words.
func machines(n int) string {
	if n == 1 {
		return "1 machine"
	}
	return strconv.Itoa(n) + " machines"
}

// leavers are members that are being removed, and since when. They stand in one
// record, so that of two that may not both go only one gets there.
type leavers struct {
	Nodes map[string]time.Time `json:"nodes"`
}

// leavePatience is how long a removal that was begun counts: far longer than one
// takes, since the one who began it may have died.
const leavePatience = time.Minute

// resign announces that a member is about to be removed, or fails if those that
// would stay are not most.
func (c *Cluster) resign(ctx context.Context, name string) error {
	t, err := c.state()
	if err != nil {
		return err
	}
	_, err = change(ctx, t.leaving, "members", func(l *leavers, _ bool) error {
		now, going := c.cfg.now().UTC(), map[string]time.Time{}
		for n, since := range l.Nodes {
			if r, ok := c.record(n); ok && !r.Removed && now.Sub(since) < leavePatience {
				going[n] = since
			}
		}
		if !c.decidesWithout(name, going) {
			return c.needed(name)
		}
		switch _, err := c.keeper().CheckLoss(ctx, append(slices.Collect(maps.Keys(going)), name)...); {
		case errors.Is(err, catalog.ErrNeeded), errors.Is(err, catalog.ErrMoving): // with those that are going
			return c.needed(name)
		case err != nil:
			return err
		}
		going[name] = now
		l.Nodes = going
		return nil
	})
	return err
}

// stay takes back what resign announced.
func (c *Cluster) stay(ctx context.Context, name string) {
	t, err := c.state()
	if err == nil {
		_, err = change(ctx, t.leaving, "members", func(l *leavers, _ bool) error {
			l.Nodes = maps.Clone(l.Nodes)
			delete(l.Nodes, name)
			return nil
		})
	}
	if err != nil {
		c.log.Warn("a removal that was refused holds up others for a minute", "node", name, "err", err)
	}
}

// needed says why a node cannot be removed, and what to do first.
func (c *Cluster) needed(name string) error {
	hint := "let another node with the role state join first, which can take its part over"
	if slices.ContainsFunc(c.Nodes(), func(n Node) bool { return n.Name != name && n.Has(RoleState) }) {
		hint = "have another node take its part over, or give it up, first: perigee node drain " + name
	}
	for _, n := range c.Nodes() {
		if n.Member && n.Name != name && c.shown(n).State == "down" {
			hint = fmt.Sprintf("node %q keeps the state too and is down: start it, or remove it first", n.Name)
		}
	}
	return api.Errorf(api.CodeConflict, "node %q cannot be removed: most of the nodes that keep the cloud's state must stay to decide anything, and without it they would not be most", name).
		WithHint(hint)
}

// decidesWithout reports whether the members that stay when the node and those that
// are going have gone are most of those there are.
func (c *Cluster) decidesWithout(name string, going map[string]time.Time) bool {
	all, stay := 0, 0
	for _, n := range c.Nodes() {
		if !n.Member {
			continue
		}
		all++
		if _, goes := going[n.Name]; n.Name != name && !goes {
			stay++
		}
	}
	return stay > all/2
}
