package machine

import (
	"context"
	"fmt"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/sandbox"
)

// Processes lists what runs in a started machine. The ports on which it takes
// connections stand with the first process.
func (h *Host) Processes(ctx context.Context, id string) ([]api.ProcessStat, error) {
	m, err := h.find(ctx, id)
	if err != nil {
		return nil, err
	}
	sandboxID, err := h.living(ctx, id, api.StateStarted)
	if err != nil {
		return nil, err
	}
	all, err := h.cfg.Sandbox.Processes(ctx, sandboxID)
	if err != nil {
		return nil, declined(err, id, "looked into")
	}
	out := make([]api.ProcessStat, 0, len(all))
	for _, p := range all {
		out = append(out, api.ProcessStat{PID: p.PID, Command: p.Command, User: fmt.Sprint(p.UID), CPU: cpuMillis(p.CPU), Sockets: []api.ListenSocket{}})
	}
	if len(out) > 0 {
		out[0].Sockets = h.listening(ctx, m)
	}
	return out, nil
}

// cpuMillis reads processor time as gVisor prints it.
func cpuMillis(s string) uint64 {
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0
	}
	return uint64(d.Milliseconds())
}

// Stats tells what a started or paused machine uses of the node.
func (h *Host) Stats(ctx context.Context, id string) (sandbox.Stats, error) {
	sandboxID, err := h.living(ctx, id, api.StateStarted, api.StatePaused)
	if err != nil {
		return sandbox.Stats{}, err
	}
	s, err := h.cfg.Sandbox.Stats(ctx, sandboxID)
	if err != nil {
		return s, declined(err, id, "measured")
	}
	return s, nil
}

// living returns the id of the machine's sandbox.
func (h *Host) living(ctx context.Context, id string, states ...string) (string, error) {
	m, err := h.find(ctx, id)
	if err != nil {
		return "", err
	}
	return m.now().rec.Sandbox, m.need("looked into", states...)
}
