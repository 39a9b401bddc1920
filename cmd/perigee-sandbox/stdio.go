package main

import (
	"fmt"
	"os"
	"os/exec"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/perigee-run/perigee/sandbox"
)

// openStdio opens the machine's standard input, output and error: nothing to
// read, and the console file for both others.
func (s *supervisor) openStdio(files *fileSet, b *box, spec *sandbox.Spec) error {
	console := spec.Console
	if console == "" {
		console = os.DevNull
	}
	if spec.Terminal {
		return openTerminal(files, console)
	}
	files.open(os.DevNull, unix.O_RDONLY, 0)
	out := files.open(console, unix.O_WRONLY|unix.O_APPEND|unix.O_CREAT, 0o600)
	if files.err == nil {
		files.add(duplicate(out))
	}
	return nil
}

// duplicate is the same open file under another number.
func duplicate(f *os.File) *os.File {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return f
	}
	return os.NewFile(uintptr(fd), f.Name())
}

// openTerminal makes a terminal and a small process that copies what is
// written on it to the console: it must not end with the supervisor.
func openTerminal(files *fileSet, console string) error {
	master, tty, err := pty.Open()
	if err != nil {
		return fmt.Errorf("cannot make a terminal: %w", err)
	}
	defer master.Close()
	files.add(tty, duplicate(tty), duplicate(tty))
	out, err := os.OpenFile(console, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := exec.Command("/proc/self/exe", "pump")
	cmd.Args[0] = "perigee-sandbox"
	cmd.Stdin, cmd.Stdout = master, out
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("cannot start the terminal's copier: %w", err)
	}
	go func() { _ = cmd.Wait() }()
	return nil
}

// pump copies standard input to standard output until the terminal is closed,
// which reads as an error.
func pump() error {
	buf := make([]byte, 32<<10)
	for {
		n, err := os.Stdin.Read(buf)
		if n > 0 {
			if _, err := os.Stdout.Write(buf[:n]); err != nil {
				return err
			}
		}
		if err != nil {
			return nil
		}
	}
}
