package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// Ensure starts the supervisor if none serves on the socket, and replaces one
// that is another program than Config.Program (after an upgrade). The
// supervisor is a process of its own session and stays when this one ends.
// Sandboxes run on through all of it, but for prepared ones.
func (c *Client) Ensure(ctx context.Context) error {
	c.startMu.Lock()
	defer c.startMu.Unlock()
	var pong Pong
	err := c.send(ctx, "ping", Call{}, &pong)
	if err == nil && c.isOurs(pong) {
		return nil
	}
	if err == nil {
		c.log.Info("replacing the supervisor by another build", "old", pong.Version)
		if err := c.send(ctx, "shutdown", Call{}, nil); err != nil && !errors.Is(err, errLost) {
			return fmt.Errorf("cannot replace the supervisor: %w", err)
		}
	} else if !isNoSupervisor(err) && !errors.Is(err, errLost) {
		return fmt.Errorf("cannot reach the supervisor: %w", err)
	}
	if err := c.launch(ctx); err != nil {
		return fmt.Errorf("cannot start %q: %w", c.conf.Program, err)
	}
	return nil
}

func (c *Client) isOurs(pong Pong) bool {
	info, err := os.Stat(c.conf.Program)
	if err != nil {
		return true // nothing to replace it with
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return !ok || st.Ino == pong.Inode && st.Dev == pong.Device
}

// launch starts the program and waits until it closes the pipe that it was
// given to say that it serves, or why not.
func (c *Client) launch(ctx context.Context) error {
	if err := os.MkdirAll(c.conf.StateDir, 0o700); err != nil {
		return err
	}
	logFile, err := os.OpenFile(filepath.Join(c.conf.StateDir, "supervisor.log"), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer logFile.Close()
	ready, readyChild, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	cmd := exec.Command(c.conf.Program, "serve", "-state", c.conf.StateDir, "-socket", c.conf.Socket, "-cgroup", c.conf.Cgroup, "-ready-fd", "3")
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.ExtraFiles = []*os.File{readyChild}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	readyChild.Close()
	if err != nil {
		return err
	}
	go func() { _ = cmd.Wait() }() // reaps it if it ends before us
	return awaitReady(ctx, ready, logFile.Name())
}

// readyTimeout bounds the start of a supervisor that has a thousand sandboxes
// to find again.
const readyTimeout = 30 * time.Second

func awaitReady(ctx context.Context, ready *os.File, logName string) error {
	deadline := time.Now().Add(readyTimeout)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	if err := ready.SetReadDeadline(deadline); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = ready.SetReadDeadline(time.Now()) })
	defer stop()
	words, err := io.ReadAll(io.LimitReader(ready, 4096))
	switch {
	case err != nil:
		return fmt.Errorf("it does not get ready: %w (its log is %q)", err, logName)
	case string(words) == "ok":
		return nil
	case len(words) == 0:
		return fmt.Errorf("it ended at once; its log is %q", logName)
	default:
		return errors.New(string(words))
	}
}
