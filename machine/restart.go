package machine

import (
	"context"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/machine/rules"
	"golang.org/x/sys/unix"
)

// RestartOptions say how the old process ends.
type RestartOptions struct {
	Force   bool // by SIGKILL, at once
	Timeout *api.Duration
	Signal  string
}

// Restart ends the machine's process and starts the machine anew.
func (h *Host) Restart(ctx context.Context, id string, o RestartOptions, nonce string) error {
	req := api.StopRequest{Signal: api.SignalName(o.Signal), Timeout: o.Timeout}
	if err := rules.Stop(o.Signal, o.Timeout); err != nil {
		return err
	}
	return h.act(ctx, id, nonce, func(ctx context.Context, m *machine) error {
		if err := m.need("restarted", api.StateStarted, api.StatePaused, api.StateSuspended, api.StateStopped,
			api.StateFailed, api.StateRestarting); err != nil {
			return err
		}
		hg := m.stopping(req, byUser)
		hg.event, hg.during, hg.after, hg.desired = "restart", api.StateRestarting, api.StateRestarting, api.StateStarted
		if o.Force {
			hg.signal, hg.timeout = int(unix.SIGKILL), 0
		}
		if err := h.halt(ctx, m, hg); err != nil {
			return err
		}
		if err := h.launch(ctx, m, byUser); err != nil {
			return err
		}
		return m.sync(ctx)
	})
}
