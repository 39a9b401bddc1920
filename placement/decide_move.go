package placement

import (
	"slices"
	"time"
)

// next is what is to be done about a move now.
type next int

const (
	nothing next = iota
	begin        // write the record of a new move
	write        // the record, as returned
	forget       // the record
	create       // ask To for the replacement
	settle       // wait until the replacement is ready, then write
)

// world is what the nodes say at one moment. It is not changed, so that all
// moves are judged by the same one.
type world struct {
	now      time.Time
	nodes    []Node
	machines []Placed
	cfg      HealConfig

	named  map[string]Node
	at     map[place]Placed
	copies map[string][]Placed // by what they replace
}

// place is a machine on a node.
type place struct{ machine, node string }

func newWorld(now time.Time, nodes []Node, machines []Placed, cfg HealConfig) world {
	w := world{now: now, nodes: nodes, machines: machines, cfg: cfg, named: map[string]Node{}, at: map[place]Placed{}, copies: map[string][]Placed{}}
	for _, n := range nodes {
		w.named[n.Name] = n
	}
	for _, p := range machines {
		w.at[place{p.ID, p.Node}] = p
		if p.Replaces != "" {
			w.copies[p.Replaces] = append(w.copies[p.Replaces], p)
		}
	}
	return w
}

func (w world) node(name string) (Node, bool) { n, ok := w.named[name]; return n, ok }

func (w world) machine(id, node string) (Placed, bool) { p, ok := w.at[place{id, node}]; return p, ok }

// old is the machine that moves, if From has it still.
func (w world) old(m Move) (Placed, bool) { return w.machine(m.Machine, m.From) }

// advance says what is to be done about a move. It is pure: the record and the
// world say all, so it does not matter who did the step before.
func (w world) advance(m Move) (Move, next) {
	if p, changed := w.prune(m); changed {
		return p, write
	}
	switch {
	case m.over() && w.judged(m):
		return m, forget
	case m.Phase == Open:
		return w.open(m)
	case m.Phase == Cancelled:
		return w.again(m)
	}
	return m, nothing
}

// judged reports whether nobody is heard of any more that the record condemns. A
// node says that a machine is gone after it is: until then the record must
// keep the machine from being healed should the node die.
func (w world) judged(m Move) bool {
	heard := w.copies[m.Machine]
	if old, has := w.old(m); has {
		heard = append(slices.Clone(heard), old)
	}
	only := map[string]Move{m.Machine: m}
	return !slices.ContainsFunc(heard, func(p Placed) bool {
		_, there := w.node(p.Node)
		return there && Judge(p, only) == Destroy
	})
}

// prune forgets nodes that have been removed for good.
func (w world) prune(m Move) (Move, bool) {
	n := len(m.Tried)
	m.Tried = slices.DeleteFunc(slices.Clone(m.Tried), func(name string) bool {
		_, there := w.node(name)
		return !there
	})
	_, there := w.node(m.From)
	left := m.Phase != Open && !there && !m.Left
	m.Left = m.Left || left
	return m, left || len(m.Tried) != n
}

func (w world) open(m Move) (Move, next) {
	if w.needless(m) {
		c := m.leave("")
		c.Phase = Cancelled
		return c, write
	}
	to, there := w.node(m.To)
	if !there || w.cfg.dead(w.now, to) {
		return w.retarget(m)
	}
	if !to.Up {
		return m, nothing
	}
	if _, seen := w.machine(m.New, m.To); m.New == "" || !seen {
		return m, create
	}
	if from, _ := w.node(m.From); m.Reason != Dead && !w.cfg.dead(w.now, from) {
		return m, settle
	}
	m.Phase = Replaced
	return m, write
}

// needless reports whether a move has lost its reason before it was done.
func (w world) needless(m Move) bool {
	from, there := w.node(m.From)
	_, has := w.old(m)
	switch {
	case !there:
		return !has && m.New == "" // nobody knows any more what to make
	case !has:
		return m.Reason != Dead || m.New == "" // somebody has destroyed it
	case !from.Up:
		return false
	case m.Reason == Dead:
		return m.New == "" // it is back; a replacement that is there already stays
	case m.Reason == Home:
		to, ok := w.node(m.To)
		return !ok || !to.Up || to.Draining || to.Cordoned
	}
	return !from.Draining
}

// retarget looks for another place, if there is one.
func (w world) retarget(m Move) (Move, next) {
	old, ok := w.old(m)
	if !ok {
		return m, nothing
	}
	old.Region = m.Home
	if m.Reason == Home { // where it is now is as good as anywhere else
		c := m.leave("")
		c.Phase = Cancelled
		return c, write
	}
	to, err := refuge(w.nodes, old)
	if err != nil || to == m.To {
		return m, nothing
	}
	return m.leave(to), write
}

// again begins a cancelled move anew, if its reason is back before the record is
// gone.
func (w world) again(m Move) (Move, next) {
	from, there := w.node(m.From)
	old, has := w.old(m)
	if !there || !has || old.Mounted && !w.cfg.Mounted {
		return m, nothing
	}
	switch {
	case w.cfg.dead(w.now, from):
		m.Reason = Dead
	case from.Up && from.Draining:
		m.Reason = Drain
	default:
		return m, nothing
	}
	m.Phase, m.Left, m.Begun = Open, false, w.now
	return w.retarget(m)
}
