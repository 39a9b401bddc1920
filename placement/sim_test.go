package placement

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// sim is a cloud in memory: nodes that crash, are cut off and come back, healers
// that are killed before or after any operation, and summaries that arrive late.
// It exists because a kill at every point cannot be had from real nodes.
type sim struct {
	mu    sync.Mutex
	rnd   *rand.Rand
	nodes map[string]*simNode
	moves map[string]MoveRecord
	rev   uint64
	next  int
	crash float64 // how likely a kill is at an operation
	roots map[string]string

	slow    float64            // how likely a replacement takes long to be ready
	refuses bool               // no node makes a machine
	asked   map[string]int     // how often each was asked to
	locks   map[string]*daemon // who has the app
}

type simNode struct {
	Node
	state     string // up, crashed, cut
	machines  map[string]Placed
	published []Placed
	stale     []MoveRecord // what it knew of moves when it was cut off
	daemon    *daemon
}

// daemon is one life of a node's process.
type daemon struct {
	s      *sim
	n      *simNode
	dead   bool
	healer *Healer
}

var errKilled = errors.New("killed")

func newSim(seed uint64, regions ...string) *sim {
	s := &sim{rnd: rand.New(rand.NewPCG(seed, 1)), nodes: map[string]*simNode{}, moves: map[string]MoveRecord{}, roots: map[string]string{}, asked: map[string]int{}, locks: map[string]*daemon{}}
	for i, r := range regions {
		n := &simNode{Node: Node{Name: fmt.Sprint("n", i), Region: r, Host: true, Up: true, Since: time.Now(), FreeMemoryMB: 1 << 20}, state: "up", machines: map[string]Placed{}}
		s.nodes[n.Name] = n
		s.boot(n)
	}
	return s
}

func (s *sim) boot(n *simNode) {
	d := &daemon{s: s, n: n}
	h, err := NewHealer(HealerConfig{Node: n.Name, Fleet: d, Own: own{d}, Moves: d2moves{d}, Leader: d,
		Lock: d.lock, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		panic(err)
	}
	d.healer, n.daemon = h, d
}

// op is one operation of a daemon, which may be killed before or after it. mu is
// not held.
func (d *daemon) op(do func() error) error {
	d.s.mu.Lock()
	defer d.s.mu.Unlock()
	if d.dead {
		return errKilled
	}
	if d.s.rnd.Float64() < d.s.crash {
		d.dead = true
		return errKilled
	}
	err := do()
	if d.s.rnd.Float64() < d.s.crash {
		d.dead = true
		return errKilled
	}
	return err
}

// lock is the app's lock, which the node that has it gets again and leaves for all.
func (d *daemon) lock(_ context.Context, app string) (func(), error) {
	d.s.mu.Lock()
	defer d.s.mu.Unlock()
	if had := d.s.locks[app]; had != nil && had.n != d.n && !had.dead {
		return nil, errors.New("another node has the app")
	}
	d.s.locks[app] = d
	return func() {
		d.s.mu.Lock()
		defer d.s.mu.Unlock()
		if d.s.locks[app] == d {
			delete(d.s.locks, app)
		}
	}, nil
}

func (d *daemon) Held(context.Context) bool {
	d.s.mu.Lock()
	defer d.s.mu.Unlock()
	return d.n.state == "up" // several at a time: worse than any real lease
}

func (d *daemon) Nodes() []Node {
	d.s.mu.Lock()
	defer d.s.mu.Unlock()
	var out []Node
	for _, name := range slices.Sorted(maps.Keys(d.s.nodes)) {
		n := d.s.nodes[name].Node
		n.Groups = map[string]int{}
		for range d.s.nodes[name].published {
			n.Groups[GroupKey("shop", "app")]++
		}
		out = append(out, n)
	}
	return out
}

func (d *daemon) Machines() []Placed {
	d.s.mu.Lock()
	defer d.s.mu.Unlock()
	var out []Placed
	for _, n := range d.s.nodes {
		out = append(out, n.published...)
	}
	return out
}

func (d *daemon) Create(ctx context.Context, m Move) (string, error) {
	var to *daemon
	err := d.op(func() error {
		d.s.asked[m.Machine]++
		if d.s.locks["shop"] != d {
			panic("a machine is made without the app's lock")
		}
		if d.s.refuses {
			return errors.New("the image cannot be pulled")
		}
		n := d.s.nodes[m.To]
		if n == nil || n.state != "up" || d.n.state != "up" {
			return errors.New("unreachable")
		}
		to = n.daemon
		return nil
	})
	if err != nil {
		return "", err
	}
	id, err := to.healer.Make(ctx, m, func(context.Context) (id string, err error) {
		err = to.op(func() error {
			to.s.next++
			id = fmt.Sprint("m", to.s.next)
			to.s.roots[id] = to.s.roots[m.Machine]
			to.n.machines[id] = Placed{ID: id, App: "shop", Group: "app", Node: to.n.Name, Region: m.Home, Allowed: []string{"iad", "fra"}, Replaces: m.Machine}
			return nil
		})
		return id, err
	})
	if err == nil {
		err = d.op(func() error { return nil }) // the answer may not arrive
	}
	return id, err
}

func (d *daemon) Ready(ctx context.Context, _ Move) error {
	d.s.mu.Lock()
	long := d.s.rnd.Float64() < d.s.slow
	d.s.mu.Unlock()
	if long {
		select {
		case <-time.After(4 * time.Minute):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return d.op(func() error {
		if d.s.rnd.Float64() < .3 {
			return errors.New("not healthy yet")
		}
		return nil
	})
}

type own struct{ d *daemon }

func (o own) Machines() []Placed {
	o.d.s.mu.Lock()
	defer o.d.s.mu.Unlock()
	return slices.SortedFunc(maps.Values(o.d.n.machines), func(a, b Placed) int { return cmp.Compare(a.ID, b.ID) })
}

func (o own) cordon(id string, on bool) error {
	return o.d.op(func() error {
		if m, ok := o.d.n.machines[id]; ok {
			m.Cordoned = on
			o.d.n.machines[id] = m
		}
		return nil
	})
}

func (o own) Cordon(_ context.Context, id string) error   { return o.cordon(id, true) }
func (o own) Uncordon(_ context.Context, id string) error { return o.cordon(id, false) }
func (o own) Destroy(_ context.Context, id string) error {
	return o.d.op(func() error { delete(o.d.n.machines, id); return nil })
}

// d2moves is the table of moves as a node reaches it.
type d2moves struct{ d *daemon }

func (t d2moves) List() []MoveRecord {
	t.d.s.mu.Lock()
	defer t.d.s.mu.Unlock()
	if t.d.n.state == "cut" {
		return t.d.n.stale
	}
	return t.d.s.list()
}

func (t d2moves) Get(machine string) (MoveRecord, bool) {
	for _, r := range t.List() {
		if r.Machine == machine {
			return r, true
		}
	}
	return MoveRecord{}, false
}

func (s *sim) list() []MoveRecord {
	return slices.SortedFunc(maps.Values(s.moves), func(a, b MoveRecord) int { return cmp.Compare(a.Machine, b.Machine) })
}

func (t d2moves) write(m Move, check func(MoveRecord, bool) bool) error {
	return t.d.op(func() error {
		if t.d.n.state != "up" {
			return errors.New("no quorum")
		}
		if r, ok := t.d.s.moves[m.Machine]; !check(r, ok) {
			return ErrRaced
		}
		t.d.s.rev++
		t.d.s.moves[m.Machine] = MoveRecord{m, t.d.s.rev}
		return nil
	})
}

func (t d2moves) Create(_ context.Context, m Move) error {
	return t.write(m, func(_ MoveRecord, there bool) bool { return !there })
}

func (t d2moves) Update(_ context.Context, m Move, rev uint64) error {
	return t.write(m, func(r MoveRecord, there bool) bool { return there && r.Revision == rev })
}

func (t d2moves) Delete(_ context.Context, machine string, rev uint64) error {
	return t.d.op(func() error {
		if t.d.n.state != "up" {
			return errors.New("no quorum")
		}
		if r, ok := t.d.s.moves[machine]; !ok || r.Revision != rev {
			return ErrRaced
		}
		delete(t.d.s.moves, machine)
		return nil
	})
}

// tick lets time pass and every node that runs look once. What waits longer
// goes on waiting.
func (s *sim) tick() {
	s.mu.Lock()
	long := time.Duration(1+s.rnd.IntN(40)) * time.Second
	s.mu.Unlock()
	time.Sleep(long)
	for _, n := range s.nodes {
		if n.state == "crashed" || n.state == "removed" {
			continue
		}
		go n.daemon.healer.Fence(context.Background())
		go n.daemon.healer.Lead(context.Background())
	}
	synctest.Wait()
	for name, n := range s.nodes {
		if n.state == "removed" {
			if s.forget(n); len(n.published) == 0 {
				delete(s.nodes, name)
			}
			continue
		}
		if n.daemon.dead {
			s.boot(n) // the daemon comes back at once; that the node stays away is another event
		}
		if n.state == "up" && s.rnd.Float64() < .7 {
			n.published = slices.Collect(maps.Values(n.machines))
		}
	}
}

// disturb changes the state of a node.
func (s *sim) disturb() {
	names := slices.Sorted(maps.Keys(s.nodes))
	n := s.nodes[names[s.rnd.IntN(len(names))]]
	if n.state == "removed" {
		return
	}
	switch r := s.rnd.Float64(); {
	case r < .2:
		n.Draining = !n.Draining
		return
	case r < .24 && n.Name != "n0" && len(s.nodes) > 3:
		s.remove(n)
		return
	}
	to := []string{"up", "up", "crashed", "cut"}[s.rnd.IntN(4)]
	s.become(n, to)
}

// remove takes a node out of the cloud; what it said last is known for as long as
// another is to be made from it.
func (s *sim) remove(n *simNode) {
	s.become(n, "crashed")
	n.state, n.Host, n.Draining, n.Since = "removed", false, false, time.Time{}
	n.machines = map[string]Placed{}
	for _, p := range n.published {
		n.machines[p.ID] = p
	}
}

// forget drops what a removed node said of machines that others stand for.
func (s *sim) forget(n *simNode) {
	moves := byMachine(s.list())
	n.published = slices.DeleteFunc(n.published, func(p Placed) bool {
		gone := Judge(p, moves) == Destroy
		if gone {
			delete(n.machines, p.ID)
		}
		return gone
	})
}

func (s *sim) become(n *simNode, state string) {
	if n.state == state || n.state == "removed" {
		return
	}
	if state == "cut" {
		n.stale = s.list()
	}
	if up := state == "up"; up != n.Up {
		n.Up, n.Since = up, time.Now()
	}
	n.state = state
	n.daemon.dead = state == "crashed" // else what it waits for goes on, late
	s.boot(n)
}

// copies counts the machines of each root by whether they serve.
func (s *sim) copies(only func(*simNode) bool) (all, serving map[string]int) {
	all, serving = map[string]int{}, map[string]int{}
	for _, n := range s.nodes {
		if !only(n) {
			continue
		}
		for id, m := range n.machines {
			all[s.roots[id]]++
			if !m.Cordoned {
				serving[s.roots[id]]++
			}
		}
	}
	return all, serving
}

// TestNothingIsDoubledOrLost: whatever dies and when, each machine is there at
// every moment, and once all is calm exactly one of each serves.
func TestNothingIsDoubledOrLost(t *testing.T) {
	seeds := uint64(500)
	if testing.Short() {
		seeds = 40
	}
	for seed := range seeds {
		synctest.Test(t, func(t *testing.T) { history(t, seed) })
	}
}

// history is one run of events.
func history(t *testing.T, seed uint64) {
	const machines = 4
	s := newSim(seed, "iad", "iad", "fra", "syd", "fra")
	for i := range machines {
		s.put(fmt.Sprint("root", i), fmt.Sprint("n", i%3))
	}
	s.crash = []float64{0, .02, .1, .3}[seed%4]
	s.slow = []float64{0, .3}[seed%2]
	for range 60 {
		if s.rnd.Float64() < .3 {
			s.disturb()
		}
		s.tick()
		if all, _ := s.copies(func(*simNode) bool { return true }); len(all) != machines {
			t.Fatalf("seed %d: a machine is lost: %v\n%v", seed, all, s.list())
		}
	}
	s.crash = 0
	s.calm(t, seed, machines)
}

// put makes a machine that belongs where it is.
func (s *sim) put(id, node string) {
	n := s.nodes[node]
	s.roots[id] = id
	n.machines[id] = Placed{ID: id, App: "shop", Group: "app", Node: n.Name, Region: n.Region, Allowed: []string{"iad", "fra"}}
	n.published = slices.Collect(maps.Values(n.machines))
}

// TestSlowReplacementsHoldUpNobody: while a drained machine's replacement does
// not become ready, a node that dies is healed as ever.
func TestSlowReplacementsHoldUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(1, "iad", "iad", "fra", "syd")
		s.slow = 1
		for i := range 8 {
			s.put(fmt.Sprint("drained", i), "n0")
		}
		s.put("lost", "n1")
		s.nodes["n0"].Draining = true
		for end := time.Now().Add(90 * time.Second); time.Now().Before(end); {
			s.tick()
		}
		s.become(s.nodes["n1"], "crashed")
		for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); {
			s.tick()
		}
		if all, _ := s.copies(func(n *simNode) bool { return n.state == "up" }); all["lost"] != 1 {
			t.Errorf("the dead node's machine is there %d times while the drained ones wait\n%v", all["lost"], s.list())
		}
		for range 60 {
			s.tick()
		}
		if all, serving := s.copies(func(n *simNode) bool { return n.state == "up" }); !once(all, 9) || !once(serving, 9) || len(s.nodes["n0"].machines) > 0 {
			t.Errorf("in the end there are %v, of them serve %v\n%v", all, serving, s.list())
		}
	})
}

// TestFailedMovesPause: what cannot be made is tried again less and less often,
// and at least once a minute.
func TestFailedMovesPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(1, "iad", "iad")
		s.put("lost", "n0")
		s.refuses = true
		s.become(s.nodes["n0"], "crashed")
		s.nodes["n1"].published = []Placed{}
		ctx, cancel := context.WithCancel(t.Context())
		var done sync.WaitGroup
		done.Go(func() { _ = s.nodes["n1"].daemon.healer.Run(ctx) })
		time.Sleep(defaultDeadAfter + 10*time.Minute)
		s.mu.Lock()
		tries := s.asked["lost"]
		s.refuses = false
		s.mu.Unlock()
		if tries < 10 || tries > 16 { // after 1, 2, 4, … 60, 60 s
			t.Errorf("asked %d times in ten minutes", tries)
		}
		time.Sleep(maxPause + time.Second)
		cancel()
		done.Wait()
		if all, _ := s.copies(func(n *simNode) bool { return n.state == "up" }); all["lost"] != 1 {
			t.Errorf("when it can be made there are %v", all)
		}
	})
}

// calm lets the sim come to rest, first with a node away, then with all, and judges.
func (s *sim) calm(t *testing.T, seed uint64, machines int) {
	t.Helper()
	for _, n := range s.nodes {
		n.Draining = false
		s.become(n, "up")
	}
	s.become(s.nodes["n0"], "crashed")
	for range 60 {
		s.tick()
	}
	up := func(n *simNode) bool { return n.state == "up" }
	if all, serving := s.copies(up); !once(all, machines) || !once(serving, machines) {
		t.Fatalf("seed %d: with a node away there are %v, of them serve %v\n%v", seed, all, serving, s.list())
	}
	s.become(s.nodes["n0"], "up")
	for range 40 {
		s.tick()
	}
	if all, serving := s.copies(up); !once(all, machines) || !once(serving, machines) || len(s.moves) != 0 {
		t.Fatalf("seed %d: in the end there are %v, of them serve %v\n%v", seed, all, serving, s.list())
	}
	left := map[string]bool{}
	for _, n := range s.nodes {
		left[n.Region] = true
	}
	for _, n := range s.nodes {
		for id, m := range n.machines {
			if m.Region != n.Region && left[m.Region] {
				t.Errorf("seed %d: in the end %s is in %s and belongs in %s", seed, id, n.Region, m.Region)
			}
		}
	}
}

func once(counts map[string]int, n int) bool {
	if len(counts) != n {
		return false
	}
	for _, c := range counts {
		if c != 1 {
			return false
		}
	}
	return true
}
