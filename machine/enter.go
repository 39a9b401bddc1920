package machine

import (
	"context"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/perigee-run/perigee/api"
)

// Whose returns the org and the app of a machine.
func (h *Host) Whose(ctx context.Context, id string) (org, app string, err error) {
	m, err := h.find(ctx, id)
	if err != nil {
		return "", "", err
	}
	r := &m.now().rec
	return r.Org, r.App, nil
}

// Enter makes sure that the machine runs, for somebody who wants to come in: a
// sleeper is woken, and a stopped machine is started if a request would start
// it. Else it says what to do.
func (h *Host) Enter(ctx context.Context, id string) error {
	m, err := h.find(ctx, id)
	if err != nil {
		return err
	}
	r := m.now().rec
	switch r.State {
	case api.StateStarted:
		return nil
	case api.StateStopped:
		if !startsItself(&r.Config) {
			return api.Errorf(api.CodePrecondition, "machine %q is stopped%s", id, standing(r.Standing)).
				WithHint("start it: perigee machine start " + id + " --app " + r.App)
		}
	case api.StateCreated, api.StateFailed:
		return api.Errorf(api.CodePrecondition, "machine %q is %s%s", id, r.State, standing(r.Standing)).
			WithHint("start it: perigee machine start " + id + " --app " + r.App)
	}
	_, err = h.Wake(ctx, id)
	return err
}

// startsItself reports whether a request starts the machine when it is stopped.
func startsItself(c *api.MachineConfig) bool {
	return slices.ContainsFunc(c.Services, func(s api.Service) bool { return s.Autostart == nil || *s.Autostart })
}

// Dial connects to a port of a machine that runs. The machine stays awake until
// the connection is closed.
func (h *Host) Dial(ctx context.Context, id string, port int) (net.Conn, error) {
	m, err := h.find(ctx, id)
	if err != nil {
		return nil, err
	}
	m.busy.Add(1)
	done := sync.OnceFunc(func() { m.busy.Add(-1) })
	addr, err := h.Wake(ctx, id)
	if err != nil {
		done()
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	c, err := h.cfg.Dial(ctx, "tcp", net.JoinHostPort(addr.String(), strconv.Itoa(port)))
	if err != nil {
		done()
		return nil, api.Errorf(api.CodePrecondition, "machine %q does not take connections on port %d", id, port)
	}
	return &visit{c, done}, nil
}

// visit is a connection that keeps its machine awake.
type visit struct {
	net.Conn
	done func()
}

// Close lets the machine sleep again.
func (v *visit) Close() error {
	v.done()
	return v.Conn.Close()
}

// CloseWrite passes the end of one direction on.
func (v *visit) CloseWrite() error {
	if half, ok := v.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// Words splits a line at spaces as a shell would, with its quotes and
// backslashes, and no expansions.
func Words(line string) ([]string, error) { return splitWords(line) }
