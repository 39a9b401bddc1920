package machine

import (
	"context"
	"slices"
	"time"

	"github.com/perigee-run/perigee/api"
	"golang.org/x/sys/unix"
)

// Destroy removes a machine for good. One that runs, or sleeps with its memory
// kept, needs force.
func (h *Host) Destroy(ctx context.Context, id string, force bool, nonce string) error {
	m, err := h.find(ctx, id)
	if err != nil {
		return err
	}
	if m.now().rec.held(time.Now()) == nil {
		nonce = "" // a lease that has ended is not in the way of the end: clients release theirs before they destroy
	}
	if err := m.admits(nonce); err != nil {
		return err
	}
	if force {
		m.doom.Do(func() { close(m.hurry) })
	}
	return h.act(ctx, id, nonce, func(ctx context.Context, m *machine) error {
		if !force {
			if err := m.need("destroyed", api.StateCreated, api.StateStopped, api.StateSuspended, api.StateFailed); err != nil {
				return api.AsError(err).WithHint("stop it first, or destroy it by force")
			}
		}
		return h.raze(ctx, m)
	})
}

// raze destroys the machine, whatever its state. Once the wish is on disk, a
// crash in between only delays it.
func (h *Host) raze(ctx context.Context, m *machine) error {
	err := h.halt(ctx, m, halting{
		event: "destroy", source: byUser, during: api.StateDestroying, after: api.StateDestroying,
		desired: api.StateDestroyed, signal: int(unix.SIGKILL),
	})
	if err != nil {
		return err
	}
	if err := m.forget(ctx); err != nil {
		return internal(err, "cannot forget machine %q", m.id)
	}
	h.cfg.Volumes.Detach(ctx, m.id, nil)
	m.awaitRead()
	h.keepLayer(m.id, "")
	h.remove(h.dir(m.id))
	m.show(func(v *view) {
		v.rec.State, v.gone = api.StateDestroyed, true
		v.rec.Events = slices.Clone(v.rec.Events) // readers hold the old one
		v.rec.Events[0].Status = api.StateDestroyed
	})
	h.leave(m, true)
	return nil
}
