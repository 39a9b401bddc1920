package deploy

import (
	"cmp"
	"maps"
	"math"
	"slices"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/app"
)

// The strategies of a release.
const (
	Rolling   = "rolling"
	Canary    = "canary"
	BlueGreen = "bluegreen"
	Immediate = "immediate"
)

// Goal is what a release wants.
type Goal struct {
	Release        int
	Strategy       string
	MaxUnavailable float64        // machines, or a share of the group's if below 1
	Counts         map[string]int // machines by group; groups not named get none
}

// Have is one of the app's machines as the planner sees it.
type Have struct {
	ID, Group, State string
	Release          int
	Cordoned         bool
	Mounted          bool // it has a volume, so nothing can stand beside it
	Kept             bool // of an earlier release, but already as this one wants it
}

// Action is what a step does. Steps may be repeated.
type Action string

// The actions going forward, in the order of a batch's life, and those of an undo.
const (
	Create Action = "create" // make a machine of the group, cordoned
	Update Action = "update" // in place: cordon, drain, give it the release's configuration
	Admit  Action = "admit"  // wait until it is healthy, then uncordon it
	Retire Action = "retire" // cordon, drain, stop, but keep it
	Remove Action = "remove" // cordon, drain, destroy it
	Revive Action = "revive" // start a retired one again, then uncordon it
	Revert Action = "revert" // in place: give it its former configuration
)

// Step is one thing to do. The steps of a batch have the same action and may be
// done at the same time.
type Step struct {
	Do    Action
	ID    string // of the machine; "" for Create
	Group string
}

// Plan returns the next batch of steps towards the goal; none when it stands
// and only [Leftover] machines are in the way.
func Plan(goal Goal, have []Have) []Step {
	groups := split(goal, have)
	if goal.Strategy == BlueGreen || goal.Strategy == Immediate {
		return firstStage(groups)
	}
	for i := range groups {
		if steps := firstStage(groups[i : i+1]); len(steps) > 0 {
			return steps
		}
	}
	return nil
}

// firstStage returns the steps of the earliest stage that any of the groups is in.
func firstStage(groups []group) []Step {
	for _, stage := range []func(group) []Step{group.updates, group.creates, group.admits, group.retires} {
		var steps []Step
		for _, g := range groups {
			steps = append(steps, stage(g)...)
		}
		if len(steps) > 0 {
			return steps
		}
	}
	return nil
}

// Leftover returns the steps that remove what the goal does not need any more:
// machines of earlier releases, and the release's own beyond their number.
func Leftover(goal Goal, have []Have) []Step {
	var steps []Step
	for _, g := range split(goal, have) {
		for _, h := range g.old {
			steps = append(steps, Step{Remove, h.ID, g.name})
		}
		live := slices.Clone(g.live)
		slices.SortStableFunc(live, func(a, b Have) int { return cmp.Compare(awake(a), awake(b)) })
		for _, h := range live[:max(0, len(g.live)-g.want)] {
			steps = append(steps, Step{Remove, h.ID, g.name})
		}
	}
	return steps
}

// UndoPlan returns the next batch of steps that bring back what there was before
// the release; none when that stands.
func UndoPlan(release int, before map[string]app.Before, have []Have) []Step {
	var revive, revert, remove []Step
	for _, h := range have {
		b, was := before[h.ID]
		switch {
		case h.Release == release && was && b.Release != release:
			revert = append(revert, Step{Revert, h.ID, h.Group})
		case h.Release == release && !was:
			remove = append(remove, Step{Remove, h.ID, h.Group})
		case was && h.Cordoned && !b.Cordoned:
			revive = append(revive, Step{Revive, h.ID, h.Group})
		}
	}
	return firstOf(revive, revert, remove)
}

func firstOf(batches ...[]Step) []Step {
	for _, b := range batches {
		if len(b) > 0 {
			return b
		}
	}
	return nil
}

// group is the machines of one process group by what they are to the goal.
type group struct {
	name  string
	want  int
	batch int // how many may be on their way at a time

	fresh []Have // of the release, not admitted yet
	live  []Have // of the release, admitted, or kept
	old   []Have // all others
}

// split sorts machines into groups: those that the goal names, then the rest.
func split(goal Goal, have []Have) []group {
	byName := map[string]*group{}
	for name, n := range goal.Counts {
		byName[name] = &group{name: name, want: n}
	}
	live := 0
	for _, h := range have {
		g := byName[h.Group]
		if g == nil {
			g = &group{name: h.Group}
			byName[h.Group] = g
		}
		switch {
		case h.Release == goal.Release && h.Cordoned:
			g.fresh = append(g.fresh, h)
		case h.Release == goal.Release || h.Kept:
			g.live = append(g.live, h)
			live++
		default:
			g.old = append(g.old, h)
		}
	}
	out := make([]group, 0, len(byName))
	for _, g := range byName {
		g.batch = goal.batch(g.want, live)
		out = append(out, *g)
	}
	slices.SortFunc(out, func(a, b group) int {
		return cmp.Or(cmp.Compare(gone(a, goal), gone(b, goal)), cmp.Compare(a.name, b.name))
	})
	return out
}

func gone(g group, goal Goal) int {
	if _, named := goal.Counts[g.name]; named {
		return 0
	}
	return 1
}

// batch returns how many of a group's want machines may be on their way at a time.
func (goal Goal) batch(want, live int) int {
	switch {
	case goal.Strategy == BlueGreen || goal.Strategy == Immediate:
		return math.MaxInt
	case goal.Strategy == Canary && live == 0:
		return 1
	case goal.MaxUnavailable >= 1:
		return int(goal.MaxUnavailable)
	}
	return max(1, int(goal.MaxUnavailable*float64(want)))
}

// missing is how many machines are to be made or updated yet.
func (g group) missing() int { return max(0, g.want-len(g.fresh)-len(g.live)) }

// room is how many may be begun now.
func (g group) room() int { return max(0, min(g.missing(), g.batch-len(g.fresh))) }

func (g group) mounted() []Have {
	return slices.DeleteFunc(slices.Clone(g.old), func(h Have) bool { return !h.Mounted })
}

func (g group) updates() []Step {
	m := g.mounted()
	return each(Update, g.name, m[:min(len(m), g.room())])
}

func (g group) creates() []Step {
	n := min(g.room(), g.missing()-len(g.mounted()))
	var steps []Step
	for range n {
		steps = append(steps, Step{Do: Create, Group: g.name})
	}
	return steps
}

func (g group) admits() []Step { return each(Admit, g.name, g.fresh) }

// retires takes away as many old machines as the live ones stand for; those
// that sleep go first.
func (g group) retires() []Step {
	serving := slices.DeleteFunc(slices.Clone(g.old), retired)
	slices.SortStableFunc(serving, func(a, b Have) int { return cmp.Compare(awake(a), awake(b)) })
	stay := max(0, g.want-len(g.live))
	return each(Retire, g.name, serving[:max(0, len(serving)-stay)])
}

func each(do Action, group string, have []Have) []Step {
	var steps []Step
	for _, h := range have {
		steps = append(steps, Step{do, h.ID, group})
	}
	return steps
}

// retired reports whether a machine neither serves nor runs.
func retired(h Have) bool { return h.Cordoned && awake(h) == 0 }

// awake is 1 for a machine that runs or is on its way, 0 for one that sleeps or
// has ended.
func awake(h Have) int {
	switch h.State {
	case api.StateStopped, api.StateSuspended, api.StatePaused, api.StateCreated, api.StateFailed, api.StateDestroyed:
		return 0
	}
	return 1
}

// groupsOf returns the goal's groups in order.
func groupsOf(counts map[string]int) []string { return slices.Sorted(maps.Keys(counts)) }
