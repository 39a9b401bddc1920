package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// process is a process of ours on the host, held by a descriptor so that its
// number cannot come to mean another one.
type process struct {
	pid  int
	file *os.File
	done chan struct{}
	// status is the kernel's, once done is closed; known only of children.
	status unix.WaitStatus
	child  bool
}

// watch follows process pid until it ends. Children are reaped.
func watch(pid int, child bool) (*process, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("cannot watch process %d: %w", pid, err)
	}
	p := &process{pid: pid, file: os.NewFile(uintptr(fd), "pidfd"), done: make(chan struct{}), child: child}
	go p.wait()
	return p, nil
}

func (p *process) wait() {
	defer close(p.done)
	raw, err := p.file.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Read(func(fd uintptr) bool {
		polled := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(polled, 0)
		return err == nil && n > 0
	})
	if p.child {
		_, _ = unix.Wait4(p.pid, &p.status, 0, nil)
	}
}

// signal sends sig; a process that has ended is no error.
func (p *process) signal(sig unix.Signal) error {
	raw, err := p.file.SyscallConn()
	if err != nil {
		return fmt.Errorf("cannot signal process %d: %w", p.pid, err)
	}
	var sent error
	if err := raw.Control(func(fd uintptr) { sent = unix.PidfdSendSignal(int(fd), sig, nil, 0) }); err != nil {
		return fmt.Errorf("cannot signal process %d: %w", p.pid, err)
	}
	if sent != nil && !errors.Is(sent, unix.ESRCH) {
		return fmt.Errorf("cannot signal process %d: %w", p.pid, sent)
	}
	return nil
}

// kill ends the process and waits until it is gone.
func (p *process) kill() error {
	select {
	case <-p.done:
		return nil
	default:
	}
	if err := p.signal(unix.SIGKILL); err != nil {
		return err
	}
	<-p.done
	return nil
}

// close lets go of a process that has ended.
func (p *process) close() { p.file.Close() }

// startTime tells two processes with one number apart: clock ticks since boot.
func startTime(pid int) (uint64, error) {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0, fmt.Errorf("cannot look at process %d: %w", pid, err)
	}
	// The name, in parentheses, may hold anything.
	rest := string(b[strings.LastIndexByte(string(b), ')')+1:])
	f := strings.Fields(rest)
	if len(f) < 20 {
		return 0, fmt.Errorf("cannot look at process %d: short line", pid)
	}
	return strconv.ParseUint(f[19], 10, 64)
}

// commandLine is what process pid was started with.
func commandLine(pid int) []string {
	b, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	return strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00")
}
