package machine

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/sandbox"
)

const (
	maxBackoff = time.Minute
	// wellAfter is how long a machine must run for its earlier restarts not to
	// count any more.
	wellAfter         = time.Minute
	defaultMaxRetries = 10
)

// watch waits for the life's end, and deals with it unless an operation that
// has the turn did.
func (h *Host) watch(m *machine, l *life) {
	x, ok := h.waitExit(l)
	if !ok {
		return // the life was ended by us, or the host is closing
	}
	l.exit = x
	close(l.ended)
	if m.take(h.ctx) != nil {
		return
	}
	defer m.give()
	if m.life == l && h.ctx.Err() == nil {
		h.ended(h.ctx, m, l)
	}
}

// waitExit asks until there is an answer: a supervisor that is restarted loses
// who waits, not the exits.
func (h *Host) waitExit(l *life) (sandbox.Exit, bool) {
	for {
		x, err := h.cfg.Sandbox.Wait(l.ctx, l.id)
		switch {
		case l.ctx.Err() != nil:
			return x, false
		case err == nil:
			return x, true
		case errors.Is(err, sandbox.ErrNotFound):
			return unknownExit(), true
		}
		h.log.Warn("cannot wait for sandbox", "sandbox", l.id, "error", err)
		select {
		case <-time.After(200 * time.Millisecond):
		case <-l.ctx.Done():
			return x, false
		}
	}
}

func unknownExit() sandbox.Exit { return sandbox.Exit{Code: -1, Unknown: true, At: time.Now()} }

// ended deals with a process that ended by itself. The turn is held.
func (h *Host) ended(ctx context.Context, m *machine, l *life) {
	if time.Since(l.began) >= wellAfter {
		m.record(func(v *view) { v.rec.Restarts = 0 })
	}
	r := &m.now().rec
	again, delay := restarts(r, l.exit, h.cfg.backoff)
	m.record(func(v *view) { v.exited(l.exit, again, delay) })
	m.say(exitWords(l.exit))
	m.syncOrLog(ctx)
	h.bury(m, l)
	switch {
	case again:
		m.say(m.now().rec.Standing)
		h.restartIn(m, delay)
	case r.Config.AutoDestroy:
		if err := h.raze(ctx, m); err != nil {
			h.log.Error("cannot destroy machine after its exit", "machine", m.id, "error", err)
		}
	}
}

// exited is the view after the process ended by itself.
func (v *view) exited(x sandbox.Exit, again bool, delay time.Duration) {
	r := &v.rec
	r.State, r.Desired, r.Standing = api.StateStopped, api.StateStopped, exitWords(x)
	if again {
		r.Restarts++
		r.State, r.Desired = api.StateRestarting, api.StateStarted
		r.Standing += fmt.Sprintf("; starting again in %s (restart %d)", delay, r.Restarts)
	} else if tries := tries(r); r.Restarts > 0 && r.Restarts >= tries && failed(x) {
		r.Standing += fmt.Sprintf("; given up after %d restarts", r.Restarts)
	}
	if !again && r.Config.AutoDestroy {
		r.Desired = api.StateDestroyed // a crash from here on must not keep it
	}
	r.Raised = r.Raised && again
	r.noteExit(x, false, again)
	v.dead()
}

// dead takes away what only a machine with a sandbox has.
func (v *view) dead() { v.addr, v.checks, v.probes = netip.Addr{}, nil, nil }

func failed(x sandbox.Exit) bool { return x.Code != 0 || x.OOM }

func tries(r *Record) int {
	if r.Config.Restart != nil && r.Config.Restart.MaxRetries > 0 {
		return r.Config.Restart.MaxRetries
	}
	return defaultMaxRetries
}

// restarts decides whether a machine whose process ended by itself starts
// again, and after what time: 1 s, 2 s, 4 s … a minute.
func restarts(r *Record, x sandbox.Exit, first time.Duration) (again bool, delay time.Duration) {
	delay = min(first<<min(r.Restarts, 16), maxBackoff)
	switch policy(&r.Config) {
	case "always":
		return true, delay
	case "no":
		return false, 0
	}
	return failed(x) && r.Restarts < tries(r), delay
}

// policy is the restart policy, on-failure where none is said. A machine that
// goes with its process's end is not restarted unless it is said.
func policy(c *api.MachineConfig) string {
	switch {
	case c.Restart != nil && c.Restart.Policy != "":
		return c.Restart.Policy
	case c.AutoDestroy && c.Restart == nil:
		return "no"
	}
	return "on-failure"
}

func exitWords(x sandbox.Exit) string {
	switch {
	case x.OOM:
		return "out of memory: killed at the machine's memory limit; raise guest.memory_mb"
	case x.Unknown:
		return "ended while nobody watched"
	case x.Signal != 0:
		return "killed by " + signalName(x.Signal)
	}
	return fmt.Sprintf("exited with code %d", x.Code)
}

// bury removes what is left of a life: the sandbox, then its network.
func (h *Host) bury(m *machine, l *life) {
	l.end()
	ctx, cancel := h.cleanup()
	defer cancel()
	err := h.cfg.Sandbox.Destroy(ctx, l.id)
	if l.slot != nil {
		err = errors.Join(err, h.cfg.Networks.Release(ctx, l.slot))
	}
	if err != nil {
		h.log.Error("cannot remove what a machine left", "machine", m.id, "sandbox", l.id, "error", err)
	}
	h.closeVolumes(&m.now().rec)
	m.unlisten(l)
	m.life = nil
}

// restartIn starts the machine again after a while, unless an operation comes
// first.
func (h *Host) restartIn(m *machine, delay time.Duration) {
	ctx, cancel := context.WithCancel(h.ctx)
	m.mu.Lock()
	m.retry = cancel
	m.mu.Unlock()
	h.spawn(func() {
		defer cancel()
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return
		}
		if m.take(ctx) != nil {
			return
		}
		defer m.give()
		if ctx.Err() == nil {
			h.relaunch(m)
		}
	})
}

// relaunch starts the machine on the node's own account. If that fails for a
// reason that may pass, it is tried again.
func (h *Host) relaunch(m *machine) {
	err := h.launch(h.ctx, m, byNode)
	if err == nil || h.ctx.Err() != nil {
		return
	}
	h.log.Error("cannot start machine again", "machine", m.id, "error", err)
	if isAPI(err) && !api.IsCode(err, api.CodeTimeout) {
		return // the machine is at fault, and stays failed; a busy volume is not for ever
	}
	delay := min(h.cfg.backoff<<min(m.now().rec.Restarts, 16), maxBackoff)
	m.record(func(v *view) {
		v.rec.State, v.rec.Desired = api.StateRestarting, api.StateStarted
		v.rec.Restarts++
	})
	h.restartIn(m, delay)
}

// cancelRetry calls a pending restart off. The turn is held.
func (m *machine) cancelRetry() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.retry != nil {
		m.retry()
		m.retry = nil
	}
}

// syncOrLog is sync where the node acts by itself and nobody can be told.
func (m *machine) syncOrLog(ctx context.Context) {
	if err := m.sync(ctx); err != nil {
		m.host.log.Error("acting before the record is on disk", "machine", m.id, "error", err)
	}
}
