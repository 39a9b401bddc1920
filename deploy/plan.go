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
	MaxUnavailable float64      // machines, or a share of the group's if below 1
	Primary        string       // the region that goes first
	Counts         map[Slot]int // machines by group and region; slots not named get none
}

// Slot is where machines of a process group are to be.
type Slot struct{ Group, Region string }

// Have is one of the app's machines as the planner sees it.
type Have struct {
	ID, Group, State string
	Region           string // that it counts for
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
	Do     Action
	ID     string // of the machine; "" for Create
	Group  string
	Region string
}

// Plan returns the next batch of steps towards the goal; none when it stands
// and only [Leftover] machines are in the way. Rolling and canary finish one
// region before they begin the next, so the first region is a trial for the
// others; what moves between regions is added before it is taken away.
func Plan(goal Goal, have []Have) []Step {
	slots := split(goal, have)
	if goal.Strategy == BlueGreen || goal.Strategy == Immediate {
		return firstStage(slots)
	}
	for i := range slots {
		if steps := firstStage(slots[i : i+1]); len(steps) > 0 {
			return steps
		}
	}
	return nil
}

// firstStage returns the steps of the earliest stage that any of the slots is in.
func firstStage(slots []slot) []Step {
	for _, stage := range []func(slot) []Step{slot.updates, slot.creates, slot.admits, slot.retires} {
		var steps []Step
		for _, g := range slots {
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
			steps = append(steps, g.step(Remove, h.ID))
		}
		live := slices.Clone(g.live)
		slices.SortStableFunc(live, func(a, b Have) int { return cmp.Compare(awake(a), awake(b)) })
		for _, h := range live[:max(0, len(g.live)-g.want)] {
			steps = append(steps, g.step(Remove, h.ID))
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
			revert = append(revert, h.step(Revert))
		case h.Release == release && !was:
			remove = append(remove, h.step(Remove))
		case was && h.Cordoned && !b.Cordoned:
			revive = append(revive, h.step(Revive))
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

// slot is the machines of one process group in one region by what they are to
// the goal.
type slot struct {
	Slot
	want  int
	room  int // how many may be begun now
	spare int // how many old ones the group as a whole can do without now

	fresh []Have // of the release, not admitted yet
	live  []Have // of the release, admitted, or kept
	old   []Have // all others
}

// split sorts machines into slots: those that the goal names in its order of
// regions, then those that are to be empty.
func split(goal Goal, have []Have) []slot {
	by := map[Slot]*slot{}
	for at, n := range goal.Counts {
		by[at] = &slot{Slot: at, want: n}
	}
	for _, h := range have {
		at := Slot{h.Group, h.Region}
		if by[at] == nil {
			by[at] = &slot{Slot: at}
		}
		by[at].add(goal, h)
	}
	out := make([]slot, 0, len(by))
	for _, s := range by {
		out = append(out, *s)
	}
	slices.SortFunc(out, goal.compare)
	share(goal, out)
	return out
}

func (s *slot) add(goal Goal, h Have) {
	switch {
	case h.Release == goal.Release && h.Cordoned:
		s.fresh = append(s.fresh, h)
	case h.Release == goal.Release || h.Kept:
		s.live = append(s.live, h)
	default:
		s.old = append(s.old, h)
	}
}

// compare orders slots: what adds before what only takes away, the primary
// region before the others.
func (goal Goal) compare(a, b slot) int {
	first := func(s slot) int {
		if s.Region == goal.Primary {
			return 0
		}
		return 1
	}
	gone := func(s slot) int {
		if s.want > 0 {
			return 0
		}
		return 1
	}
	return cmp.Or(cmp.Compare(gone(a), gone(b)), cmp.Compare(first(a), first(b)),
		cmp.Compare(a.Region, b.Region), cmp.Compare(a.Group, b.Group))
}

// tally sums up a group over all regions.
type tally struct{ want, fresh, live, old, serving, kept int }

// share gives each slot its part of what its group may have under way and can
// do without, for both are limits of the group as a whole.
func share(goal Goal, slots []slot) {
	by := map[string]*tally{}
	live := 0
	for i := range slots {
		s := &slots[i]
		t := by[s.Group]
		if t == nil {
			t = &tally{}
			by[s.Group] = t
		}
		t.add(s)
		live += len(s.live)
	}
	for name, t := range by {
		begin := goal.batch(t.want, live) - t.fresh
		// As many serve as are wanted, or as there were if those are fewer.
		spare := t.serving + t.live - min(t.want, t.old+t.kept)
		for i := range slots {
			if s := &slots[i]; s.Group == name {
				s.room = max(0, min(s.missing(), begin))
				s.spare = max(0, min(s.surplus(), spare))
				begin, spare = begin-s.room, spare-s.spare
			}
		}
	}
}

func (t *tally) add(s *slot) {
	t.want, t.fresh, t.live, t.old = t.want+s.want, t.fresh+len(s.fresh), t.live+len(s.live), t.old+len(s.old)
	t.serving += len(s.serving())
	for _, h := range s.live {
		if h.Kept {
			t.kept++
		}
	}
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
func (s slot) missing() int { return max(0, s.want-len(s.fresh)-len(s.live)) }

func (s slot) mounted() []Have {
	return slices.DeleteFunc(slices.Clone(s.old), func(h Have) bool { return !h.Mounted })
}

func (s slot) updates() []Step {
	m := s.mounted()
	return s.each(Update, m[:min(len(m), s.room)])
}

func (s slot) creates() []Step {
	n := min(s.room, s.missing()-len(s.mounted()))
	var steps []Step
	for range n {
		steps = append(steps, s.step(Create, ""))
	}
	return steps
}

func (s slot) admits() []Step { return s.each(Admit, s.fresh) }

// serving is the old machines that are not retired yet; those that sleep first.
func (s slot) serving() []Have {
	out := slices.DeleteFunc(slices.Clone(s.old), retired)
	slices.SortStableFunc(out, func(a, b Have) int { return cmp.Compare(awake(a), awake(b)) })
	return out
}

// surplus is how many old machines the slot's own live ones stand for.
func (s slot) surplus() int {
	return max(0, len(s.serving())-max(0, s.want-len(s.live)))
}

// retires takes away as many old machines as live ones stand for.
func (s slot) retires() []Step { return s.each(Retire, s.serving()[:s.spare]) }

func (s slot) each(do Action, have []Have) []Step {
	var steps []Step
	for _, h := range have {
		steps = append(steps, s.step(do, h.ID))
	}
	return steps
}

func (s slot) step(do Action, id string) Step { return Step{do, id, s.Group, s.Region} }

func (h Have) step(do Action) Step { return Step{do, h.ID, h.Group, h.Region} }

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
