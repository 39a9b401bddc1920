package httpapi

import (
	"context"
	"encoding/json"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/machine"
	"github.com/perigee-run/perigee/sandbox"
)

const (
	// execStart is how long a client may take to say what it wants to run.
	execStart = 10 * time.Second
	// execFrame is the most bytes of one message.
	execFrame = 1<<20 + 1
)

// webSocket makes a WebSocket of the call. Without one and without an error the caller has
// been answered.
func (c *call) webSocket() (*websocket.Conn, error) {
	if !strings.EqualFold(c.r.Header.Get("Upgrade"), "websocket") {
		return nil, api.Errorf(api.CodeBadRequest, "%s is a WebSocket, and the request has no such Upgrade", c.route.id).WithHint("use a WebSocket client")
	}
	conn, err := websocket.Accept(c.w, c.r, nil)
	if err != nil {
		return nil, nil
	}
	return conn, nil
}

// execStream runs a command over a WebSocket; api/exec.go says how they talk.
func (s *Server) execStream(c *call) error {
	id, err := s.id(c)
	if err != nil {
		return err
	}
	conn, err := c.webSocket()
	if conn == nil {
		return err
	}
	defer conn.CloseNow()
	conn.SetReadLimit(execFrame)
	ctx, cancel := context.WithCancel(c.r.Context())
	defer cancel()
	x := &execution{may: c.mayRun, ctx: ctx, cancel: cancel, conn: conn, sizes: make(chan sandbox.Size, 1)}
	exit := x.run(s.cfg.Machines, id)
	if exit.Error != nil {
		c.code = exit.Error.Code
	}
	b, err := json.Marshal(exit)
	if err == nil {
		_ = x.frame(api.FrameExit, b) // the client may be gone
	}
	conn.Close(websocket.StatusNormalClosure, "") // waits for the client's, a few seconds at most
	cancel()
	x.listener.Wait()
	return nil
}

// execution is one command on a WebSocket.
type execution struct {
	ctx    context.Context
	cancel context.CancelFunc
	may    func(command []string, altered bool) error
	conn   *websocket.Conn
	sizes  chan sandbox.Size

	listener sync.WaitGroup
}

func (x *execution) run(m Machines, id string) api.ExecExit {
	req, err := x.request()
	if err != nil {
		return api.ExecExit{ExitCode: -1, Error: api.AsError(err)}
	}
	if err := x.may(req.Command, len(req.Env) > 0 || req.User != "" || req.Dir != "" || req.Program != ""); err != nil {
		return api.ExecExit{ExitCode: -1, Error: api.AsError(err)}
	}
	spec := machine.ExecSpec{Command: req.Command, Program: req.Program, Env: req.Env, Dir: req.Dir, User: req.User, Terminal: req.TTY}
	if req.Size != nil {
		spec.Size = sandbox.Size{Rows: req.Size.Rows, Cols: req.Size.Cols}
	}
	stdin, feed := io.Pipe()
	x.listener.Go(func() { x.listen(feed) })
	code, err := m.ExecStream(x.ctx, id, spec, sandbox.Streams{
		Stdin: stdin, Stdout: output{x, api.FrameStdout}, Stderr: output{x, api.FrameStderr}, Resize: x.sizes,
	})
	stdin.Close()
	if err != nil {
		return api.ExecExit{ExitCode: -1, Error: api.AsError(err)}
	}
	exit := api.ExecExit{ExitCode: code}
	if code > 128 {
		exit.ExitSignal = code - 128
	}
	return exit
}

// request reads the first message.
func (x *execution) request() (api.ExecStreamRequest, error) {
	var req api.ExecStreamRequest
	ctx, cancel := context.WithTimeout(x.ctx, execStart)
	defer cancel()
	kind, b, err := x.conn.Read(ctx)
	if err != nil {
		return req, api.Errorf(api.CodeBadRequest, "the exec stream has no first message: %v", err)
	}
	if kind != websocket.MessageText {
		return req, api.Errorf(api.CodeBadRequest, "the first message of an exec stream must be text: what to run, in JSON")
	}
	if _, err := check(b, &req); err != nil {
		return req, err
	}
	if len(req.Command) == 0 && req.Program == "" {
		return req, invalid("command", "no command is given")
	}
	return req, nil
}

// listen takes what the client sends until it hangs up, which ends the command.
func (x *execution) listen(stdin *io.PipeWriter) {
	defer x.cancel()
	defer stdin.Close()
	for {
		kind, b, err := x.conn.Read(x.ctx)
		if err != nil {
			return
		}
		if kind == websocket.MessageBinary {
			x.take(b, stdin)
		}
	}
}

// take does what a frame says; one of no known kind says nothing.
func (x *execution) take(b []byte, stdin io.WriteCloser) {
	switch {
	case len(b) == 0:
	case b[0] == api.FrameResize:
		x.resize(b[1:])
	case b[0] == api.FrameStdin && len(b) == 1:
		stdin.Close()
	case b[0] == api.FrameStdin:
		_, _ = stdin.Write(b[1:]) // a command that reads no more is not at fault
	}
}

func (x *execution) resize(b []byte) {
	var s api.TerminalSize
	if json.Unmarshal(b, &s) != nil {
		return
	}
	select {
	case <-x.sizes: // only the latest size counts
	default:
	}
	select {
	case x.sizes <- sandbox.Size{Rows: s.Rows, Cols: s.Cols}:
	default:
	}
}

func (x *execution) frame(kind byte, b []byte) error {
	return x.conn.Write(x.ctx, websocket.MessageBinary, append([]byte{kind}, b...))
}

// output sends what a command writes.
type output struct {
	x    *execution
	kind byte
}

// Write sends b as one frame.
func (o output) Write(b []byte) (int, error) {
	if err := o.x.frame(o.kind, b); err != nil {
		return 0, err
	}
	return len(b), nil
}
