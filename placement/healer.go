package placement

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/perigee-run/perigee/api"
)

// Fleet is all nodes and their machines, as this node knows them.
type Fleet interface {
	Nodes() []Node
	// Machines returns those of all nodes; of a node out of reach, those that
	// were heard of last.
	Machines() []Placed
	// Create asks m.To to make the machine that replaces m.Machine, with
	// m.Machine as what it replaces, and returns its id. m.To answers with
	// [Healer.Make], so that it may be repeated.
	Create(ctx context.Context, m Move) (string, error)
	// Ready returns when the replacement is healthy and every edge routes to it.
	Ready(ctx context.Context, m Move) error
}

// Own is the machines of this node. What it lists is what there is.
type Own interface {
	Machines() []Placed
	Cordon(ctx context.Context, machine string) error
	Uncordon(ctx context.Context, machine string) error
	// Destroy lets requests in flight end and removes the machine; one that is
	// gone is no error.
	Destroy(ctx context.Context, machine string) error
}

// Leader says which node decides on moves; [Lease] is one.
type Leader interface {
	// Held reports whether this node does, and keeps the right if so.
	Held(ctx context.Context) bool
}

// HealerConfig joins a Healer with its neighbours. Node, Fleet, Own, Moves and
// Leader are required.
type HealerConfig struct {
	HealConfig
	Node   string
	Fleet  Fleet
	Own    Own
	Moves  Moves
	Leader Leader
	// Lock keeps releases of the app away while one of its machines is made.
	// Default: nothing does.
	Lock func(ctx context.Context, app string) (unlock func(), err error)
	// Left are the apps whose lock this node's moves have, by the records, and Unlock
	// leaves one: a node that was killed, or could not write, has forgotten it. Default:
	// there are none.
	Left   func() []string
	Unlock func(ctx context.Context, app string)
	// Every is how often to look. Default 1 s.
	Every time.Duration
	// ReadyTimeout is how long a drained node's machines wait for their
	// replacements at a time. Default 5 minutes.
	ReadyTimeout time.Duration
	// Now tells the time. Default time.Now.
	Now func() time.Time
	// Logger defaults to slog.Default().
	Logger *slog.Logger
}

// Healer makes the machines of dead and of draining nodes anew elsewhere, and
// sees to it that this node's own machines give way to their replacements. One
// runs on each node; the leader decides, each node acts on its own machines.
type Healer struct {
	cfg             HealerConfig
	jobs            *jobs
	locks           appLocks
	writers, makers chan struct{} // have one for each that works

	mu     sync.Mutex // guards what follows
	making map[string]int
	stuck  map[string]string // what was said about machines that have no place
}

// writers and makers are how many moves are written down at a time, and have
// their machine made.
const writers, makers = 32, 16

// NewHealer checks the configuration. Run makes it work.
func NewHealer(cfg HealerConfig) (*Healer, error) {
	if cfg.Node == "" || cfg.Fleet == nil || cfg.Own == nil || cfg.Moves == nil || cfg.Leader == nil {
		return nil, errors.New("cannot make healer: node, fleet, own machines, moves and leader are all needed")
	}
	if cfg.Lock == nil {
		cfg.Lock = func(context.Context, string) (func(), error) { return func() {}, nil }
	}
	if cfg.Left == nil {
		cfg.Left = func() []string { return nil }
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Every == 0 {
		cfg.Every = time.Second
	}
	if cfg.ReadyTimeout == 0 {
		cfg.ReadyTimeout = 5 * time.Minute
	}
	return &Healer{
		cfg: cfg, jobs: newJobs(cfg.Now), locks: appLocks{lock: cfg.Lock, now: cfg.Now}, writers: make(chan struct{}, writers), makers: make(chan struct{}, makers),
		making: map[string]int{}, stuck: map[string]string{},
	}, nil
}

// Run looks again and again until ctx ends.
func (h *Healer) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(func() { h.repeat(ctx, h.cfg.Every, h.Fence) })
	wg.Go(func() { h.repeat(ctx, h.cfg.Every, h.Lead) }) // a fence that takes long must not cost the lead
	wg.Go(func() { h.repeat(ctx, 10*h.cfg.Every, h.unlockLeft) })
	wg.Wait()
	h.jobs.wg.Wait()
	return nil
}

// unlockLeft leaves the locks that no move of this node needs any more.
func (h *Healer) unlockLeft(ctx context.Context) {
	for _, app := range h.cfg.Left() {
		h.locks.unused(app, func() { h.cfg.Unlock(ctx, app) })
	}
}

func (h *Healer) repeat(ctx context.Context, every time.Duration, look func(context.Context)) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		look(ctx)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// Lead begins new moves and starts a step of each there is, if this node is the
// leader. It waits for none of them: one that takes long holds up its own move
// alone. Run calls it.
func (h *Healer) Lead(ctx context.Context) {
	if !h.cfg.Leader.Held(ctx) {
		return
	}
	h.jobs.tidy()
	records := h.cfg.Moves.List() // before the machines: none may seem to have lost its move
	w := newWorld(h.cfg.Now(), h.cfg.Fleet.Nodes(), h.cfg.Fleet.Machines(), h.cfg.HealConfig)
	for _, m := range h.plan(w, byMachine(records)) {
		h.start(ctx, m, begin, func(ctx context.Context) error { return h.begin(ctx, m) })
	}
	for _, r := range records {
		h.step(ctx, w, r)
	}
}

// plan is the moves to begin.
func (h *Healer) plan(w world, moves map[string]Move) []Move {
	dead, stuck := Heal(w.now, w.nodes, w.machines, moves, w.cfg)
	drain, more := Rebalance(w.now, w.nodes, w.machines, moves)
	h.complain(append(stuck, more...))
	return slices.Concat(dead, drain, Return(w.now, w.nodes, w.machines, moves, w.cfg))
}

func byMachine(records []MoveRecord) map[string]Move {
	out := map[string]Move{}
	for _, r := range records {
		out[r.Machine] = r.Move
	}
	return out
}

// complain says once about each machine that it has nowhere to go.
func (h *Healer) complain(stuck []Stuck) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := map[string]string{}
	for _, s := range stuck {
		now[s.Machine] = s.Why.Error()
		if h.stuck[s.Machine] != now[s.Machine] {
			h.cfg.Logger.Warn("machine should move and has nowhere to go", "machine", s.Machine, "why", s.Why)
		}
	}
	h.stuck = now
}

// step starts what a move needs now.
func (h *Healer) step(ctx context.Context, w world, r MoveRecord) {
	m, do := w.advance(r.Move)
	if do != settle {
		h.jobs.callOff(m.Machine)
	}
	switch do {
	case write:
		h.start(ctx, m, do, func(ctx context.Context) error { return h.write(ctx, m, r) })
	case forget:
		h.start(ctx, m, do, func(ctx context.Context) error { return h.cfg.Moves.Delete(ctx, m.Machine, r.Revision) })
	case create:
		h.start(ctx, m, do, func(ctx context.Context) error { return h.create(ctx, w, m, r) })
	case settle:
		h.start(ctx, m, do, func(ctx context.Context) error { return h.settle(ctx, m, r) })
	}
}

// start runs a step of a move in its own goroutine. Only so many write at a
// time, and so many make machines; those that just wait are not counted.
func (h *Healer) start(ctx context.Context, m Move, do next, f func(context.Context) error) {
	slots := h.writers
	if do == create {
		slots = h.makers
	}
	h.jobs.start(ctx, m.Machine, do, func(ctx context.Context) (failed bool) {
		if do != settle {
			select {
			case slots <- struct{}{}:
				defer func() { <-slots }()
			case <-ctx.Done():
				return false
			}
		}
		return h.failed(ctx, m, f(ctx))
	})
}

// begin writes a new move down. Its first step is the next look's.
func (h *Healer) begin(ctx context.Context, m Move) error {
	leave, err := h.locks.take(ctx, m.App)
	if err != nil {
		return err
	}
	defer leave()
	if err := h.cfg.Moves.Create(ctx, m); err != nil {
		return err
	}
	h.cfg.Logger.Info("machine moves", "machine", m.Machine, "app", m.App, "why", m.Reason, "from", m.From, "to", m.To)
	return nil
}

// failed reports whether a step has failed, which is more than that another node
// was quicker or has the app.
func (h *Healer) failed(ctx context.Context, m Move, err error) bool {
	switch {
	case err == nil || errors.Is(err, ErrRaced) || ctx.Err() != nil:
		return false
	case errors.Is(err, errWaits):
		h.cfg.Logger.Debug("move waits", "machine", m.Machine, "app", m.App, "why", err)
		return false
	}
	h.cfg.Logger.Warn("cannot go on with a move; it is tried again", "machine", m.Machine, "app", m.App, "to", m.To, "error", err)
	return true
}

func (h *Healer) write(ctx context.Context, m Move, r MoveRecord) error {
	if err := h.cfg.Moves.Update(ctx, m, r.Revision); err != nil {
		return err
	}
	h.cfg.Logger.Info("machine moves", "machine", m.Machine, "app", m.App, "phase", m.Phase, "from", m.From, "to", m.To, "new", m.New)
	return nil
}

func (h *Healer) create(ctx context.Context, w world, m Move, r MoveRecord) error {
	leave, err := h.locks.take(ctx, m.App)
	if err != nil {
		return err
	}
	defer leave()
	id, err := h.cfg.Fleet.Create(ctx, m)
	if api.IsCode(err, api.CodeCapacity) || err != nil && h.jobs.failedFor(m.Machine) >= stubborn {
		return errors.Join(err, h.elsewhere(ctx, w, m, r))
	}
	if err != nil || id == m.New {
		return err
	}
	m.New = id
	return h.write(ctx, m, r)
}

// stubborn is how long a node's pauses are when another is tried: it cannot do it.
const stubborn = 4 * minPause

// elsewhere tries another node than the one that turned out to be full, or unable.
func (h *Healer) elsewhere(ctx context.Context, w world, m Move, r MoveRecord) error {
	w.nodes = slices.Clone(w.nodes)
	for i := range w.nodes {
		if w.nodes[i].Name == m.To {
			w.nodes[i].Cordoned = true
		}
	}
	if moved, do := w.retarget(m); do == write {
		return h.write(ctx, moved, r)
	}
	return nil
}

func (h *Healer) settle(ctx context.Context, m Move, r MoveRecord) error {
	wait, cancel := context.WithTimeout(ctx, h.cfg.ReadyTimeout)
	defer cancel()
	if err := h.cfg.Fleet.Ready(wait, m); err != nil {
		return err
	}
	m.Phase = Replaced
	return h.write(ctx, m, r)
}

// Fence lets this node's machines give way where a move says so. Run calls it.
func (h *Healer) Fence(ctx context.Context) {
	records := h.cfg.Moves.List()
	if len(records) == 0 {
		return
	}
	h.obeyAll(ctx, byMachine(records))
	own := h.cfg.Own.Machines()
	for _, r := range records {
		if m, changed := h.sign(ctx, r.Move, own); changed {
			h.failed(ctx, m, h.cfg.Moves.Update(ctx, m, r.Revision))
		}
	}
}

// razers is how many machines give way at a time: each lets its requests end.
const razers = 32

// obeyAll does what the moves say, at once where it is quick.
func (h *Healer) obeyAll(ctx context.Context, moves map[string]Move) {
	razing := errgroup.Group{}
	razing.SetLimit(razers)
	var condemned []Placed
	for _, m := range h.cfg.Own.Machines() {
		switch v := Judge(m, moves); {
		case v == Destroy:
			condemned = append(condemned, m)
		case v == Hold && !m.Cordoned:
			h.gaveWay(ctx, m, h.cfg.Own.Cordon(ctx, m.ID))
		}
	}
	for _, m := range condemned {
		h.cfg.Logger.Info("machine gives way to its replacement", "machine", m.ID, "app", m.App)
		razing.Go(func() error { h.gaveWay(ctx, m, h.cfg.Own.Destroy(ctx, m.ID)); return nil })
	}
	_ = razing.Wait() // no function returns an error
}

func (h *Healer) gaveWay(ctx context.Context, m Placed, err error) {
	if err != nil && ctx.Err() == nil {
		h.cfg.Logger.Warn("machine does not give way yet", "machine", m.ID, "app", m.App, "error", err)
	}
}

// sign notes in a move what this node has done its part of. own must be of after
// the record.
func (h *Healer) sign(ctx context.Context, m Move, own []Placed) (Move, bool) {
	changed := false
	if m.From == h.cfg.Node && !m.Left && m.Phase != Open && h.left(ctx, m, own) {
		m.Left, changed = true, true
	}
	if h.lostNew(m, own) {
		m.New, changed = "", true
	}
	if slices.Contains(m.Tried, h.cfg.Node) && !slices.ContainsFunc(own, m.madeFor) && !h.makes(m.Machine) {
		m.Tried = slices.DeleteFunc(slices.Clone(m.Tried), func(n string) bool { return n == h.cfg.Node })
		changed = true
	}
	return m, changed
}

// lostNew reports whether the replacement that the record names is not here any
// more, as when somebody destroyed it: then another one is to be made.
func (h *Healer) lostNew(m Move, own []Placed) bool {
	return m.To == h.cfg.Node && m.Phase == Open && m.New != "" && !h.makes(m.Machine) &&
		!slices.ContainsFunc(own, func(p Placed) bool { return p.ID == m.New })
}

// left reports whether the old machine is gone, or stays for good and serves.
func (h *Healer) left(ctx context.Context, m Move, own []Placed) bool {
	i := slices.IndexFunc(own, func(p Placed) bool { return p.ID == m.Machine })
	switch {
	case i < 0:
		return true
	case m.Phase == Replaced:
		return false
	case !own[i].Cordoned || m.Cordoned:
		return true
	}
	if err := h.cfg.Own.Uncordon(ctx, m.Machine); err != nil {
		h.failed(ctx, m, err)
		return false
	}
	return true
}

// Make makes the replacement that a move asks this node for, by make, unless it
// is there already, and returns its id. It refuses a move that its record does
// not give to this node, and takes back what the record has given up meanwhile.
func (h *Healer) Make(ctx context.Context, m Move, make func(context.Context) (string, error)) (string, error) {
	h.enter(m.Machine, 1)
	defer h.enter(m.Machine, -1)
	if err := h.asked(m, ""); err != nil {
		return "", err
	}
	for _, p := range h.cfg.Own.Machines() {
		if m.madeFor(p) {
			return p.ID, nil
		}
	}
	id, err := make(ctx)
	if err != nil {
		return "", err
	}
	if err := h.asked(m, id); err != nil {
		return "", errors.Join(err, h.cfg.Own.Destroy(context.WithoutCancel(ctx), id))
	}
	return id, nil
}

// asked fails unless the record of the move wants this node to have the
// replacement, and no other than id.
func (h *Healer) asked(m Move, id string) error {
	now, ok := h.cfg.Moves.Get(m.Machine)
	if !ok || now.Phase != Open || now.To != h.cfg.Node || id != "" && now.New != "" && now.New != id {
		return api.Errorf(api.CodeConflict, "machine %q does not move to node %q any more", m.Machine, h.cfg.Node)
	}
	return nil
}

func (h *Healer) enter(machine string, n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.making[machine] += n
	if h.making[machine] == 0 {
		delete(h.making, machine)
	}
}

func (h *Healer) makes(machine string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.making[machine] > 0
}

// String is the reason in words.
func (r Reason) String() string {
	switch r {
	case Dead:
		return "its node is down"
	case Drain:
		return "its node is draining"
	case Home:
		return "its region is back"
	}
	return string(r)
}
