package machine

import (
	"context"
	"errors"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/machine/rules"
	"github.com/perigee-run/perigee/sandbox"
)

// Memory tells how much memory a machine may hold and how much of it is free.
func (h *Host) Memory(ctx context.Context, id string) (api.MachineMemory, error) {
	m, err := h.find(ctx, id)
	if err != nil {
		return api.MachineMemory{}, err
	}
	s, err := h.Stats(ctx, id)
	if err != nil {
		return api.MachineMemory{}, err
	}
	limit := m.limit()
	return api.MachineMemory{LimitMB: limit, AvailableMB: max(0, limit-int(s.MemoryBytes>>20))}, nil
}

// limit is how many MiB the machine may hold now.
func (m *machine) limit() int {
	r := &m.now().rec
	if r.MemoryMB != 0 {
		return r.MemoryMB
	}
	return rules.Guest(&r.Config).MemoryMB
}

// SetMemory bounds a running machine's memory anew, up to guest.max_memory_mb, until it
// starts the next time.
func (h *Host) SetMemory(ctx context.Context, id string, mb int, nonce string) error {
	return h.act(ctx, id, nonce, func(ctx context.Context, m *machine) error {
		if err := m.need("given memory", api.StateStarted, api.StatePaused); err != nil {
			return err
		}
		g := rules.Guest(&m.now().rec.Config)
		if most := max(g.MemoryMB, g.MaxMemoryMB); mb < rules.MinMemoryMB || mb > most {
			return invalid("limit_mb", "is %d; for machine %q it can be %d to %d", mb, id, rules.MinMemoryMB, most).
				WithHint("guest.max_memory_mb says how far it may go")
		}
		h.raising.Lock() // one that asks sees what the one before was given
		defer h.raising.Unlock()
		if more := mb - m.limit(); more > 0 {
			if err := h.cfg.Room(more); err != nil {
				return err
			}
		}
		err := h.cfg.Sandbox.Limit(ctx, m.life.id, mb)
		if errors.Is(err, sandbox.ErrState) {
			return api.Errorf(api.CodePrecondition, "machine %q cannot be limited to %d MiB: it holds more", id, mb)
		}
		if err != nil {
			return declined(err, id, "given memory")
		}
		m.record(func(v *view) { v.rec.MemoryMB = mb })
		return m.sync(ctx)
	})
}

// ReclaimMemory takes back memory that a running machine can do without, and returns
// how many MiB that were.
func (h *Host) ReclaimMemory(ctx context.Context, id string, mb int, nonce string) (freed int, err error) {
	if mb < 1 {
		return 0, invalid("amount_mb", "is %d; the least is 1", mb)
	}
	err = h.act(ctx, id, nonce, func(ctx context.Context, m *machine) error {
		if err := m.need("asked for memory", api.StateStarted, api.StatePaused); err != nil {
			return err
		}
		n, err := h.cfg.Sandbox.Reclaim(ctx, m.life.id, min(mb, m.limit()))
		if err != nil {
			return declined(err, id, "asked for memory")
		}
		freed = int(n >> 20)
		return nil
	})
	return freed, err
}
