package main

import (
	"context"
	"fmt"
	"os"

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
	// over is closed when the command has ended and its number may be another's.
	over chan struct{}
}

// exec starts a command with the three files as its standard input, output and
// error.
func (s *supervisor) exec(_ context.Context, id string, e *sandbox.ExecSpec, files []*os.File) (*execution, error) {
	b, err := s.find(id)
	if err != nil {
		return nil, err
	}
	if e.Program != "" { // no save begins between the look at the state and the entry in the list
		b.opMu.Lock()
		defer b.opMu.Unlock()
	}
	if state := b.state(); state != sandbox.StateRunning {
		return nil, fmt.Errorf("cannot run a command in %q, which is %s: %w", id, state, sandbox.ErrState)
	}
	program, argv, err := s.commandOf(e)
	if err != nil {
		return nil, fmt.Errorf("cannot run a command in %q: %w", id, err)
	}
	defer program.Close() // of none too
	args, err := execArgs(b.rec.Spec, e)
	if err != nil {
		return nil, fmt.Errorf("cannot run a command in %q: %w", id, err)
	}
	args.Argv, args.ContainerID = argv, b.rec.Container
	args.FilePayload = control.NewFilePayload(map[int]*os.File{0: files[0], 1: files[1], 2: files[2]}, program)
	pid, err := b.handle().Execute(s.confFor(b.rec.Netns), args)
	if err != nil {
		return nil, fmt.Errorf("cannot run %q in %q: %w", argv[0], id, err)
	}
	x := &execution{box: b, pid: pid, over: make(chan struct{})}
	if e.Program != "" {
		b.addGuest(x)
	}
	return x, nil
}

// commandOf is what e runs: a file of ours, or nil for a program of the
// machine's own, and the arguments from the program's name on.
func (s *supervisor) commandOf(e *sandbox.ExecSpec) (*os.File, []string, error) {
	if e.Program != "" {
		f, err := openGuest(e.Program)
		return f, append([]string{guestName, string(e.Program)}, e.Args...), err
	}
	if len(e.Args) == 0 || e.Args[0] == "" {
		return nil, nil, invalid("args: give a command")
	}
	return nil, e.Args, nil
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
		Envv: e.Env, WorkingDirectory: e.Cwd, KUID: auth.KUID(uid), KGID: auth.KGID(gid),
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
	x.box.forgetGuest(x)
	close(x.over)
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
