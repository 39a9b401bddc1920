package machine

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/sandbox"
)

// A supervisor that hangs must not keep a machine's turn for ever.
const (
	callTimeout     = 15 * time.Second
	snapshotTimeout = 5 * time.Minute
)

// Sleep lets an idle machine sink to a deeper state: paused, suspended or
// stopped. It is for the node's own automation: no lease may be held, and a
// request in progress, or one that comes meanwhile, calls it off with
// api.CodeConflict.
func (h *Host) Sleep(ctx context.Context, id, depth string) error {
	return h.act(ctx, id, "", func(ctx context.Context, m *machine) error {
		switch depth {
		case api.StatePaused:
			return h.freeze(ctx, m, byRouter, true)
		case api.StateSuspended:
			return h.suspend(ctx, m, byRouter, true)
		case api.StateStopped:
			return h.retire(ctx, m)
		}
		return invalid("state", "a machine can sleep paused, suspended or stopped, not %q", depth)
	})
}

// Pause freezes the machine's processes and keeps their memory.
func (h *Host) Pause(ctx context.Context, id, nonce string) error {
	return h.act(ctx, id, nonce, func(ctx context.Context, m *machine) error {
		if m.now().rec.State == api.StatePaused {
			return nil
		}
		if err := h.freeze(ctx, m, byUser, false); err != nil {
			return err
		}
		return m.sync(ctx)
	})
}

// Resume lets a paused or suspended machine run on. One that runs stays as it is.
func (h *Host) Resume(ctx context.Context, id, nonce string) error {
	return h.act(ctx, id, nonce, func(ctx context.Context, m *machine) error {
		if err := m.need("resumed", api.StatePaused, api.StateSuspended, api.StateStarted); err != nil {
			return err
		}
		if err := h.rouse(ctx, m, byUser); err != nil {
			return err
		}
		return m.sync(ctx)
	})
}

// Suspend writes the machine's memory to disk and ends its sandbox. A request
// that comes meanwhile is served, and the suspension answers api.CodeConflict.
func (h *Host) Suspend(ctx context.Context, id, nonce string) error {
	return h.act(ctx, id, nonce, func(ctx context.Context, m *machine) error {
		if m.now().rec.State == api.StateSuspended {
			return nil
		}
		return h.suspend(ctx, m, byUser, false)
	})
}

// fall shows the state that the machine is going to, and then asks whether it
// may: in this order, or a request could slip between (see the package comment).
func (h *Host) fall(m *machine, to string, onlyIdle bool) error {
	from := m.now().rec.State
	m.mu.Lock()
	m.wanted = false
	m.edit(func(v *view) { v.rec.State = to })
	m.mu.Unlock()
	h.tell(m.id)
	if from != api.StateStarted || !onlyIdle || m.busy.Load() == 0 && h.cfg.MaySleep(m.id) {
		return nil
	}
	m.pass(from)
	return awake(m.id)
}

func awake(id string) error {
	return api.Errorf(api.CodeConflict, "machine %q stays awake: a request is in progress or has just come", id)
}

// isWanted reports whether a wake came since fall.
func (m *machine) isWanted() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.wanted
}

// freeze pauses a started machine. The turn is held.
func (h *Host) freeze(ctx context.Context, m *machine, source string, onlyIdle bool) error {
	if err := m.need("paused", api.StateStarted); err != nil {
		return err
	}
	if err := h.fall(m, api.StatePaused, onlyIdle); err != nil {
		return err
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := h.cfg.Sandbox.Pause(call, m.life.id); err != nil {
		m.pass(api.StateStarted)
		return declined(err, m.id, "paused")
	}
	m.life.paused = true
	m.record(func(v *view) {
		v.rec.Desired, v.rec.Standing = api.StatePaused, ""
		v.rec.note("pause", source, nil)
	})
	return nil
}

// thaw lets a paused machine run on. If it cannot, it is started anew.
func (h *Host) thaw(ctx context.Context, m *machine, source string) error {
	from := time.Now()
	if err := h.unfreeze(ctx, m.life); err != nil {
		h.log.Warn("cannot resume machine: it is started anew", "machine", m.id, "error", err)
		h.bury(m, m.life)
		return h.launch(ctx, m, source)
	}
	took := time.Since(from)
	h.awaken(m, source, map[string]any{"how": "paused", "total_ms": milliseconds(took)})
	return nil
}

// awaken shows a machine whose life went on as started.
func (h *Host) awaken(m *machine, source string, detail map[string]any) {
	m.record(func(v *view) {
		v.rec.State, v.rec.Desired, v.rec.Standing, v.rec.Snapshot = api.StateStarted, api.StateStarted, "", ""
		v.rec.note("resume", source, detail)
	})
}

// unfreeze resumes the life's sandbox if it is paused.
func (h *Host) unfreeze(ctx context.Context, l *life) error {
	select {
	case <-l.ended:
		return nil
	default:
	}
	if !l.paused {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := h.cfg.Sandbox.Resume(ctx, l.id)
	if errors.Is(err, sandbox.ErrState) {
		err = nil // it runs, or has just ended: its watcher sees that
	}
	if err == nil {
		l.paused = false
	}
	return err
}

// suspend writes a started or paused machine to disk. The turn is held.
//
// Until the record is on disk a request can call it off: the sandbox is there,
// paused, and just runs on.
func (h *Host) suspend(ctx context.Context, m *machine, source string, onlyIdle bool) error {
	if err := m.need("suspended", api.StateStarted, api.StatePaused); err != nil {
		return err
	}
	if layerDir(&m.now().rec) != "" {
		return api.Errorf(api.CodePrecondition, "machine %q cannot be suspended: it keeps its file system (rootfs.persist), which a snapshot cannot hold", m.id).
			WithHint("pause it instead, or stop it")
	}
	was, from := m.now().rec.State, time.Now()
	if err := h.fall(m, api.StateSuspending, onlyIdle); err != nil {
		return err
	}
	name, err := h.snapshot(ctx, m)
	if err != nil && len(m.now().rec.Config.Mounts) > 0 && !m.isWanted() {
		return h.stopInstead(ctx, m, source, err)
	}
	if err != nil {
		return h.stay(ctx, m, was, err)
	}
	if m.isWanted() {
		return h.runOn(ctx, m, name)
	}
	m.record(func(v *view) {
		v.rec.State, v.rec.Desired, v.rec.Snapshot, v.rec.Standing = api.StateSuspended, api.StateSuspended, name, ""
		v.rec.note("suspend", source, map[string]any{"total_ms": milliseconds(time.Since(from))})
	})
	if err := m.sync(ctx); err != nil || m.isWanted() {
		if err != nil {
			h.log.Error("cannot record a suspension: the machine runs on", "machine", m.id, "error", err)
		}
		return h.runOn(ctx, m, name)
	}
	h.bury(m, m.life)
	m.show(func(v *view) { v.addr = noAddr })
	h.tidy(&m.now().rec)
	return nil
}

// stay puts a machine that could not be suspended back where it was.
func (h *Host) stay(ctx context.Context, m *machine, was string, cause error) error {
	m.life.noSnapshot = true
	if was == api.StatePaused && !m.isWanted() {
		m.pass(was)
	} else if err := h.runOn(ctx, m, ""); !api.IsCode(err, api.CodeConflict) {
		return err
	}
	return declined(cause, m.id, "suspended")
}

// runOn lets a machine that was to be suspended run on instead, and answers that.
func (h *Host) runOn(ctx context.Context, m *machine, snapshot string) error {
	if snapshot != "" {
		defer h.remove(filepath.Join(h.dir(m.id), snapshot))
	}
	took := time.Now()
	if err := h.unfreeze(ctx, m.life); err != nil {
		h.bury(m, m.life)
		if err := h.launch(ctx, m, byRouter); err != nil {
			return err
		}
		return awake(m.id)
	}
	h.awaken(m, byRouter, map[string]any{"how": "not suspended", "total_ms": milliseconds(time.Since(took))})
	return awake(m.id)
}

// snapshot writes the machine's memory and returns the folder's name. The
// sandbox is left paused. The folder is whole and on disk when it is there.
func (h *Host) snapshot(ctx context.Context, m *machine) (string, error) {
	name := snapshotPrefix + ulid.Make().String()
	m.life.paused = true
	ctx, cancel := context.WithTimeout(ctx, snapshotTimeout)
	defer cancel()
	return name, h.cfg.Sandbox.Checkpoint(ctx, m.life.id, filepath.Join(h.dir(m.id), name))
}

// restore brings a suspended machine back from its snapshot, or starts it cold
// if that cannot be. The turn is held.
func (h *Host) restore(ctx context.Context, m *machine, source string) error {
	name := m.now().rec.Snapshot
	dir := filepath.Join(h.dir(m.id), name)
	m.pass(api.StateStarting)
	l, t, err := h.begin(ctx, m, dir)
	if err == nil {
		h.live(m, l, func(r *Record) { r.note("resume", source, t.detail("snapshot")) })
		m.say(fmt.Sprintf("machine resumed in %v ms", milliseconds(t.total)))
		h.spawn(func() { h.dropSnapshot(m, dir) })
		return nil
	}
	h.log.Warn("cannot restore machine: it is started cold", "machine", m.id, "error", err)
	m.say("the snapshot could not be restored, the machine starts cold: " + err.Error())
	m.record(func(v *view) {
		v.rec.Snapshot = ""
		v.rec.note("resume_failed", byNode, map[string]any{"error": err.Error()})
	})
	defer h.remove(dir)
	return h.launch(ctx, m, source)
}

// dropSnapshot removes a snapshot once the disk knows that it was used.
func (h *Host) dropSnapshot(m *machine, dir string) {
	m.syncOrLog(h.ctx)
	h.remove(dir)
}

// retire stops an idle machine on the node's own account.
func (h *Host) retire(ctx context.Context, m *machine) error {
	if err := m.need("stopped", api.StateStarted, api.StatePaused, api.StateSuspended); err != nil {
		return err
	}
	if err := h.fall(m, api.StateStopping, true); err != nil {
		return err
	}
	return h.halt(ctx, m, m.stopping(api.StopRequest{}, byRouter))
}
