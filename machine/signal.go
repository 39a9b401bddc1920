package machine

import (
	"context"
	"strconv"
	"strings"
	"syscall"

	"github.com/perigee-run/perigee/api"
	"golang.org/x/sys/unix"
)

const maxSignal = 64

// parseSignal takes SIGTERM, TERM, term or 15.
func parseSignal(field, s string) (int, error) {
	if n, err := strconv.Atoi(s); err == nil && n >= 1 && n <= maxSignal && strconv.Itoa(n) == s {
		return n, nil
	}
	name := strings.ToUpper(s)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if n := unix.SignalNum(name); n != 0 {
		return int(n), nil
	}
	return 0, invalid(field, "there is no signal %q; use a name such as SIGTERM or a number of 1 to 64", s)
}

func signalName(n int) string {
	if s := unix.SignalName(syscall.Signal(n)); s != "" {
		return s
	}
	return "signal " + strconv.Itoa(n)
}

// Signal sends a signal to the machine's first process.
func (h *Host) Signal(ctx context.Context, id string, req api.SignalRequest, nonce string) error {
	sig, err := parseSignal("signal", req.Signal)
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
