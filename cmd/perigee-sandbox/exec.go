package main

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/sentry/control"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/runsc/specutils"

	"github.com/perigee-run/perigee/sandbox"
)

// execution is a command that runs beside a machine's main process.
type execution struct {
	box *box
	pid int32
	// over says that the command has ended and its number may be another's.
	over atomic.Bool
}

// exec starts a command with the three files as its standard input, output and
// error.
func (s *supervisor) exec(_ context.Context, id string, e *sandbox.ExecSpec, files []*os.File) (*execution, error) {
	b, err := s.find(id)
	if err != nil {
		return nil, err
	}
	if state := b.state(); state != sandbox.StateRunning {
		return nil, fmt.Errorf("cannot run a command in %q, which is %s: %w", id, state, sandbox.ErrState)
	}
	if len(e.Args) == 0 || e.Args[0] == "" {
		return nil, invalid("cannot run a command in %q: args: give a command", id)
	}
	args, err := execArgs(b.rec.Spec, e)
	if err != nil {
		return nil, fmt.Errorf("cannot run a command in %q: %w", id, err)
	}
	args.ContainerID = b.rec.Container
	args.FilePayload = control.NewFilePayload(map[int]*os.File{0: files[0], 1: files[1], 2: files[2]}, nil)
	pid, err := b.handle().Execute(s.confFor(b.rec.Netns), args)
	if err != nil {
		return nil, fmt.Errorf("cannot run %q in %q: %w", e.Args[0], id, err)
	}
	return &execution{box: b, pid: pid}, nil
}

// execArgs fills what the command leaves open from the main process.
func execArgs(spec *sandbox.Spec, e *sandbox.ExecSpec) (*control.ExecArgs, error) {
	uid, gid, more := spec.UID, spec.GID, spec.AdditionalGIDs
	if e.User {
		uid, gid, more = e.UID, e.GID, e.AdditionalGIDs
	}
	caps, err := specutils.Capabilities(true, capabilities(uid))
	if err != nil {
		return nil, err
	}
	args := &control.ExecArgs{
		Argv: e.Args, Envv: e.Env, WorkingDirectory: e.Cwd, KUID: auth.KUID(uid), KGID: auth.KGID(gid),
		Capabilities: caps, StdioIsPty: e.Terminal, SupportTTYs: true,
	}
	if args.Envv == nil {
		args.Envv = spec.Env
	}
	if args.WorkingDirectory == "" {
		args.WorkingDirectory = spec.Cwd
	}
	if args.WorkingDirectory == "" {
		args.WorkingDirectory = "/"
	}
	for _, g := range more {
		args.ExtraKGIDs = append(args.ExtraKGIDs, auth.KGID(g))
	}
	return args, nil
}

// wait returns the command's exit code.
func (x *execution) wait() (int, error) {
	ws, err := x.box.handle().WaitPID(x.box.rec.Container, x.pid)
	x.over.Store(true)
	if err != nil {
		return -1, fmt.Errorf("cannot wait for the command: %w", err)
	}
	return exitFromStatus(ws).Code, nil
}

// signal sends sig to the command.
func (x *execution) signal(sig unix.Signal) error {
	return x.box.handle().SignalProcess(x.box.rec.Container, x.pid, sig, false)
}

// resized tells the command in front that its terminal has another size.
func (x *execution) resized() {
	_ = x.box.handle().SignalProcess(x.box.rec.Container, x.pid, unix.SIGWINCH, true)
}
