//go:build linux

package build

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/moby/buildkit/client"
	"golang.org/x/sys/unix"
)

const (
	startTimeout  = 60 * time.Second // longer than lockWait and clean need together
	answerTimeout = 5 * time.Second
	endGrace      = 10 * time.Second
	logTail       = 2 << 10
)

// mark is a fingerprint of a builder's configuration and program. A builder that lives with another mark is from
// before an upgrade or a change of configuration and is replaced.
func mark(c ServeConfig, program string) string {
	c.Mark = ""
	data, err := json.Marshal(c)
	if err != nil {
		panic(err) // strings and numbers always marshal
	}
	if path, err := exec.LookPath(program); err == nil {
		if st, err := os.Stat(path); err == nil {
			data = fmt.Appendf(data, "%s %d %d", path, st.Size(), st.ModTime().UnixNano())
		}
	}
	return fmt.Sprintf("%x", sha256.Sum256(data))[:16]
}

// find gives the builder that an earlier daemon started, if it lives and fits; one that does not fit is ended.
func (e *Engine) find(ctx context.Context) (*link, error) {
	pid, err := socketOwner(e.serve.Socket)
	if err != nil {
		return nil, nil //nolint:nilerr // nobody listens: there is no builder
	}
	l, err := e.dial(ctx, pid)
	if err != nil {
		return nil, err
	}
	found, err := l.mark(ctx)
	if err == nil && found == e.serve.Mark {
		e.cfg.Log.Info("found a running builder again", "pid", pid)
		return l, nil
	}
	return nil, e.retire(l)
}

func (e *Engine) dial(ctx context.Context, pid int) (*link, error) {
	c, err := client.New(ctx, "unix://"+e.serve.Socket)
	if err != nil {
		return nil, fmt.Errorf("cannot reach the builder: %w", err)
	}
	return &link{client: c, pid: pid}, nil
}

// socketOwner asks the kernel which process listens.
func socketOwner(path string) (int, error) {
	c, err := net.Dial("unix", path)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(err, credErr); err != nil {
		return 0, err
	}
	return int(cred.Pid), nil
}

func (l *link) answers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	_, err := l.client.Info(ctx)
	return err
}

func (l *link) mark(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	workers, err := l.client.ListWorkers(ctx)
	if err != nil {
		return "", err
	}
	if len(workers) == 0 {
		return "", errors.New("cannot use the builder: it has no worker")
	}
	return workers[0].Labels[markLabel], nil
}

// start runs a new builder and returns once it serves. A builder that had to empty a damaged cache is started again.
func (e *Engine) start(ctx context.Context) (*link, error) {
	err := e.launch(ctx)
	if errors.Is(err, errCacheReset) {
		e.cfg.Log.Warn("the build cache was damaged and has been emptied")
		err = e.launch(ctx)
	}
	if err != nil {
		return nil, err
	}
	pid, err := socketOwner(e.serve.Socket)
	if err != nil {
		return nil, fmt.Errorf("cannot reach the new builder: %w", err)
	}
	return e.dial(ctx, pid)
}

// launch starts the process in a session of its own, so that what ends the daemon does not end it, and waits for
// its word on a pipe. Its output goes to builder.log; that of the one before is kept in
// builder.log.old.
func (e *Engine) launch(ctx context.Context) error {
	begun := time.Now()
	conf, err := e.writeConfig()
	if err != nil {
		return err
	}
	// What a builder said before it died must survive its successor's start.
	os.Rename(e.logPath(), e.logPath()+".old")
	logFile, err := os.OpenFile(e.logPath(), os.O_CREATE|os.O_TRUNC|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("cannot start the builder: %w", err)
	}
	defer logFile.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("cannot start the builder: %w", err)
	}
	defer r.Close()
	args := append(append([]string{}, e.cfg.Command[1:]...), conf)
	cmd := exec.Command(e.cfg.Command[0], args...)
	cmd.Env = append(os.Environ(), readyEnv+"=3")
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.ExtraFiles = []*os.File{w}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return fmt.Errorf("cannot start the builder %q: %w", e.cfg.Command[0], err)
	}
	e.reap(cmd)
	if err := e.awaitReady(ctx, r, cmd.Process.Pid); err != nil {
		return err
	}
	e.cfg.Log.Info("started the builder", "pid", cmd.Process.Pid, "took", time.Since(begun))
	return nil
}

// reap waits for a child of ours in the background and cleans up when it was killed. Close waits for it.
func (e *Engine) reap(cmd *exec.Cmd) {
	e.reaped.Go(func() {
		err := cmd.Wait()
		e.cfg.Log.Info("the builder ended", "pid", cmd.Process.Pid, "error", err)
		if err != nil {
			e.cleanIfDead(context.Background())
		}
	})
}

// cleanIfDead ends the steps of a killed builder at once rather than at its next start. A builder that lives holds
// the lock and is left alone.
func (e *Engine) cleanIfDead(ctx context.Context) {
	lock, err := tryLock(e.cfg.Dir)
	if err != nil {
		return
	}
	defer lock.Close()
	if err := clean(ctx, e.cfg.Dir, e.cfg.Runtime, e.cfg.Log); err != nil {
		e.cfg.Log.Warn("cannot clean up after the builder", "error", err)
	}
}

func (e *Engine) awaitReady(ctx context.Context, r *os.File, pid int) error {
	if err := r.SetReadDeadline(time.Now().Add(startTimeout)); err != nil {
		return fmt.Errorf("cannot wait for the builder: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { r.SetReadDeadline(time.Now()) })
	defer stop()
	word, err := bufio.NewReader(r).ReadString('\n')
	word = strings.TrimSpace(word)
	switch {
	case word == readyOK:
		return nil
	case word == readyAgain:
		return errCacheReset
	case word != "":
		return errors.New(word)
	case ctx.Err() != nil:
		// The builder goes on starting: the next build finds it.
		return fmt.Errorf("cannot wait for the builder: %w", context.Cause(ctx))
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("cannot start the builder: process %d did not get ready within %s%s", pid, startTimeout, e.lastWords())
	default:
		return fmt.Errorf("cannot start the builder: it ended at once%s", e.lastWords())
	}
}

// lastWords is the end of the builder's log, for an error.
func (e *Engine) lastWords() string {
	f, err := os.Open(e.logPath())
	if err != nil {
		return ""
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && st.Size() > logTail {
		f.Seek(-logTail, io.SeekEnd)
	}
	data, err := io.ReadAll(f)
	if data = bytes.TrimSpace(data); err != nil || len(data) == 0 {
		return ""
	}
	return "; its last words: " + string(data)
}

func (e *Engine) logPath() string { return filepath.Join(e.cfg.Dir, "builder.log") }

func (e *Engine) writeConfig() (string, error) {
	path := filepath.Join(e.cfg.Dir, "builder.json")
	data, err := json.MarshalIndent(e.serve, "", "  ")
	if err != nil {
		return "", fmt.Errorf("cannot write the builder's configuration: %w", err)
	}
	tmp := path + ".new"
	if err := os.WriteFile(tmp, append(data, '\n'), 0o600); err != nil {
		return "", fmt.Errorf("cannot write the builder's configuration: %w", err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return "", fmt.Errorf("cannot write the builder's configuration: %w", err)
	}
	return path, nil
}

// retire ends a builder: asked first, killed when it does not listen. A descriptor of the process, taken while its
// socket still names it, makes sure that no other process is ever hit.
func (e *Engine) retire(l *link) error {
	if l == nil {
		return nil
	}
	defer l.client.Close()
	fd, err := unix.PidfdOpen(l.pid, 0)
	if err != nil {
		return nil //nolint:nilerr // it is gone
	}
	defer unix.Close(fd)
	if owner, err := socketOwner(e.serve.Socket); err != nil || owner != l.pid {
		return nil //nolint:nilerr // the number is not our builder's any more
	}
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil {
			return nil //nolint:nilerr // it is gone
		}
		if exited(fd, endGrace) {
			return nil
		}
	}
	return fmt.Errorf("cannot end the builder: process %d survives SIGKILL", l.pid)
}

// exited waits until the process behind a pidfd has ended.
func exited(fd int, wait time.Duration) bool {
	deadline := time.Now().Add(wait)
	for {
		left := time.Until(deadline)
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(max(left, 0).Milliseconds()))
		if n > 0 {
			return true
		}
		if left <= 0 || (err != nil && !errors.Is(err, unix.EINTR)) {
			return false
		}
	}
}
