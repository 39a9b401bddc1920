package machine

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/perigee-run/perigee/api"
)

// WaitQuery says what to wait for.
type WaitQuery struct {
	// States are those that satisfy; "settled" is any that lasts. Default started.
	States []string
	// Version makes the wait end with "replaced" once the machine has another one.
	Version string
	// FromEvent lets events after this one count, even of states that have
	// passed already. Default: events after the call.
	FromEvent string
	// Timeout defaults to a minute, and is at most that.
	Timeout time.Duration
}

const maxWait = time.Minute

// lasting are the states that "settled" means.
var lasting = []string{api.StateCreated, api.StateStarted, api.StateStopped, api.StateSuspended,
	api.StatePaused, api.StateFailed, api.StateDestroyed}

// passing are the other states: those on the way, and those that Fly's machines have and
// none here ever does, which who waits for them waits for in vain.
var passing = []string{api.StateCreating, api.StateStarting, api.StateStopping, api.StateRestarting,
	api.StateSuspending, api.StateDestroying, api.StateUpdating, api.StateReplacing, api.StateReplaced, "launch_failed", "migrated"}

// States are all that there are, for whoever names some.
func States() []string { return slices.Concat(lasting, passing) }

// Wait returns when the machine is, or since FromEvent has been, in one of the
// states. api.CodeTimeout if that did not happen in time.
func (h *Host) Wait(ctx context.Context, id string, q WaitQuery) (api.WaitResponse, error) {
	m, err := h.find(ctx, id)
	if err != nil {
		return api.WaitResponse{}, err
	}
	if err := q.check(m); err != nil {
		return api.WaitResponse{}, err
	}
	if v := m.now(); v.gone && !q.wants(v.rec.State) {
		return api.WaitResponse{}, notFound(id) // before it was asked: there is nothing to wait for
	}
	ctx, cancel := context.WithTimeout(ctx, q.Timeout)
	defer cancel()
	for {
		v, changed := m.next()
		if done, answer, err := q.met(v); done {
			return answer, err
		}
		select {
		case <-changed:
		case <-h.ctx.Done():
			return api.WaitResponse{}, errClosing()
		case <-ctx.Done():
			return api.WaitResponse{}, api.Errorf(api.CodeTimeout, "machine %q is %s, and was not %s within %s",
				id, m.now().rec.State, strings.Join(q.States, " or "), q.Timeout)
		}
	}
}

// check fills in the defaults and refuses what cannot be waited for.
func (q *WaitQuery) check(m *machine) error {
	r := &m.now().rec
	if len(q.States) == 0 {
		q.States = []string{api.StateStarted}
	}
	for _, s := range q.States {
		if s != "settled" && !slices.Contains(States(), s) {
			return invalid("state", "there is no state %q; wait for one of %s or settled", s, strings.Join(lasting, ", "))
		}
	}
	orElse(&q.Timeout, maxWait)
	q.Timeout = max(0, min(q.Timeout, maxWait))
	if q.Version != "" && !r.knows(q.Version) {
		return invalid("version", "machine %q has no version %q; its present one is %s", m.id, q.Version, r.Version)
	}
	if _, err := ulid.ParseStrict(q.FromEvent); q.FromEvent != "" && err != nil { // one that is not known may be forgotten
		return invalid("from_event_id", "%q is the id of no event", api.Clip(q.FromEvent)).WithHint("GET …/events lists them")
	}
	if q.FromEvent == "" && len(r.Events) > 0 {
		q.FromEvent = r.Events[0].ID
	}
	return nil
}

// met reports whether the view ends the wait, and how.
func (q *WaitQuery) met(v *view) (done bool, answer api.WaitResponse, err error) {
	r := &v.rec
	answer = api.WaitResponse{OK: true, State: r.State, Version: r.Version}
	if len(r.Events) > 0 {
		answer.EventID = r.Events[0].ID
	}
	if q.Version != "" && q.Version != r.Version {
		answer.State, answer.Version = api.StateReplaced, q.Version
		return true, answer, nil
	}
	// A machine that was never started is as good as stopped: Fly's clients create
	// one without launching it, and wait until it could be started.
	if q.wants(r.State) || r.State == api.StateCreated && q.wants(api.StateStopped) {
		return true, answer, nil
	}
	for _, e := range slices.Backward(r.Events) { // oldest first; ids sort by time
		if e.ID > q.FromEvent && q.wants(e.Status) {
			answer.State, answer.EventID = e.Status, e.ID
			return true, answer, nil
		}
	}
	switch {
	case v.gone:
		return true, answer, api.Errorf(api.CodePrecondition, "machine %q was destroyed while it was waited for", r.ID)
	case r.State == api.StateFailed && !q.wants(api.StateFailed) && !q.wants(api.StateDestroyed):
		return true, answer, api.Errorf(api.CodePrecondition, "machine %q failed: %s", r.ID, r.Standing)
	}
	return false, answer, nil
}

func (q *WaitQuery) wants(state string) bool {
	return slices.Contains(q.States, state) || slices.Contains(q.States, "settled") && slices.Contains(lasting, state)
}

// WaitHealthy returns nil when the machine is started and all its checks pass;
// at once if it has none. It fails as soon as that cannot come about by itself:
// the process ended, the start failed, the version was replaced. ctx bounds it.
func (h *Host) WaitHealthy(ctx context.Context, id string) error {
	m, err := h.find(ctx, id)
	if err != nil {
		return err
	}
	version := m.now().rec.Version
	for {
		v, changed := m.next()
		if v.healthy {
			return nil
		}
		if err := v.hopeless(version); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-h.ctx.Done():
			return errClosing()
		case <-ctx.Done():
			return api.Errorf(api.CodeTimeout, "machine %q did not become healthy: %s", id, m.now().ailment())
		}
	}
}

// hopeless says why the machine will not become healthy by itself.
func (v *view) hopeless(version string) error {
	r := &v.rec
	switch {
	case v.gone:
		return api.Errorf(api.CodePrecondition, "machine %q was destroyed", r.ID)
	case r.Version != version:
		return api.Errorf(api.CodePrecondition, "machine %q was replaced by version %s", r.ID, r.Version)
	case r.State == api.StateRestarting && r.Restarts > 0, r.State == api.StateStopped, r.State == api.StateFailed,
		r.State == api.StateCreated, r.State == api.StatePaused, r.State == api.StateSuspended:
		return api.Errorf(api.CodePrecondition, "machine %q is %s: %s", r.ID, r.State, r.Standing)
	}
	return nil
}

// ailment says in words what is not right with the machine.
func (v *view) ailment() string {
	if v.rec.State != api.StateStarted {
		return "it is " + v.rec.State + standing(v.rec.Standing)
	}
	for _, c := range v.checks {
		if c.Status != statusPassing {
			return "check " + c.Name + " is " + c.Status + standing(c.Output)
		}
	}
	return "it is " + v.rec.State
}

func standing(s string) string {
	if s == "" {
		return ""
	}
	return " (" + s + ")"
}
