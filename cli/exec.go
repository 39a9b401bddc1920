package cli

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/perigee-run/perigee/api"
	"github.com/spf13/cobra"
	"golang.org/x/term"
)

type execFlags struct {
	machine string
	user    string
	dir     string
	env     []string
	tty     bool
	noTTY   bool
}

func (f *execFlags) register(c *cobra.Command) {
	fl := c.Flags()
	fl.StringVarP(&f.machine, "machine", "m", "", "machine to run it in (default: the first that runs, else the first)")
	fl.StringVarP(&f.user, "user", "u", "", "user to run it as (default: the machine's)")
	fl.StringVarP(&f.dir, "workdir", "w", "", "folder to run it in (default: the machine's)")
	fl.StringArrayVarP(&f.env, "env", "e", nil, "NAME=VALUE beside the machine's environment, many times")
	fl.BoolVarP(&f.tty, "tty", "t", false, "with a terminal (default: where this command has one)")
	fl.BoolVarP(&f.noTTY, "no-tty", "T", false, "without a terminal")
}

func execCmd(e *env) *cobra.Command {
	var f execFlags
	c := &cobra.Command{
		Use: "exec [flags] -- COMMAND [ARG ...]", Short: "Run a command in a machine",
		Long: `Run a command in a machine, with its input and output connected here. The exit
code is the command's, 127 where the machine has no such program, and 126
where the program may not be run. A paused or suspended machine is woken; a
stopped one has to be started first.`,
		Example: "  perigee exec -- ls -l /app\n  perigee exec --machine 3d8d -- sh -c 'echo $FLY_REGION'\n  echo 'select 1' | perigee exec -a db -- psql",
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return hint(usagef("%s needs a command", c.CommandPath()), "for example: perigee exec -- ls -l")
			}
			if c.ArgsLenAtDash() > 0 {
				return hint(usagef("%q stands before --, where %s takes flags only", args[0], c.CommandPath()), "to name a machine, use --machine %s, or perigee machine exec", args[0])
			}
			return e.exec(c.Context(), f, args)
		},
	}
	f.register(c)
	return c
}

// machineExecCmd is exec as the other machine verbs are: the machine first.
func machineExecCmd(e *env) *cobra.Command {
	var f execFlags
	c := &cobra.Command{
		Use: "exec ID -- COMMAND [ARG ...]", Short: "Run a command in a machine", ValidArgsFunction: e.completeMachines,
		Example: "  perigee machine exec 3d8d9014b32789 -- ls -l /app",
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) < 2 {
				return hint(usagef("%s needs a machine and a command", c.CommandPath()), "usage: %s", c.UseLine())
			}
			f.machine = args[0]
			return e.exec(c.Context(), f, args[1:])
		},
	}
	f.register(c)
	c.Flags().MarkHidden("machine")
	return c
}

// What a shell ends with for a program that is not there, or is none.
const (
	exitNoProgram  = 127
	exitNotAllowed = 126
)

// execFault explains why a command did not run at all.
func (e *env) execFault(err error, app, id string) error {
	var a *api.Error
	switch {
	case !errors.As(err, &a):
	case a.Field == "command" && a.Code == api.CodeUnsupported:
		return coded{err, exitNotAllowed}
	case a.Field == "command":
		return coded{err, exitNoProgram}
	case a.Code == api.CodePrecondition:
		return hint(err, "perigee machine start %s --app %s", id, app)
	}
	return e.explain(err)
}

func (e *env) exec(ctx context.Context, f execFlags, command []string) error {
	vars, err := mergePairs("--env", nil, f.env)
	if err != nil {
		return err
	}
	client, app, err := e.forApp()
	if err != nil {
		return err
	}
	id, err := e.execTarget(ctx, client, app, f.machine)
	if err != nil {
		return e.explain(err)
	}
	req := api.ExecStreamRequest{Command: command, Env: vars, User: f.user, Dir: f.dir, TTY: !f.noTTY && (f.tty || e.asks() && tty(e.Out))}
	streams := api.ExecIO{Stdin: e.In, Stdout: e.Out, Stderr: e.Err}
	if req.TTY && e.asks() {
		restore, err := e.rawTerminal(ctx, &req, &streams)
		if err != nil {
			return err
		}
		defer restore()
	}
	exit, err := client.ExecStream(ctx, app, id, req, streams)
	if err != nil {
		return e.execFault(brokenOff(err), app, id)
	}
	if exit.ExitCode != 0 {
		return exitError{exit.ExitCode}
	}
	return nil
}

// execTarget chooses the machine: the named one, else one that runs, else any.
func (e *env) execTarget(ctx context.Context, c *api.Client, app, id string) (string, error) {
	if id != "" {
		return e.machineID(ctx, c, app, id)
	}
	machines, err := c.ListMachines(ctx, app)
	if err != nil {
		return "", err
	}
	if len(machines) == 0 {
		return "", hint(fmt.Errorf("app %s has no machine", app), "perigee deploy makes one")
	}
	for _, m := range machines {
		if m.State == api.StateStarted {
			return m.ID, nil
		}
	}
	return machines[0].ID, nil
}

// rawTerminal hands keys and sizes of this terminal on as they are.
func (e *env) rawTerminal(ctx context.Context, req *api.ExecStreamRequest, s *api.ExecIO) (func(), error) {
	fd := int(e.In.(*os.File).Fd())
	cols, rows, err := term.GetSize(fd)
	if err != nil {
		return nil, fmt.Errorf("cannot read the terminal's size: %w", err)
	}
	req.Size = &api.TerminalSize{Cols: uint16(cols), Rows: uint16(rows)}
	if t := os.Getenv("TERM"); t != "" {
		if req.Env == nil {
			req.Env = map[string]string{}
		}
		req.Env["TERM"] = t
	}
	old, err := term.MakeRaw(fd)
	if err != nil {
		return nil, fmt.Errorf("cannot set the terminal up: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	s.Resize = watchSize(ctx, fd)
	return func() {
		cancel()
		term.Restore(fd, old)
	}, nil
}
