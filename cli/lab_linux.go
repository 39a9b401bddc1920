package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"github.com/perigee-run/perigee/internal/exit"
	"github.com/perigee-run/perigee/lab"
	"github.com/perigee-run/perigee/lab/control"
	"github.com/perigee-run/perigee/lab/fabric"
	"github.com/perigee-run/perigee/lab/space"
)

func (e *env) labUp(ctx context.Context, f labFlags) error {
	if os.Geteuid() != 0 {
		return hint(fmt.Errorf("cannot make a lab as user %d: it makes namespaces and network devices", os.Geteuid()), "run it with sudo")
	}
	if f.nodes < 0 || f.nodes > 100 {
		return usagef("cannot start %d nodes in every city: want up to 100", f.nodes)
	}
	if err := fabric.CheckCities(f.cities); err != nil {
		return usageError{err}
	}
	if f.foreground {
		return e.labRun(ctx, f)
	}
	if _, err := control.NewClient(f.dir).Status(ctx); err == nil {
		return coded{hint(fmt.Errorf("a lab runs already in %s", f.dir), "perigee lab status shows it; perigee lab down ends it"), exit.Conflict}
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	began := time.Now()
	_ = os.Remove(labLog(f.dir)) // an earlier lab's
	log, cmd, err := startDetached(self, f.args(), labLog(f.dir))
	if err != nil {
		return err
	}
	s, err := e.awaitLab(ctx, f, cmd)
	if err != nil {
		return hint(fmt.Errorf("the lab did not start: %w%s", err, tail(log, 4)), "the whole log is in %s", log)
	}
	if e.json {
		return e.printJSON(s)
	}
	fmt.Fprintf(e.Out, "%s a lab of %d cities is up after %s\n", e.paint(green, "✓"), len(s.Cities), time.Since(began).Round(time.Millisecond))
	return e.labStatus(s)
}

func (f labFlags) args() []string {
	a := []string{"lab", "up", "--foreground", "--dir", f.dir, "--nodes", strconv.Itoa(f.nodes), "--timeout", f.timeout.String(),
		"--visitors=" + strconv.FormatBool(f.visitors), "--keep=" + strconv.FormatBool(f.keep)}
	for _, c := range f.cities {
		a = append(a, "--cities", c)
	}
	return append(append(a, "--"), f.more...)
}

// awaitLab waits until the lab answers, which it does when all is there. One
// that does not is ended: it would come up behind the user's back.
func (e *env) awaitLab(ctx context.Context, f labFlags, cmd *exec.Cmd) (control.Status, error) {
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	for {
		if s, err := control.NewClient(f.dir).Status(ctx); err == nil {
			return s, nil
		}
		select {
		case err := <-exited:
			return control.Status{}, errors.Join(errors.New("it ended at once"), err)
		case <-ctx.Done():
			_ = cmd.Process.Signal(os.Interrupt)
			<-exited
			return control.Status{}, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// labRun is the lab itself.
func (e *env) labRun(ctx context.Context, f labFlags) (err error) {
	logger := slog.New(slog.NewTextHandler(e.Err, nil))
	l, err := lab.New(ctx, lab.Config{Cities: f.cities, Dir: f.dir, Keep: f.keep, Logger: logger})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	if err := populate(ctx, l, f); err != nil {
		return err
	}
	settle, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	if err := l.Settle(settle); err != nil {
		return err
	}
	fmt.Fprintf(e.Err, "a lab of %d cities is up in %s\n", len(f.cities), f.dir)
	return l.Serve(ctx)
}

func populate(ctx context.Context, l *lab.Lab, f labFlags) error {
	for _, city := range f.cities {
		if f.visitors {
			if _, err := l.AddHost(lab.VisitorName(city), city); err != nil {
				return err
			}
		}
	}
	return startNodes(ctx, l, f)
}

// startNodes starts one node, and lets the others join it.
func startNodes(ctx context.Context, l *lab.Lab, f labFlags) error {
	var first *lab.Node
	for range f.nodes {
		for _, city := range f.cities {
			cfg := lab.NodeConfig{City: city, Args: f.more}
			var err error
			if first != nil && !l.HasData(city) {
				if cfg.Join, err = first.JoinThis(ctx); err != nil {
					return err
				}
			}
			n, err := l.StartNode(ctx, cfg)
			if err != nil {
				return err
			}
			if first == nil {
				first = n
			}
		}
	}
	return nil
}

// labDown ends a lab, or removes what a killed one left.
func (e *env) labDown(ctx context.Context, dir string, keep bool) error {
	err := control.NewClient(dir).Down(ctx)
	if err != nil && !errors.Is(err, control.ErrNoLab) {
		return err
	}
	ran := err == nil
	for range 600 {
		if free, err := lab.Sweep(dir, keep || ran); free || err != nil {
			return errors.Join(err, e.labGone(dir, ran, err))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
	return fmt.Errorf("the lab in %s did not end within 30 seconds", dir)
}

func (e *env) labGone(dir string, ran bool, err error) error {
	if err != nil {
		return err
	}
	_ = os.Remove(labLog(dir))
	if !ran {
		return e.did("no lab runs in %s, and nothing of one is left", dir)
	}
	return e.did("the lab is gone")
}

func (e *env) labExec(ctx context.Context, dir, name string, args []string) error {
	s, err := control.NewClient(dir).Status(ctx)
	if err != nil {
		return labFault(err)
	}
	h, err := labHost(s, name)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = e.In, e.Out, e.Err
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // it may have to clean up
	cmd.WaitDelay = 10 * time.Second
	err = space.Enter(h.Pid, cmd)
	var failed *exec.ExitError
	switch {
	case errors.As(err, &failed) && failed.Exited():
		return exitError{failed.ExitCode()}
	case errors.Is(err, exec.ErrNotFound):
		return coded{err, exitNoProgram}
	}
	return err
}
