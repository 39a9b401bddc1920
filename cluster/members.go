package cluster

import (
	"cmp"
	"context"
	"slices"
)

// Members chooses which nodes keep the replicated state: one until three nodes
// may, then three, and five where a state node wants five and there are enough.
// Present members stay, also where one that was removed leaves an even number:
// what is written is then on more disks than if one gave up its part. New ones
// come from regions that have none yet, the oldest first. Removed nodes are never
// chosen. A draining one is not chosen anew, and gives its place up when another can
// take it. It returns names in order; the same nodes give the same answer everywhere.
func Members(nodes []Node) []string {
	able := slices.DeleteFunc(slices.Clone(nodes), func(n Node) bool { return n.Removed || !n.Has(RoleState) || n.Draining && !n.Member })
	ready, leaving := split(able, func(n Node) bool { return !n.Draining })
	present, fresh := split(ready, func(n Node) bool { return n.Member })
	want := wanted(able, len(present))
	chosen := pick(nil, present, want)
	chosen = pick(chosen, fresh, want)
	chosen = pick(chosen, leaving, want)
	names := make([]string, 0, len(chosen))
	for _, n := range chosen {
		names = append(names, n.Name)
	}
	slices.Sort(names)
	return names
}

// wanted is how many members there should be: an odd number, or as many as are left.
func wanted(able []Node, present int) int {
	most := 0
	for _, n := range able {
		most = max(most, n.WantMembers)
	}
	most = cmp.Or(most, 3)
	want := most
	for want > 1 && len(able) < want {
		want -= 2
	}
	return max(want, min(most, present))
}

func split(all []Node, first func(Node) bool) (yes, no []Node) {
	for _, n := range all {
		if first(n) {
			yes = append(yes, n)
		} else {
			no = append(no, n)
		}
	}
	return yes, no
}

// pick adds nodes until there are want, each from the region that has fewest.
func pick(chosen, from []Node, want int) []Node {
	from = slices.Clone(from)
	for len(chosen) < want && len(from) > 0 {
		in := map[string]int{}
		for _, n := range chosen {
			in[n.Region]++
		}
		next := slices.MinFunc(from, func(a, b Node) int {
			return cmp.Or(cmp.Compare(in[a.Region], in[b.Region]), a.JoinedAt.Compare(b.JoinedAt), cmp.Compare(a.Name, b.Name))
		})
		chosen = append(chosen, next)
		from = slices.DeleteFunc(from, func(n Node) bool { return n.Name == next.Name })
	}
	return chosen
}

// chooseMembers writes who the members are, new ones first: at no moment are
// there none. Several nodes may do it at once; they choose alike.
func (c *Cluster) chooseMembers(ctx context.Context) error {
	t, err := c.state()
	if err != nil {
		return err
	}
	chosen := Members(c.Nodes())
	if len(chosen) == 0 {
		return nil // nobody may; who is, stays
	}
	for _, member := range []bool{true, false} {
		for _, n := range c.Nodes() {
			if n.Member == member || slices.Contains(chosen, n.Name) != member {
				continue
			}
			if err := c.setMember(ctx, t, n.Name, member); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *Cluster) setMember(ctx context.Context, t *tables, name string, member bool) error {
	_, err := change(ctx, t.nodes, name, func(n *Node, there bool) error {
		if !there || n.Removed {
			return errKeep
		}
		n.Member = member
		return nil
	})
	if err == nil {
		c.log.Info("the state's members change", "node", name, "member", member)
	}
	return err
}
