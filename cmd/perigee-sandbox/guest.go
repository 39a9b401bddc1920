package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/sentry/control"

	"github.com/perigee-run/perigee/sandbox"
)

// guestName is what this program is called inside a machine. There it is not
// the supervisor: it is a program of ours that needs none of the machine's.
//
// It is the same file, and no smaller one of its own, because that is one thing
// less to build, ship and keep apart: as it is static and its pages are mapped
// when they are touched, it starts in 0.1 s and costs the machine 6 MiB while
// it runs (a program of 3 MB: 0.07 s and 2 MiB).
const guestName = "perigee-guest"

// openGuest opens the program p for a machine. The file may be read only, and
// holds nothing that is secret.
func openGuest(p sandbox.Program) (*os.File, error) {
	if !slices.Contains(sandbox.Programs, p) {
		return nil, invalid("program %q: use one of %q", p, sandbox.Programs)
	}
	f, err := os.Open("/proc/self/exe")
	if err != nil {
		return nil, fmt.Errorf("cannot open program %q: %w", p, err)
	}
	return f, nil
}

// runGuest is main inside a machine.
func runGuest(args []string) error {
	if len(args) == 1 && args[0] == string(sandbox.ProgramSFTP) {
		return serveSFTP(os.Stdin, os.Stdout)
	}
	if len(args) == 2 && args[0] == string(sandbox.ProgramDial) {
		return dialPort(args[1], os.Stdin, os.Stdout)
	}
	return fmt.Errorf("cannot run %q: it is none of %q, or has arguments", args, sandbox.Programs)
}

// serveSFTP serves until the client has gone.
func serveSFTP(in io.Reader, out io.WriteCloser) error {
	if home := os.Getenv("HOME"); home != "" {
		_ = os.Chdir(home) // many images name one that they do not have
	}
	s, err := sftp.NewServer(pipes{in, out}, sftp.WithAllocator())
	if err != nil {
		return fmt.Errorf("cannot serve files: %w", err)
	}
	if err := s.Serve(); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("cannot go on serving files: %w", err)
	}
	return nil
}

// dialPort joins in and out with a port of the machine's loopback, until the
// server there has ended.
func dialPort(port string, in io.Reader, out io.Writer) error {
	conn, err := net.DialTimeout("tcp", net.JoinHostPort("localhost", port), dialPatience)
	if err != nil {
		conn, err = net.DialTimeout("tcp", net.JoinHostPort("127.0.0.1", port), dialPatience) // an image may have no /etc/hosts
	}
	if err != nil {
		return err
	}
	if _, err := out.Write([]byte{0}); err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(conn, in)
		_ = conn.(*net.TCPConn).CloseWrite()
	}()
	_, err = io.Copy(out, conn)
	return err
}

// dialPatience is how long a port may take to answer.
const dialPatience = 5 * time.Second

// pipes are the two directions of one conversation.
type pipes struct {
	io.Reader
	io.WriteCloser
}

// guestEnd is how long a program of ours that was killed may take to be gone.
const guestEnd = 5 * time.Second

// guestPause is the longest time between two looks at it.
const guestPause = 100 * time.Millisecond

func (b *box) addGuest(x *execution) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.guests == nil {
		b.guests = map[*execution]bool{}
	}
	b.guests[x] = true
}

func (b *box) forgetGuest(x *execution) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.guests, x)
}

// endGuests ends our programs in a machine that is to be saved: their code is a
// file of the host, which a snapshot cannot hold. A restored machine would not
// have them anyhow. The caller holds opMu.
func (s *supervisor) endGuests(b *box) error {
	b.mu.Lock()
	running, found := len(b.guests), b.found
	b.mu.Unlock()
	if running == 0 && !found {
		return nil
	}
	list, err := b.handle().Processes(b.rec.Container)
	if err != nil || !slices.ContainsFunc(list, isGuest) {
		return err
	}
	if b.state() == sandbox.StatePaused { // what does not run does not end
		if err := b.spendPast(); err != nil {
			return err
		}
		if err := b.handle().Resume(b.rec.Container); err != nil {
			return err
		}
		if err := b.setState(s.boxDir(b.rec.ID), sandbox.StateRunning); err != nil {
			return err
		}
	}
	return b.killGuests()
}

// isGuest goes by the name that gVisor gives to a process whose program is an
// open file of the host. Any program may call itself so; but ours are begun from
// outside, and so have no parent, as the first process and what is forked have not:
// it takes an exec of its owner's to be mistaken for one, which then is killed.
func isGuest(p *control.Process) bool {
	return p.PPID == 0 && p.PID != 1 && strings.HasPrefix(p.Cmd, "host:[")
}

// killGuests goes by what runs: programs that an earlier supervisor began are
// in no list of ours. It asks ever less often, for who makes new ones faster
// than that is not to keep us busy.
func (b *box) killGuests() error {
	wait := time.Millisecond
	for end := time.Now().Add(guestEnd); ; time.Sleep(wait) {
		list, err := b.handle().Processes(b.rec.Container)
		switch {
		case err != nil:
			return err
		case !slices.ContainsFunc(list, isGuest):
			return nil
		case time.Now().After(end):
			return fmt.Errorf("a program of ours in it did not end within %s", guestEnd)
		}
		for _, p := range list {
			if isGuest(p) {
				_ = b.handle().SignalProcess(b.rec.Container, int32(p.PID), unix.SIGKILL, false)
			}
		}
		wait = min(2*wait, guestPause)
	}
}
