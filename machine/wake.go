package machine

import (
	"context"
	"net/netip"
	"time"

	"github.com/perigee-run/perigee/api"
)

// wakeCall is one wake that several may wait for.
type wakeCall struct {
	done chan struct{}
	addr netip.Addr // these two are valid once done is closed
	err  error
}

// wakeTimeout bounds how long a wake may wait for other operations to end.
const wakeTimeout = time.Minute

var noAddr netip.Addr

// Wake makes sure that the machine runs and returns where the node reaches it:
// paused → resumed, suspended → restored (started cold if that fails), stopped
// → started. It needs no lease. Callers at the same time share one wake; it
// goes on when a caller leaves.
func (h *Host) Wake(ctx context.Context, id string) (netip.Addr, error) {
	m, err := h.find(ctx, id)
	if err != nil {
		return noAddr, err
	}
	c := h.joinWake(m)
	select {
	case <-c.done:
		return c.addr, c.err
	case <-ctx.Done():
		return noAddr, ctx.Err()
	}
}

// joinWake returns the wake under way, or begins one. A machine that runs
// already is awake at once.
func (h *Host) joinWake(m *machine) *wakeCall {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.wake != nil {
		return m.wake
	}
	c := &wakeCall{done: make(chan struct{})}
	if v := m.now(); v.rec.State == api.StateStarted {
		c.addr = v.addr
		close(c.done)
		return c
	}
	m.wanted, m.wake = true, c // a sleep that is under way sees it and lets go
	close(m.visited)
	if !h.spawn(func() { h.wakeUp(m, c) }) {
		m.wake, m.visited, c.err = nil, make(chan struct{}), errClosing()
		close(c.done)
	}
	return c
}

func (h *Host) wakeUp(m *machine, c *wakeCall) {
	ctx, cancel := context.WithTimeout(h.ctx, wakeTimeout)
	defer cancel()
	c.err = h.wakeInTurn(ctx, m)
	m.mu.Lock()
	v := m.now()
	c.addr, m.wake, m.visited = v.addr, nil, make(chan struct{})
	if c.err == nil && !c.addr.IsValid() {
		c.err = api.Errorf(api.CodePrecondition, "machine %q ended as soon as it ran: %s", m.id, v.rec.Standing)
	}
	m.mu.Unlock()
	close(c.done)
}

func (h *Host) wakeInTurn(ctx context.Context, m *machine) error {
	for {
		if err := m.take(ctx); err != nil {
			return err
		}
		v, changed := m.next()
		if v.rec.State != api.StateRestarting {
			break
		}
		// The process keeps ending: requests must not hasten the back-off.
		m.give()
		select {
		case <-changed:
		case <-ctx.Done():
			return api.Errorf(api.CodePrecondition, "machine %q does not stay up: %s", m.id, v.rec.Standing)
		}
	}
	defer m.give()
	return h.rouse(h.ctx, m, byRouter)
}
