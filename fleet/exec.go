package fleet

import (
	"context"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/machine"
	"github.com/perigee-run/perigee/sandbox"
)

// Exec runs a command in a running machine and returns what it wrote.
func (f *Fleet) Exec(ctx context.Context, id string, req api.ExecRequest) (r api.ExecResponse, err error) {
	err = f.onOnce(ctx, id, "", func() (err error) { r, err = f.cfg.Local.Exec(ctx, id, req); return err },
		func(ctx context.Context, c *api.Client, app string) (err error) {
			r, err = c.Exec(ctx, app, id, req)
			return err
		})
	return r, err
}

// ExecStream runs a command in a running machine with the caller's streams and
// returns its exit code. The command is killed when ctx ends, and when the
// connection to its node breaks.
func (f *Fleet) ExecStream(ctx context.Context, id string, spec machine.ExecSpec, streams sandbox.Streams) (code int, err error) {
	code = -1
	err = f.onOnce(ctx, id, "", func() (err error) { code, err = f.cfg.Local.ExecStream(ctx, id, spec, streams); return err },
		func(ctx context.Context, c *api.Client, app string) error {
			exit, err := execThere(ctx, c, app, id, spec, streams)
			if err == nil {
				code = exit.ExitCode
			}
			return err
		})
	return code, err
}

func execThere(ctx context.Context, c *api.Client, app, id string, spec machine.ExecSpec, streams sandbox.Streams) (api.ExecExit, error) {
	req := api.ExecStreamRequest{Command: spec.Command, Program: spec.Program, Env: spec.Env, User: spec.User, Dir: spec.Dir, TTY: spec.Terminal}
	if spec.Size != (sandbox.Size{}) {
		req.Size = &api.TerminalSize{Rows: spec.Size.Rows, Cols: spec.Size.Cols}
	}
	ctx, cancel := context.WithCancel(ctx)
	sizes, done := translate(ctx, streams.Resize)
	exit, err := c.ExecStream(ctx, app, id, req, api.ExecIO{Stdin: streams.Stdin, Stdout: streams.Stdout, Stderr: streams.Stderr, Resize: sizes})
	cancel()
	<-done
	return exit, err
}

// translate puts terminal sizes into the API's words, until ctx ends.
func translate(ctx context.Context, in <-chan sandbox.Size) (out chan api.TerminalSize, done chan struct{}) {
	out, done = make(chan api.TerminalSize), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case s, ok := <-in: // never, if it is nil
				if !ok {
					return
				}
				select {
				case out <- api.TerminalSize{Rows: s.Rows, Cols: s.Cols}:
				case <-ctx.Done():
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return out, done
}
