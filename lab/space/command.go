//go:build linux

package space

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"

	"golang.org/x/sys/unix"
)

// Cmd is a command that starts inside a host. It is used as an exec.Cmd is; the
// process is a child of this one and ends with the host.
type Cmd struct {
	*exec.Cmd
	space *Space
}

// Command prepares a program to run in the host; it is not started yet.
func (s *Space) Command(ctx context.Context, name string, args ...string) *Cmd {
	return &Cmd{exec.CommandContext(ctx, name, args...), s}
}

// Start starts the program on the host's thread: a new process inherits that
// thread's namespaces.
func (c *Cmd) Start() error { return c.space.Do(c.Cmd.Start) }

// Run starts the program and waits for its end.
func (c *Cmd) Run() error {
	if err := c.Start(); err != nil {
		return err
	}
	return c.Wait()
}

// Output runs the program and returns what it printed.
func (c *Cmd) Output() ([]byte, error) {
	if c.Stdout != nil {
		return nil, errors.New("exec: Stdout already set")
	}
	var out, fault bytes.Buffer
	c.Stdout = &out
	own := c.Stderr == nil
	if own {
		c.Stderr = &fault
	}
	err := c.Run()
	var exit *exec.ExitError
	if own && errors.As(err, &exit) {
		exit.Stderr = fault.Bytes()
	}
	return out.Bytes(), err
}

// CombinedOutput runs the program and returns all that it said.
func (c *Cmd) CombinedOutput() ([]byte, error) {
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	err := c.Run()
	return out.Bytes(), err
}

// Enter runs a command in the host whose process 1 is pid, from any process of
// root's, and waits for its end.
func Enter(pid int, cmd *exec.Cmd) error {
	done := make(chan error, 1)
	go onOwnThread(func() {
		err := enterAndStart(pid, cmd)
		if err == nil {
			err = cmd.Wait()
		}
		done <- err
	})
	return <-done
}

func enterAndStart(pid int, cmd *exec.Cmd) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("cannot find the host's process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("cannot keep mounts apart: %w", err)
	}
	if err := unix.Setns(fd, unix.CLONE_NEWNS|unix.CLONE_NEWNET|unix.CLONE_NEWPID|unix.CLONE_NEWUTS); err != nil {
		return fmt.Errorf("cannot enter the host: %w: run as root", err)
	}
	return cmd.Start()
}
