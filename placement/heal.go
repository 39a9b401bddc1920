package placement

import (
	"cmp"
	"slices"
	"time"
)

// HealConfig says what is healed.
type HealConfig struct {
	// DeadAfter is how long a node must be down. Default 60 s.
	DeadAfter time.Duration
	// Mounted replaces machines with volumes too: what they kept is lost.
	// Default: they wait for their node.
	Mounted bool
}

// Stuck is a machine that should move and has nowhere to go.
type Stuck struct {
	Machine string
	Why     error
}

// defaultDeadAfter is long enough for a reboot of the daemon, and short enough
// for people to call it healing.
const defaultDeadAfter = time.Minute

func (c HealConfig) deadAfter() time.Duration { return cmp.Or(c.DeadAfter, defaultDeadAfter) }

// dead reports whether the node has been down for long.
func (c HealConfig) dead(now time.Time, n Node) bool {
	return !n.Up && now.Sub(n.Since) >= c.deadAfter()
}

// Heal plans new places for the machines of nodes that are dead: in the same
// region first, then the nearest that the app's configuration allows, then
// anywhere. Machines that are in a move already are left to it.
func Heal(now time.Time, nodes []Node, machines []Placed, moves map[string]Move, cfg HealConfig) ([]Move, []Stuck) {
	return plan(now, nodes, machines, moves, Dead, cfg.Mounted, func(n Node) bool { return cfg.dead(now, n) })
}

// Rebalance plans new places for the machines of nodes that are draining. Those
// with volumes stay.
func Rebalance(now time.Time, nodes []Node, machines []Placed, moves map[string]Move) ([]Move, []Stuck) {
	return plan(now, nodes, machines, moves, Drain, false, func(n Node) bool { return n.Up && n.Draining })
}

// Return plans the way home for machines that stand in for another region: once it
// has had a node that takes them for as long as a node must be down to be dead, so
// that one that comes and goes has nothing moved. Those with volumes stay.
func Return(now time.Time, nodes []Node, machines []Placed, moves map[string]Move, cfg HealConfig) []Move {
	at := map[string]Node{}
	settled := slices.Clone(nodes)
	for i, n := range nodes {
		at[n.Name] = n
		settled[i].Up = n.Up && now.Sub(n.Since) >= cfg.deadAfter()
	}
	var out []Move
	for _, m := range machines {
		from := at[m.Node]
		if !from.Up || from.Draining || from.Region == m.Region || m.Mounted || busy(m, moves) || Judge(m, moves) != Keep {
			continue
		}
		if to, err := Choose(settled, m.home()); err == nil {
			take(settled, to, m.home())
			out = append(out, m.move(Home, to, now))
		}
	}
	return out
}

func plan(now time.Time, nodes []Node, machines []Placed, moves map[string]Move, why Reason, mounted bool, leaves func(Node) bool) ([]Move, []Stuck) {
	nodes = slices.Clone(nodes)
	var out []Move
	var stuck []Stuck
	stoodFor := map[string]bool{}
	for _, m := range machines {
		if m.Replaces != "" {
			stoodFor[m.Replaces] = true
		}
	}
	for _, m := range leaving(nodes, machines, leaves) {
		// One that another stands for without a move is old news.
		if busy(m, moves) || m.Mounted && !mounted || Judge(m, moves) != Keep || stoodFor[m.ID] {
			continue
		}
		to, err := refuge(nodes, m)
		if err != nil {
			stuck = append(stuck, Stuck{m.ID, err})
			continue
		}
		take(nodes, to, m.want(nodes))
		out = append(out, m.move(why, to, now))
	}
	return out, stuck
}

// busy reports whether a move has the machine, or has it made and is not decided
// yet: that one looks for another place by itself.
func busy(m Placed, moves map[string]Move) bool {
	_, moving := moves[m.ID]
	return moving || moves[m.Replaces].madeFor(m) && moves[m.Replaces].Phase == Open
}

func (m Placed) move(why Reason, to string, now time.Time) Move {
	return Move{Machine: m.ID, App: m.App, Reason: why, Phase: Open, From: m.Node, To: to, Home: m.Region, Cordoned: m.Cordoned, Begun: now}
}

// refuge is the best node for a machine that leaves its own.
func refuge(nodes []Node, m Placed) (string, error) { return Choose(nodes, m.want(nodes)) }

func (m Placed) want(nodes []Node) Want {
	return Want{App: m.App, Group: m.Group, Regions: order(nodes, m.Region, m.Allowed), MemoryMB: m.MemoryMB, CPUs: m.CPUs, Not: []string{m.Node}}
}

// home is want with no other region than that where the machine belongs.
func (m Placed) home() Want {
	return Want{App: m.App, Group: m.Group, Regions: []string{m.Region}, MemoryMB: m.MemoryMB, CPUs: m.CPUs, Not: []string{m.Node}}
}

// order is home, then the other regions allowed, then all others, each by distance.
func order(nodes []Node, home string, allowed []string) []string {
	near := Nearest(home, regionsOf(nodes))
	rank := func(r string) int {
		switch {
		case r == home:
			return 0
		case slices.Contains(allowed, r):
			return 1
		}
		return 2
	}
	slices.SortStableFunc(near, func(a, b string) int { return cmp.Compare(rank(a), rank(b)) })
	return near
}

// leaving is the machines of the nodes that are to be left, by id.
func leaving(nodes []Node, machines []Placed, leaves func(Node) bool) []Placed {
	left := map[string]bool{}
	for _, n := range nodes {
		if leaves(n) {
			left[n.Name] = true
		}
	}
	var out []Placed
	for _, m := range machines {
		if left[m.Node] {
			out = append(out, m)
		}
	}
	slices.SortFunc(out, func(a, b Placed) int { return cmp.Compare(a.ID, b.ID) })
	return out
}
