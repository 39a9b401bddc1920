package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/perigee-run/perigee/api"
	"github.com/spf13/cobra"
	gossh "golang.org/x/crypto/ssh"
	"golang.org/x/term"
)

func sshCmd(e *env) *cobra.Command {
	c := parent("ssh", "Get into machines: a shell, a command, files", nil, sshConsoleCmd(e, "console"), sftpCmd(e), sshIssueCmd(e), sshConfigCmd(e), sshProxyCmd(e))
	c.Long = `Get into machines by SSH. It needs no sshd and no shell in the image, wakes
machines that sleep, and leaves an event at the machine (perigee machine
events). Each call gets a certificate for an hour; perigee ssh issue makes one
that stock ssh, scp and sftp use.`
	return c
}

// sshFlags say where to go and what to run there.
type sshFlags struct {
	machine string
	user    string
	pick    bool
	command string
	env     []string
	pty     bool
	noPTY   bool
}

func (f *sshFlags) where(c *cobra.Command) {
	fl := c.Flags()
	fl.StringVarP(&f.machine, "machine", "m", "", "machine to enter (default: the first that runs, else the first)")
	fl.BoolVarP(&f.pick, "select", "s", false, "choose the machine from a list")
	fl.StringVarP(&f.user, "user", "u", "root", "user of the machine to become")
}

// sshConsoleCmd is a shell or a command. It is there as perigee console too.
func sshConsoleCmd(e *env, name string) *cobra.Command {
	var f sshFlags
	c := &cobra.Command{
		Use: name, Short: "Open a shell in a machine, or run a command by SSH", Args: noArgs,
		Long: `Open a shell in a machine, bash if it has one, or run a command, and end with its
exit code: 127 where there is no such program, 255 where nothing could be run.
Input and output are connected here, and where there is a terminal its keys and
its size are handed on. A sleeping machine is woken. Where the image has no
shell, a command is taken as plain words.`,
		Example: "  perigee ssh console --app shop\n  perigee ssh console -a shop -C 'ls -l /app'\n  pg_dump shop | perigee ssh console -a db -C 'psql shop'",
		RunE: func(c *cobra.Command, _ []string) error {
			if f.pty && f.noPTY {
				return usagef("--pty and --no-pty exclude each other")
			}
			return e.console(c.Context(), f)
		},
	}
	f.where(c)
	c.RegisterFlagCompletionFunc("machine", e.completeMachines)
	fl := c.Flags()
	fl.StringVarP(&f.command, "command", "C", "", "run this instead of a shell (default: console_command of the configuration)")
	fl.StringArrayVarP(&f.env, "env", "e", nil, "NAME=VALUE beside the machine's environment, many times")
	fl.BoolVarP(&f.pty, "pty", "t", false, "with a terminal, also for a command (default: for a shell, where this command has one)")
	fl.BoolVarP(&f.noPTY, "no-pty", "T", false, "without a terminal")
	return c
}

func (e *env) console(ctx context.Context, f sshFlags) error {
	vars, err := mergePairs("--env", nil, f.env)
	if err != nil {
		return err
	}
	if cfg, _, err := e.loadConfig("."); err == nil && f.command == "" {
		f.command = cfg.ConsoleCommand
		f.pty = f.pty || f.command != "" && !f.noPTY && e.asks()
	}
	there, err := e.sshInto(ctx, f)
	if err != nil {
		return err
	}
	defer there.Close()
	s, err := there.NewSession()
	if err != nil {
		return fmt.Errorf("cannot begin a session: %w", err)
	}
	defer s.Close()
	for k, v := range vars {
		if err := s.Setenv(k, v); err != nil {
			return usagef("machine refuses the variable %q", k)
		}
	}
	restore := func() {}
	if !f.noPTY && (f.pty || f.command == "" && tty(e.Out)) && e.asks() {
		if restore, err = e.sshTerminal(ctx, s); err != nil {
			return err
		}
	}
	defer restore()
	return e.whyEnded(ctx, sessionEnd(e.runSession(s, f.command)))
}

// runSession runs a command, or a shell, to its end. Standard input is read
// beside it: a read from a terminal cannot be interrupted.
func (e *env) runSession(s *gossh.Session, command string) error {
	s.Stdout, s.Stderr = e.Out, e.Err
	in, err := s.StdinPipe()
	if err != nil {
		return err
	}
	if command == "" {
		err = s.Shell()
	} else {
		err = s.Start(command)
	}
	if err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(in, e.In)
		in.Close()
	}()
	return s.Wait()
}

// sessionEnd turns the end of a session into the command's.
func sessionEnd(err error) error {
	var exit *gossh.ExitError
	var missing *gossh.ExitMissingError
	switch {
	case errors.As(err, &exit):
		return exitError{exit.ExitStatus()}
	case errors.As(err, &missing):
		return hint(unreachable{errors.New("the session broke off: the machine's node does not answer any more")}, "perigee machine list shows how the machine is; it runs on without its node's daemon")
	}
	return err
}

// sshTerminal hands keys and sizes of this terminal on as they are.
func (e *env) sshTerminal(ctx context.Context, s *gossh.Session) (restore func(), err error) {
	fd := int(e.In.(*os.File).Fd())
	cols, rows, err := term.GetSize(fd)
	if err != nil {
		return nil, fmt.Errorf("cannot read the terminal's size: %w", err)
	}
	if err := s.RequestPty(first(os.Getenv("TERM"), "xterm-256color"), rows, cols, gossh.TerminalModes{}); err != nil {
		return nil, fmt.Errorf("cannot get a terminal in the machine: %w", err)
	}
	old, err := term.MakeRaw(fd)
	if err != nil {
		return nil, fmt.Errorf("cannot set the terminal up: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		sizes := watchSize(ctx, fd)
		for {
			select {
			case size := <-sizes:
				_ = s.WindowChange(int(size.Rows), int(size.Cols)) // a broken session shows elsewhere
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() {
		cancel()
		term.Restore(fd, old)
	}, nil
}

// sshTarget is the machine to enter.
func (e *env) sshTarget(ctx context.Context, client *api.Client, app string, f sshFlags) (string, error) {
	if !f.pick {
		return e.execTarget(ctx, client, app, f.machine)
	}
	if f.machine != "" {
		return "", usagef("--machine and --select exclude each other")
	}
	if !e.asks() {
		return "", hint(usagef("--select needs a terminal to ask on"), "name the machine with --machine")
	}
	machines, err := client.ListMachines(ctx, app)
	if err != nil {
		return "", err
	}
	for i, m := range machines {
		fmt.Fprintf(e.Err, "%3d  %s  %s  %s  %s\n", i+1, m.ID, plain(m.Name), m.Region, m.State)
	}
	fmt.Fprint(e.Err, "Which one? ")
	var n int
	if _, err := fmt.Fscanln(e.In, &n); err != nil || n < 1 || n > len(machines) {
		return "", usagef("that is none of 1 to %d", len(machines))
	}
	return machines[n-1].ID, nil
}

// sshHost reads the names by which ssh's configuration calls machines:
// ID.vm.APP.internal, or APP.internal for any machine of an app.
func sshHost(host string) (app, id string, err error) {
	name, ok := strings.CutSuffix(strings.TrimSuffix(host, "."), ".internal")
	if ok && name != "" {
		if id, app, both := strings.Cut(name, ".vm."); both && id != "" && app != "" && !strings.Contains(app, ".") {
			return app, id, nil
		}
		if !strings.Contains(name, ".") {
			return name, "", nil
		}
	}
	return "", "", hint(usagef("%q names no machine", host), "use ID.vm.APP.internal, or APP.internal for the first machine that runs")
}
