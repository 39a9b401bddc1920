package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/perigee-run/perigee/sandbox"
)

// pause stops the machine's processor time; its memory stays.
func (s *supervisor) pause(_ context.Context, id string) error {
	return s.change(id, "pause", sandbox.StateRunning, sandbox.StatePaused, func(b *box) error {
		return b.handle().Pause(b.rec.Container)
	})
}

// resume lets a paused machine run on.
func (s *supervisor) resume(_ context.Context, id string) error {
	return s.change(id, "resume", sandbox.StatePaused, sandbox.StateRunning, func(b *box) error {
		if err := b.spendPast(); err != nil {
			return err
		}
		return b.handle().Resume(b.rec.Container)
	})
}

// change moves a sandbox from one state to another.
func (s *supervisor) change(id, verb string, from, to sandbox.State, do func(*box) error) error {
	b, err := s.find(id)
	if err != nil {
		return err
	}
	b.opMu.Lock()
	defer b.opMu.Unlock()
	if state := b.state(); state != from {
		return fmt.Errorf("cannot %s %q, which is %s: %w", verb, id, state, sandbox.ErrState)
	}
	if err := do(b); err != nil {
		return fmt.Errorf("cannot %s %q: %w", verb, id, err)
	}
	return b.setState(s.boxDir(id), to)
}

// signal sends sig to the machine's main process, or to all of its processes.
func (s *supervisor) signal(_ context.Context, id string, sig int, all bool) error {
	b, err := s.find(id)
	if err != nil {
		return err
	}
	switch state := b.state(); {
	case state == sandbox.StatePaused && unix.Signal(sig) == unix.SIGKILL:
		// Nothing in it would run to take the signal.
		return b.main.kill()
	case state != sandbox.StateRunning:
		return fmt.Errorf("cannot signal %q, which is %s: %w", id, state, sandbox.ErrState)
	}
	if err := b.handle().SignalContainer(b.rec.Container, unix.Signal(sig), all); err != nil {
		return fmt.Errorf("cannot signal %q: %w", id, err)
	}
	return nil
}

// wait returns how the machine ended, once it has.
func (s *supervisor) wait(ctx context.Context, id string) (sandbox.Exit, error) {
	b, err := s.find(id)
	if err != nil {
		return sandbox.Exit{}, err
	}
	select {
	case <-b.ended:
	case <-ctx.Done():
		return sandbox.Exit{}, ctx.Err()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return *b.exit, nil
}

// stats reads what the machine uses, from outside of it: it may be paused.
func (s *supervisor) stats(_ context.Context, id string) (sandbox.Stats, error) {
	b, err := s.find(id)
	if err != nil {
		return sandbox.Stats{}, err
	}
	return s.groups.stats(b.rec.Container)
}

// processes lists what runs in the machine.
func (s *supervisor) processes(_ context.Context, id string) ([]sandbox.Process, error) {
	b, err := s.find(id)
	if err != nil {
		return nil, err
	}
	if state := b.state(); state != sandbox.StateRunning && state != sandbox.StatePaused {
		return nil, fmt.Errorf("cannot list the processes of %q, which is %s: %w", id, state, sandbox.ErrState)
	}
	list, err := b.handle().Processes(b.rec.Container)
	if err != nil {
		return nil, fmt.Errorf("cannot list the processes of %q: %w", id, err)
	}
	out := make([]sandbox.Process, 0, len(list))
	for _, p := range list {
		out = append(out, sandbox.Process{
			PID: int(p.PID), PPID: int(p.PPID), UID: uint32(p.UID), Threads: len(p.Threads),
			CPU: p.Time, Started: p.STime, Command: p.Cmd,
		})
	}
	return out, nil
}

// destroy ends a sandbox and removes all of it. One that is not there is no
// error.
func (s *supervisor) destroy(_ context.Context, id string) error {
	b, err := s.find(id)
	if errors.Is(err, sandbox.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	s.endGently(b)
	// A start or a save that hangs ends when its process does.
	if main := b.process(); main != nil {
		if err := main.signal(unix.SIGKILL); err != nil {
			return fmt.Errorf("cannot destroy %q: %w", id, err)
		}
	}
	b.opMu.Lock()
	defer b.opMu.Unlock()
	if err := s.discard(b); err != nil {
		return fmt.Errorf("cannot destroy %q: %w", id, err)
	}
	return nil
}

// gentleEnd is how long a machine with files on the host may take to write
// back what it holds of them.
const gentleEnd = 5 * time.Second

// endGently kills the processes inside a machine whose files are the host's:
// its kernel then writes back what it has not. Without such files there is
// nothing to lose.
func (s *supervisor) endGently(b *box) {
	info := b.info()
	if info.Spec == nil || info.Spec.WritableDir == "" && len(info.Spec.Mounts) == 0 {
		return
	}
	if b.saved() {
		return // what it held was written back then, and it must not run on
	}
	if info.State == sandbox.StatePaused {
		_ = s.resume(context.Background(), info.ID)
	}
	if s.signal(context.Background(), info.ID, int(unix.SIGKILL), true) != nil {
		return
	}
	select {
	case <-b.ended:
	case <-time.After(gentleEnd):
	}
}

func (b *box) process() *process {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.main
}

// discard removes what there is of b, finished or not. The caller holds opMu.
func (s *supervisor) discard(b *box) error {
	var errs []error
	for _, p := range []*process{b.main, b.gofer} {
		if p != nil {
			errs = append(errs, p.kill())
		}
	}
	if b.followed {
		<-b.ended // whoever writes the record has done so
	}
	for _, p := range []*process{b.main, b.gofer} {
		if p != nil {
			p.close()
		}
	}
	if b.claim != nil {
		b.claim.Close()
	}
	if h := b.rec.Sandbox; h != nil {
		_ = os.Remove(h.ControlSocketPath)
	}
	for i := len(b.rec.Mounted) - 1; i >= 0; i-- {
		if err := unix.Unmount(b.rec.Mounted[i], unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			errs = append(errs, fmt.Errorf("cannot unmount %q: %w", b.rec.Mounted[i], err))
		}
	}
	errs = append(errs, s.groups.remove(b.rec.Container))
	if err := errors.Join(errs...); err != nil {
		return err
	}
	s.removeDir(s.boxDir(b.rec.ID))
	s.forget(b.rec.ID)
	if s.discards.Add(1)%16 == 0 {
		runtime.GC() // gVisor's handles of processes are closed by the collector
	}
	return nil
}
