package machine

import (
	"context"
	"slices"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/sandbox"
)

// The sources of events, in Fly's words.
const (
	byNode   = "flyd"
	byUser   = "user"
	byRouter = "router"
)

// note adds an event about what has just become of r.
func (r *Record) note(typ, source string, detail map[string]any) *api.Event {
	e := api.Event{
		ID: ulid.Make().String(), Type: typ, Status: r.State, Source: source,
		Timestamp: time.Now().UnixMilli(), Detail: detail,
	}
	keep := r.Events[:min(len(r.Events), maxEvents-1)]
	r.Events = append([]api.Event{e}, keep...)
	return &r.Events[0]
}

// noteExit adds the event of a process that has ended.
func (r *Record) noteExit(x sandbox.Exit, requested, restarting bool) {
	code := x.Code
	r.note("exit", byNode, nil).Request = &api.EventRequest{
		RestartCount: r.Restarts,
		ExitEvent: &api.ExitEvent{
			ExitCode: code, GuestExitCode: code, GuestSignal: x.Signal, Signal: x.Signal,
			ExitedAt: x.At, OOMKilled: x.OOM, RequestedStop: requested, Restarting: restarting,
		},
	}
}

// amend adds a fact to the event of the latest start without touching the slice
// that readers may hold.
func (r *Record) amend(fact string, value any) {
	i := slices.IndexFunc(r.Events, func(e api.Event) bool { return e.Type == "start" || e.Type == "resume" })
	if i < 0 {
		return
	}
	r.Events = slices.Clone(r.Events)
	detail := map[string]any{fact: value}
	for k, v := range r.Events[i].Detail {
		detail[k] = v
	}
	r.Events[i].Detail = detail
}

// Events returns what happened to the machine, newest first. At most the latest
// fifty are kept.
func (h *Host) Events(ctx context.Context, id string) ([]api.Event, error) {
	m, err := h.find(ctx, id)
	if err != nil {
		return nil, err
	}
	return slices.Clone(m.now().rec.Events), nil
}

// Versions returns the machine's configurations, newest first.
func (h *Host) Versions(ctx context.Context, id string) ([]Version, error) {
	m, err := h.find(ctx, id)
	if err != nil {
		return nil, err
	}
	return slices.Clone(m.now().rec.Versions), nil
}
