package machine

import (
	"context"
	"strconv"
	"syscall"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/machine/rules"
	"golang.org/x/sys/unix"
)

func signalName(n int) string {
	if s := unix.SignalName(syscall.Signal(n)); s != "" {
		return s
	}
	return "signal " + strconv.Itoa(n)
}

// Signal sends a signal to the machine's first process.
func (h *Host) Signal(ctx context.Context, id string, req api.SignalRequest, nonce string) error {
	sig, err := rules.Signal("signal", string(req.Signal))
	if err != nil {
		return err
	}
	return h.act(ctx, id, nonce, func(ctx context.Context, m *machine) error {
		if err := m.need("signalled", api.StateStarted); err != nil {
			return err
		}
		if err := h.signal(ctx, m.life, sig); err != nil {
			return declined(err, id, "signalled")
		}
		return nil
	})
}
