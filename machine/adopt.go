package machine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/mesh"
	"github.com/perigee-run/perigee/sandbox"
)

// leftovers is what an earlier run of the daemon left.
type leftovers struct {
	lives   map[string]sandbox.Info // newest life by machine
	strays  []string                // sandboxes that nothing speaks of
	slots   map[string]mesh.Slot    // by path of the namespace
	claimed map[int]bool            // slots of lives that go on
}

// adopt puts every machine into the state that its record and its sandbox
// together mean, and removes what belongs to none.
//
// A sandbox with a newer id than the record knows was started just before the
// crash: it is the truth. One that the record knows and wants stopped is
// stopped. A machine that is wanted and has no sandbox is started again, if it may
// still run here.
func (h *Host) adopt(ctx context.Context) error {
	left, err := h.survey(ctx)
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	var after []func()
	var mu sync.Mutex // guards after and left.claimed
	limit := make(chan struct{}, 16)
	for _, m := range h.all() {
		wg.Go(func() {
			limit <- struct{}{}
			defer func() { <-limit }()
			m.turn <- struct{}{} // free: nobody acts before adoption is done
			next := h.adoptOne(m, left, &mu)
			if next == nil {
				m.give()
				return
			}
			mu.Lock()
			defer mu.Unlock()
			after = append(after, func() { defer m.give(); h.finish(m, next) })
		})
	}
	wg.Wait()
	h.sweep(left)
	for _, next := range after {
		h.spawn(next)
	}
	h.log.Info("machines found again", "machines", len(h.all()), "running", len(left.claimed), "strays", len(left.strays))
	return ctx.Err()
}

// survey lists what there is and matches it with the records.
func (h *Host) survey(ctx context.Context) (*leftovers, error) {
	infos, err := h.cfg.Sandbox.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot list sandboxes: %w", err)
	}
	left := &leftovers{lives: map[string]sandbox.Info{}, slots: map[string]mesh.Slot{}, claimed: map[int]bool{}}
	for _, s := range h.cfg.Networks.Slots() {
		left.slots[s.NetnsPath] = s
	}
	for _, info := range infos {
		left.sort(info, h)
	}
	return left, nil
}

func (left *leftovers) sort(info sandbox.Info, h *Host) {
	id, ok := lifeOf(info.ID)
	half := info.State == sandbox.StatePrepared || info.State == sandbox.StateCreated
	if !ok || half || h.lookup(id) == nil {
		left.strays = append(left.strays, info.ID)
		return
	}
	if other, two := left.lives[id]; two {
		older := min(other.ID, info.ID)
		left.strays = append(left.strays, older)
		if older == info.ID {
			return
		}
	}
	left.lives[id] = info
}

// rest of an operation that a crash cut short.
type rest func(context.Context, *machine) error

// adoptOne decides over one machine. What it returns is to be done, still with
// the turn, once all that was left behind is gone.
func (h *Host) adoptOne(m *machine, left *leftovers, mu *sync.Mutex) rest {
	r := &m.now().rec
	info, alive := left.lives[m.id]
	var slot *mesh.Slot
	if alive && info.Spec != nil {
		if s, ok := left.slots[info.Spec.Netns]; ok {
			slot = &s
		}
	}
	if alive && slot == nil && info.State != sandbox.StateStopped {
		mu.Lock() // a machine that nobody can reach is none
		left.strays = append(left.strays, info.ID)
		mu.Unlock()
		alive = false
	}
	if !alive {
		return h.adoptLost(m)
	}
	if slot != nil {
		mu.Lock()
		left.claimed[slot.ID] = true
		mu.Unlock()
	}
	l := h.newLife(info.ID, pair{slot: slot})
	m.life, l.paused = l, info.State == sandbox.StatePaused
	if !info.StartedAt.IsZero() {
		l.began = info.StartedAt
	}
	return h.adoptLife(m, r, l, info)
}

// adoptLife goes on with a sandbox that was found.
func (h *Host) adoptLife(m *machine, r *Record, l *life, info sandbox.Info) rest {
	known := r.Sandbox == l.id // else it is newer than the record
	if info.State == sandbox.StateStopped {
		l.exit = unknownExit()
		if info.Exit != nil {
			l.exit = *info.Exit
		}
		close(l.ended)
		close(l.followed)
	}
	switch {
	case r.Desired == api.StateDestroyed:
		h.ensureWatched(m, l)
		return h.raze
	case known && r.State == api.StateStopped:
		h.ensureWatched(m, l)
		h.bury(m, l) // its end was recorded, the sandbox was about to go
		return nil
	case known && r.Desired == api.StateSuspended && h.hasSnapshot(r) && l.paused:
		h.ensureWatched(m, l)
		h.bury(m, l) // the snapshot was complete, the sandbox was about to go
		return nil
	case known && r.Desired == api.StateStopped && r.State != api.StateStarted:
		h.ensureWatched(m, l)
		return func(ctx context.Context, m *machine) error {
			hg := m.stopping(api.StopRequest{}, byNode)
			hg.event = ""
			return h.halt(ctx, m, hg)
		}
	case info.State == sandbox.StateStopped:
		h.ended(h.ctx, m, l)
		return nil
	}
	if l.paused && !(known && (r.Desired == api.StatePaused || r.Desired == api.StateSuspended)) {
		h.breakOff(m, l)
	}
	h.goOn(m, l)
	return nil
}

// breakOff lets a machine run on that was frozen on its way to a sleep that was
// not written down, so that nobody was told of: one without visitors would sleep
// for ever.
func (h *Host) breakOff(m *machine, l *life) {
	if err := h.unfreeze(h.ctx, l); err != nil {
		h.log.Warn("cannot resume a machine that was going to sleep when the daemon ended", "machine", m.id, "error", err)
	}
}

// ensureWatched watches a life that is about to be ended, so that its end is seen.
func (h *Host) ensureWatched(m *machine, l *life) {
	select {
	case <-l.ended:
		return
	default:
		h.attend(m, l)
	}
}

// goOn shows a machine that ran all the while, or slept.
func (h *Host) goOn(m *machine, l *life) {
	state := api.StateStarted
	if l.paused {
		state = api.StatePaused
	}
	edit := func(v *view) {
		r := &v.rec
		r.State, r.Desired, r.Standing, r.Sandbox, r.Snapshot = state, state, "", l.id, ""
		v.addr, v.probes = l.slot.IPv4, probes(&r.Config)
		v.checks = untested(v.probes)
	}
	if r := &m.now().rec; r.State == state && r.Sandbox == l.id && r.Snapshot == "" {
		m.show(edit)
	} else {
		m.record(edit)
	}
	h.attend(m, l)
}

// adoptLost decides over a machine that has no sandbox.
func (h *Host) adoptLost(m *machine) rest {
	r := &m.now().rec
	switch r.Desired {
	case api.StateDestroyed:
		return h.raze
	case api.StateSuspended:
		if h.hasSnapshot(r) {
			h.rests(m, api.StateSuspended, "")
			return nil
		}
		h.rests(m, api.StateStopped, "its snapshot is gone; it will start cold")
	case api.StatePaused:
		h.rests(m, api.StateStopped, "its memory was lost with its node's; it will start cold")
	case api.StateStarted:
		return h.revive(m)
	case api.StateCreated:
		h.rests(m, api.StateCreated, "")
	default:
		h.rests(m, api.StateStopped, r.Standing)
	}
	return nil
}

func (h *Host) hasSnapshot(r *Record) bool {
	_, err := os.Stat(filepath.Join(h.dir(r.ID), r.Snapshot))
	return err == nil && r.Snapshot != ""
}

// rests shows and records a machine that does not run.
func (h *Host) rests(m *machine, state, standing string) {
	if r := &m.now().rec; r.State == state || r.State == api.StateFailed {
		return
	}
	m.record(func(v *view) {
		v.rec.State, v.rec.Desired, v.rec.Standing = state, state, standing
		v.dead()
	})
}

// revive starts a machine that should run and has no sandbox: the node was
// restarted, or the daemon was killed in the middle of a restart. One that ran
// and is never to be restarted has ended for good: what it did once, a second
// time could undo or double.
func (h *Host) revive(m *machine) rest {
	r := &m.now().rec
	switch {
	case r.State == api.StateFailed:
		return nil
	case r.State == api.StateStarted && policy(&r.Config) == "no":
		m.record(func(v *view) { v.exited(unknownExit(), false, 0) })
		if r.Config.AutoDestroy {
			return h.raze
		}
		return nil
	}
	m.record(func(v *view) {
		if v.rec.State == api.StateStarted {
			v.rec.State = api.StateRestarting
			v.rec.noteExit(unknownExit(), false, true)
		}
		v.rec.State, v.rec.Standing = api.StateRestarting, "its sandbox was gone when the node came back; starting again"
		v.dead()
	})
	return func(ctx context.Context, m *machine) error {
		if h.cfg.MayRun(ctx, m.id) {
			h.relaunch(m)
		} else if ctx.Err() == nil {
			h.rests(m, api.StateStopped, "another machine has taken its place while its node was away")
		}
		return nil
	}
}

// finish carries an operation that a crash cut short to its end. The turn is held.
func (h *Host) finish(m *machine, op rest) {
	if err := op(h.ctx, m); err != nil {
		h.log.Error("cannot finish what was begun before the restart", "machine", m.id, "error", err)
	}
}

// sweep removes sandboxes, slots and folders that belong to no machine.
func (h *Host) sweep(left *leftovers) {
	ctx, cancel := h.cleanup()
	defer cancel()
	var errs []error
	for _, id := range left.strays {
		errs = append(errs, h.cfg.Sandbox.Destroy(ctx, id))
	}
	for _, s := range left.slots {
		if !left.claimed[s.ID] {
			errs = append(errs, h.cfg.Networks.Release(ctx, &s))
		}
	}
	if err := errors.Join(errs...); err != nil {
		h.log.Error("cannot remove all that a crash left", "error", err)
	}
	h.sweepDirs()
}

func (h *Host) sweepDirs() {
	entries, err := os.ReadDir(h.cfg.Dir)
	if err != nil {
		h.log.Error("cannot read the machine directory", "error", err)
		return
	}
	for _, e := range entries {
		m := h.lookup(e.Name())
		switch {
		case m != nil:
			h.tidy(&m.now().rec)
			if r := &m.now().rec; resting(r.State) {
				h.closeLayer(r)
			}
		case idForm.MatchString(e.Name()) || strings.HasPrefix(e.Name(), "."):
			h.remove(filepath.Join(h.cfg.Dir, e.Name()))
		}
	}
	for _, id := range h.cfg.Layers.Machines() {
		if idForm.MatchString(id) && h.lookup(id) == nil {
			h.keepLayer(id, "")
		}
	}
}
