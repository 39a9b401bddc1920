package cluster

import (
	"context"
	"strconv"
	"time"

	"github.com/perigee-run/perigee/api"
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
	return api.Errorf(api.CodeNotFound, "there is no node %q", clip(name)).WithHint("perigee nodes lists them")
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
// from now on. A node that is up must be drained before, or force be given.
func (c *Cluster) RemoveNode(ctx context.Context, name string, force bool) error {
	if n, ok := c.Node(name); ok && n.Member {
		if err := c.resign(ctx, name); err != nil {
			return err
		}
	}
	return c.edit(ctx, name, func(n *Node) error {
		if n.Member && !c.otherMember(name, nil) {
			return lastMember(name)
		}
		if s := c.shown(*n); !force && s.Up && s.State != "drained" {
			return api.Errorf(api.CodeConflict, "node %q is up and has %s", name, machines(s.Machines)).
				WithHint("drain it first: perigee node drain " + name + "; or give --force")
		}
		n.Removed, n.RemovedAt, n.Member = true, c.cfg.now().UTC(), false
		return nil
	})
}

// machines counts in words.
func machines(n int) string {
	if n == 1 {
		return "1 machine"
	}
	return strconv.Itoa(n) + " machines"
}

// leavers are members that are being removed, and since when. They stand in one
// record, so that of the last two only one gets there.
type leavers struct {
	Nodes map[string]time.Time `json:"nodes"`
}

// leavePatience is how long a removal that was begun counts: far longer than one
// takes, since the one who began it may have died.
const leavePatience = time.Minute

// resign announces that a member is about to be removed, or fails if it is the
// last one that would stay.
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
		if !c.otherMember(name, going) {
			return lastMember(name)
		}
		going[name] = now
		l.Nodes = going
		return nil
	})
	return err
}

func lastMember(name string) error {
	return api.Errorf(api.CodeConflict, "node %q alone keeps the cloud's state: without it everything would be lost", name).
		WithHint("let another node with the role state take it over first: perigee node drain " + name)
}

// otherMember reports whether a member stays when the node and those that are
// going have gone.
func (c *Cluster) otherMember(name string, going map[string]time.Time) bool {
	for _, n := range c.Nodes() {
		if _, goes := going[n.Name]; n.Member && n.Name != name && !goes {
			return true
		}
	}
	return false
}
