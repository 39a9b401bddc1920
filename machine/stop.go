package machine

import (
	"context"
	"fmt"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/machine/rules"
	"github.com/perigee-run/perigee/sandbox"
	"golang.org/x/sys/unix"
)

const (
	defaultStopTimeout = 5 * time.Second
	// killTimeout is how long the sandbox may take to end after SIGKILL before
	// it is destroyed whole.
	killTimeout = 5 * time.Second
)

// halting says how a machine is brought to an end of its life.
type halting struct {
	event, source string // event "" notes none
	during, after string // states
	desired       string // what is recorded before anything is done
	signal        int    // 0: the machine's own stop signal
	timeout       time.Duration
	standing      string
}

// Stop asks the machine's process to end and ends it when its time is over.
// One that is stopped already stays so.
func (h *Host) Stop(ctx context.Context, id string, req api.StopRequest, nonce string) error {
	if err := rules.Stop(string(req.Signal), req.Timeout); err != nil {
		return err
	}
	return h.act(ctx, id, nonce, func(ctx context.Context, m *machine) error {
		return h.stopNow(ctx, m, m.stopping(req, byUser))
	})
}

// stopping is an ordinary stop with what req and the configuration say.
func (m *machine) stopping(req api.StopRequest, source string) halting {
	hg := halting{event: "stop", source: source, during: api.StateStopping, after: api.StateStopped,
		desired: api.StateStopped, timeout: stopTimeout(&m.now().rec.Config, req.Timeout)}
	if req.Signal != "" {
		hg.signal, _ = rules.Signal("signal", string(req.Signal)) // checked before
	}
	return hg
}

func stopTimeout(c *api.MachineConfig, asked *api.Duration) time.Duration {
	if asked == nil && c.StopConfig != nil {
		asked = c.StopConfig.Timeout
	}
	return asked.Or(defaultStopTimeout)
}

func (h *Host) stopNow(ctx context.Context, m *machine, hg halting) error {
	if err := m.need("stopped", api.StateStarted, api.StatePaused, api.StateSuspended, api.StateRestarting,
		api.StateStopped, api.StateFailed); err != nil {
		return err
	}
	if m.now().rec.State == api.StateStopped {
		return m.sync(ctx)
	}
	return h.halt(ctx, m, hg)
}

// halt ends the machine's life, if it has one, and returns when that is on
// disk. What is wanted is written first, so that a crash in between is carried
// to the same end. What is left of the life goes before the turn does, and who
// only stops the machine does not wait for that.
func (h *Host) halt(ctx context.Context, m *machine, hg halting) error {
	m.settle()
	was := m.now().rec
	m.cancelRetry()
	m.record(func(v *view) {
		v.rec.State, v.rec.Desired = hg.during, hg.desired
		if hg.event != "" {
			v.rec.note(hg.event, hg.source, nil)
		}
	})
	if err := m.sync(ctx); err != nil {
		h.leaveAsItWas(m, &was)
		return err
	}
	l := m.life
	if l != nil {
		h.end(ctx, m, l, hg)
	}
	if ctx.Err() != nil {
		return errClosing() // the next run of the daemon carries it to its end
	}
	m.record(func(v *view) { v.halted(l, hg) })
	if l != nil {
		m.say("machine stopped: " + exitWords(l.exit))
	}
	err := m.sync(ctx)
	clear := func() {
		if l != nil {
			h.bury(m, l)
		}
		h.tidy(&m.now().rec)
	}
	if hg.after == api.StateStopped {
		m.later = clear
	} else {
		clear()
	}
	return err
}

// leaveAsItWas takes a wish back that could not be written down: nothing was done.
func (h *Host) leaveAsItWas(m *machine, was *Record) {
	m.record(func(v *view) { v.rec.State, v.rec.Desired, v.rec.Events = was.State, was.Desired, was.Events })
	if was.State == api.StateRestarting {
		h.restartIn(m, h.cfg.backoff)
	}
}

// halted is the view after a life was ended on request, or had none.
func (v *view) halted(l *life, hg halting) {
	r := &v.rec
	r.State, r.Snapshot, r.Restarts, r.Standing = hg.after, "", 0, hg.standing
	if hg.after == api.StateStopped {
		r.Raised = false
	}
	if l != nil {
		r.noteExit(l.exit, true, false)
		if r.Standing == "" {
			r.Standing = exitWords(l.exit)
		}
	}
	v.dead()
}

// end makes the process end: asks, waits, kills. When it returns l.ended is closed.
func (h *Host) end(ctx context.Context, m *machine, l *life, hg halting) {
	if m.now().rec.Desired != api.StateDestroyed {
		h.ask(ctx, m, l, hg)
	}
	select {
	case <-l.ended:
		return
	default:
	}
	_ = h.signal(ctx, l, int(unix.SIGKILL)) // Destroy is next if this fails
	if h.endsWithin(ctx, m, l, killTimeout, false) || ctx.Err() != nil {
		return
	}
	l.end() // the watcher leaves; nobody else closes ended
	m.host.log.Warn("sandbox does not end by SIGKILL: destroyed", "machine", m.id, "sandbox", l.id)
	l.exit = sandbox.Exit{Code: 128 + int(unix.SIGKILL), Signal: int(unix.SIGKILL), At: time.Now()}
}

// ask sends the stop signal and gives the process its time.
func (h *Host) ask(ctx context.Context, m *machine, l *life, hg halting) {
	if err := h.unfreeze(ctx, l); err != nil {
		h.log.Warn("cannot resume a machine to stop it", "machine", m.id, "error", err)
		return
	}
	sig := hg.signal
	if sig == 0 {
		sig = int(unix.SIGINT)
		if h.planned(ctx, m) == nil {
			sig = m.plan.stop
		}
	}
	if err := h.signal(ctx, l, sig); err != nil {
		h.log.Debug("cannot send the stop signal", "machine", m.id, "error", err)
	}
	if hg.timeout > 0 && !h.endsWithin(ctx, m, l, hg.timeout, true) {
		m.say(fmt.Sprintf("did not end within %s of %s: killed", hg.timeout, signalName(sig)))
	}
}

func (h *Host) signal(ctx context.Context, l *life, sig int) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return h.cfg.Sandbox.Signal(ctx, l.id, sig)
}

// endsWithin waits for the process's end; an urgent destruction cuts it short.
func (h *Host) endsWithin(ctx context.Context, m *machine, l *life, d time.Duration, patient bool) bool {
	hurry := m.hurry
	if !patient {
		hurry = nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-l.ended:
		return true
	case <-t.C:
	case <-hurry:
	case <-ctx.Done():
	}
	return false
}
