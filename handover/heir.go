package handover

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Heir is the process that takes this one's place.
type Heir struct {
	// Version is what it says of itself, as given to [Heritage.Begin].
	Version string
	// PID is its process id.
	PID int

	line    *line
	process *os.Process
	files   map[string]int // what it has got, to begin anew with if it fails
}

// startHeir starts the program, with the flags of this one and descriptors from 3
// on, in a session of its own as the first one.
func startHeir(program string, files map[string]int) (*Heir, error) {
	l, fd, err := linePair()
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	names := slices.Sorted(maps.Keys(files))
	fds := []uintptr{0, 1, 2, uintptr(fd)}
	for _, name := range names {
		fds = append(fds, uintptr(files[name]))
	}
	env := append(os.Environ(), heritageEnv+"="+strings.Join(append([]string{lineName}, names...), ","))
	attr := &syscall.ProcAttr{Env: env, Files: fds, Sys: &syscall.SysProcAttr{Setsid: true}}
	pid, _, err := syscall.StartProcess(program, append([]string{program}, os.Args[1:]...), attr)
	if err != nil {
		l.close()
		return nil, fmt.Errorf("cannot start it: %w", err)
	}
	process, err := os.FindProcess(pid)
	return &Heir{PID: pid, line: l, process: process, files: files}, err
}

// greet waits until the program says that it runs, and ends one that does not.
func (h *Heir) greet(ctx context.Context, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	heard := make(chan error, 1)
	go func() { // ends with the line, at the latest
		w, err := h.line.hear()
		if err == nil && w.Say == sayFailed {
			err = errors.New(w.Err)
		}
		h.Version = w.ID
		heard <- err
	}()
	var err error
	select {
	case err = <-heard:
		if err == nil {
			return nil
		}
	case <-ctx.Done():
		err = fmt.Errorf("it did not say within %s that it runs", within)
	}
	if state := h.end(); hungUp(err) {
		return fmt.Errorf("it ended at once: %s; the node's log may say why", state)
	}
	return err
}

// end kills it and waits for its end, so that all it had is free.
func (h *Heir) end() string {
	h.line.close()
	_ = h.process.Kill() // it may be gone
	state, err := h.process.Wait()
	if err != nil {
		return err.Error()
	}
	return state.String()
}
