package machine

import (
	"context"
	"io"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/sandbox"
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

// Dial connects to a port of a machine that runs: from outside, or where nothing
// listens there, on the machine's own loopback. The machine stays awake until the
// connection is closed.
func (h *Host) Dial(ctx context.Context, id string, port int) (io.ReadWriteCloser, error) {
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
	outside, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	c, err := h.cfg.Dial(outside, "tcp", net.JoinHostPort(addr.String(), strconv.Itoa(port)))
	if err == nil {
		return &visit{c, done}, nil
	}
	defer done() // a program of ours keeps the machine awake by itself
	return h.dialInside(ctx, id, port)
}

// dialTimeout is how long a port may take to answer.
const dialTimeout = 5 * time.Second

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

// dialInside reaches a port of the loopback by a program of ours in the machine.
func (h *Host) dialInside(ctx context.Context, id string, port int) (io.ReadWriteCloser, error) {
	ctx, cancel := context.WithCancel(ctx)
	stdin, feed := io.Pipe()
	out, stdout := io.Pipe()
	spec := ExecSpec{Program: string(sandbox.ProgramDial), Command: []string{strconv.Itoa(port)}}
	go func() {
		_, err := h.execStream(ctx, id, spec, sandbox.Streams{Stdin: stdin, Stdout: stdout})
		stdin.Close()
		stdout.CloseWithError(err) // nil is the end
	}()
	v := &inside{out, feed, cancel}
	if n, err := io.ReadFull(out, make([]byte, 1)); n == 1 {
		return v, nil
	} else if isAPI(err) {
		v.Close()
		return nil, err
	}
	v.Close()
	return nil, api.Errorf(api.CodePrecondition, "machine %q does not take connections on port %d", id, port)
}

// inside is a connection by a program in the machine.
type inside struct {
	io.Reader
	in     *io.PipeWriter
	cancel context.CancelFunc
}

// Write sends to the port.
func (v *inside) Write(b []byte) (int, error) { return v.in.Write(b) }

// CloseWrite passes the end of what is sent on.
func (v *inside) CloseWrite() error { return v.in.Close() }

// Close ends the program.
func (v *inside) Close() error {
	v.cancel()
	v.in.Close()
	return v.Reader.(*io.PipeReader).Close()
}

// Words splits a line at spaces as a shell would, with its quotes and
// backslashes, and no expansions.
func Words(line string) ([]string, error) { return splitWords(line) }
