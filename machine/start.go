package machine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/sandbox"
)

// startTimeout bounds one start or restore: far more than any takes, so that
// only a broken node meets it.
const startTimeout = time.Minute

// timings says where the time of a start went.
type timings struct {
	prepared               bool
	ready, assign, sandbox time.Duration
	total                  time.Duration
}

func (t timings) detail(how string) map[string]any {
	return map[string]any{
		"how": how, "prepared": t.prepared, "prepare_ms": milliseconds(t.ready), "assign_ms": milliseconds(t.assign),
		"sandbox_ms": milliseconds(t.sandbox), "total_ms": milliseconds(t.total),
	}
}

// Start starts a machine, or wakes it. One that runs already stays as it is.
func (h *Host) Start(ctx context.Context, id, nonce string) (api.StartResponse, error) {
	was := ""
	err := h.act(ctx, id, nonce, func(ctx context.Context, m *machine) error {
		was = m.now().rec.State
		if err := h.rouse(ctx, m, byUser); err != nil {
			return err
		}
		return m.sync(ctx)
	})
	return api.StartResponse{PreviousState: was}, err
}

// need refuses an operation in a state that it may not begin in.
func (m *machine) need(done string, states ...string) error {
	r := &m.now().rec
	if slices.Contains(states, r.State) {
		return nil
	}
	if r.State == api.StateDestroyed {
		return notFound(m.id)
	}
	return api.Errorf(api.CodePrecondition, "machine %q cannot be %s: it is %s%s", m.id, done, r.State, standing(r.Standing)).
		WithHint("it must be " + strings.Join(states, " or "))
}

// rouse brings the machine to run, whatever it is now. The turn is held.
func (h *Host) rouse(ctx context.Context, m *machine, source string) error {
	switch m.now().rec.State {
	case api.StateStarted:
		return nil
	case api.StatePaused:
		return h.thaw(ctx, m, source)
	case api.StateSuspended:
		return h.restore(ctx, m, source)
	}
	if err := m.need("started", api.StateCreated, api.StateStopped, api.StateFailed, api.StateRestarting); err != nil {
		return err
	}
	return h.launch(ctx, m, source)
}

// launch starts the machine cold. A start that fails leaves it failed.
func (h *Host) launch(ctx context.Context, m *machine, source string) error {
	m.cancelRetry()
	m.pass(api.StateStarting)
	l, t, err := h.begin(ctx, m, "")
	if h.ctx.Err() != nil && err != nil {
		return errClosing() // not the machine's failure
	}
	if err != nil {
		m.record(func(v *view) {
			v.rec.State, v.rec.Standing = api.StateFailed, api.AsError(err).Message
			v.rec.note("start", source, map[string]any{"error": v.rec.Standing})
		})
		m.say("machine did not start: " + m.now().rec.Standing)
		return err
	}
	h.live(m, l, func(r *Record) { r.note("start", source, t.detail("cold")) })
	m.say(fmt.Sprintf("machine started in %v ms", milliseconds(t.total)))
	return nil
}

// begin makes a life: a slot, a sandbox, a running process. With a snapshot's
// folder it is restored from there. What cannot be finished is undone.
func (h *Host) begin(ctx context.Context, m *machine, snapshot string) (l *life, t timings, err error) {
	m.settle()
	h.starting.Add(1)
	defer h.startEnded()
	began := time.Now()
	spec, err := h.describe(ctx, m)
	if err != nil {
		return nil, t, err
	}
	defer func() {
		if err != nil {
			h.closeVolumes(&m.now().rec)
		}
	}()
	inLine := time.Now()
	defer h.queue(ctx, m)()
	began = began.Add(time.Since(inLine))
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	p, err := h.pool.take(ctx)
	if err != nil {
		return nil, t, internal(err, "cannot start machine %q", m.id)
	}
	t.prepared, t.ready = p.sandbox != "", time.Since(began)
	if err := h.run(ctx, m, &spec, p, snapshot, &t); err != nil {
		h.undo(spec.ID, p)
		return nil, t, refusal(m.id, err)
	}
	t.total = time.Since(began)
	return h.newLife(spec.ID, p), t, nil
}

// queue waits until few enough machines are starting, and returns what lets the next one
// go. What comes then is work for a processor: side by side many of them would all be done
// when the last one is. One that a visitor waits for does not stand in line.
func (h *Host) queue(ctx context.Context, m *machine) (leave func()) {
	m.mu.Lock()
	visited := m.visited
	m.mu.Unlock()
	select {
	case h.atOnce <- struct{}{}:
		return func() { <-h.atOnce }
	case <-visited:
	case <-m.hurry: // it is to go, and not to wait for its turn before
	case <-ctx.Done(): // what comes next says so
	}
	return func() {}
}

// describe makes the spec of the machine's next life. What it needs may have to come from
// elsewhere first, or to be put right.
func (h *Host) describe(ctx context.Context, m *machine) (sandbox.Spec, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := h.planned(ctx, m); err != nil {
		return sandbox.Spec{}, err
	}
	if err := h.makeDirs(&m.now().rec); err != nil {
		return sandbox.Spec{}, err
	}
	spec, err := h.spec(ctx, m, newLife(m.id))
	if err != nil {
		return spec, err
	}
	spec.Mounts, err = h.openVolumes(ctx, &m.now().rec, m.plan)
	return spec, err
}

func (h *Host) run(ctx context.Context, m *machine, spec *sandbox.Spec, p pair, snapshot string, t *timings) error {
	from := time.Now()
	if err := h.cfg.Networks.Assign(ctx, p.slot, m.identity()); err != nil {
		return err
	}
	t.assign = time.Since(from)
	from = time.Now()
	defer func() { t.sandbox = time.Since(from) }()
	spec.Netns = p.slot.NetnsPath
	if snapshot != "" {
		return h.cfg.Sandbox.Restore(ctx, *spec, p.sandbox, snapshot)
	}
	return h.startIn(ctx, spec, p.sandbox)
}

// startIn starts in the prepared sandbox, or without it if the supervisor was
// restarted and lost it.
func (h *Host) startIn(ctx context.Context, spec *sandbox.Spec, from string) error {
	err := h.cfg.Sandbox.Start(ctx, *spec, from)
	if from != "" && errors.Is(err, sandbox.ErrNotFound) {
		return h.cfg.Sandbox.Start(ctx, *spec, "")
	}
	return err
}

func (h *Host) startEnded() {
	h.latest.Store(time.Now().UnixNano())
	h.starting.Add(-1)
	h.pool.refill()
}

// undo ends what a start that failed may have left. It is not given up when the
// start's own time is over.
func (h *Host) undo(id string, p pair) {
	ctx, cancel := h.cleanup()
	defer cancel()
	err := h.cfg.Sandbox.Destroy(ctx, id)
	if p.sandbox != "" && p.sandbox != id {
		err = errors.Join(err, h.cfg.Sandbox.Destroy(ctx, p.sandbox))
	}
	if err = errors.Join(err, h.cfg.Networks.Release(ctx, p.slot)); err != nil {
		h.log.Error("cannot undo a start", "sandbox", id, "error", err)
	}
}

// cleanup is the context of work that must be done even while the host closes.
func (h *Host) cleanup() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(h.ctx), 30*time.Second)
}

// refusal puts a sandbox's error into the API's words.
func refusal(id string, err error) error {
	if errors.Is(err, sandbox.ErrInvalid) || commandFault(err) {
		return api.Errorf(api.CodeInvalid, "machine %q cannot be started: %v", id, err).WithField("config.init")
	}
	return internal(err, "cannot start machine %q", id)
}

func (h *Host) newLife(id string, p pair) *life {
	l := &life{id: id, slot: p.slot, began: time.Now(), ended: make(chan struct{}), followed: make(chan struct{})}
	l.ctx, l.end = context.WithCancel(h.ctx)
	return l
}

// live makes l the machine's life, shows it as started and looks after it. A
// machine that was restored is as healthy as it was until its checks say other.
func (h *Host) live(m *machine, l *life, note func(*Record)) {
	m.life = l
	m.record(func(v *view) {
		r, restored := &v.rec, v.rec.Snapshot != ""
		r.State, r.Desired, r.Standing, r.Sandbox, r.Snapshot, r.MemoryMB = api.StateStarted, api.StateStarted, "", l.id, "", 0
		note(r)
		v.addr = l.slot.IPv4
		v.probes = probes(&r.Config)
		if !restored || len(v.checks) != len(v.probes) {
			v.checks = untested(v.probes)
		}
	})
	h.attend(m, l)
}

// attend begins to watch a life: its end, its checks, its console.
func (h *Host) attend(m *machine, l *life) {
	l.former = m.read
	ok := h.spawn(func() { m.listen(l) })
	if !ok {
		close(l.followed)
	}
	h.spawn(func() { h.watch(m, l) })
	for i, p := range m.now().probes {
		h.spawn(func() { h.runCheck(m, l, i, p) })
	}
}

// planned makes sure that the machine's plan is known: after a restart of the
// daemon it is made again.
func (h *Host) planned(ctx context.Context, m *machine) error {
	if m.plan != nil {
		return nil
	}
	r := &m.now().rec
	img, ok := h.cfg.Images.Get(r.Image.Digest)
	if !ok {
		var err error
		if img, err = h.cfg.Images.Pull(ctx, imageName(r.Image), nil); err != nil {
			return imageFault(r.Config.Image, err)
		}
	}
	p, err := h.newPlan(&r.Config, img)
	m.plan = p
	return err
}
