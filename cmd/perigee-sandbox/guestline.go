package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/urpc"
)

// toHost is the machine's end of its line.
var toHost = machineLine{fd: -1}

// machineLine asks for connections, one after the other.
type machineLine struct {
	mu  sync.Mutex // one question at a time; guards all below
	fd  int
	seq uint32
}

// lineAnswer is how long the supervisor may take. It is alive or it is not:
// then the line is broken, which shows at once.
const lineAnswer = time.Second

// use takes another line, for the first has no other end any more.
func (l *machineLine) use(fd int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fd >= 0 {
		unix.Close(l.fd)
	}
	l.fd = fd
}

// connect returns the machine's end of a connection to the socket's host. It
// makes the system calls that gVisor's rules allow, and no others.
func (l *machineLine) connect(path string) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seq++
	question := binary.BigEndian.AppendUint32(nil, l.seq)
	if _, err := unix.SendmsgN(l.fd, append(question, path...), nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL); err != nil {
		return -1, err
	}
	for end := time.Now().Add(lineAnswer); ; {
		seq, fd, err := l.answer(time.Until(end))
		switch {
		case err != nil:
			return -1, err
		case seq == l.seq && fd < 0:
			return -1, errors.New("refused")
		case seq == l.seq:
			return fd, nil
		case fd >= 0: // of a question that was given up
			unix.Close(fd)
		}
	}
}

// answer receives one, with its file if it has one.
func (l *machineLine) answer(within time.Duration) (seq uint32, fd int, err error) {
	left := unix.NsecToTimespec(max(within, 0).Nanoseconds())
	n, err := unix.Ppoll([]unix.PollFd{{Fd: int32(l.fd), Events: unix.POLLIN}}, &left, nil)
	switch {
	case err == unix.EINTR:
		return 0, -1, nil
	case err == nil && n == 0:
		return 0, -1, unix.ETIMEDOUT
	case err != nil:
		return 0, -1, err
	}
	buf, oob := make([]byte, 4), make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := unix.Recvmsg(l.fd, buf, oob, unix.MSG_DONTWAIT|unix.MSG_TRUNC)
	if err != nil || n != len(buf) {
		return 0, -1, errors.Join(err, errors.New("the line is broken"))
	}
	fds, err := parseRights(oob[:oobn])
	if err != nil || len(fds) == 0 {
		return binary.BigEndian.Uint32(buf), -1, err
	}
	return binary.BigEndian.Uint32(buf), fds[0], nil
}

// SocketLine is what a supervisor calls.
type SocketLine struct{}

// HangUp ends all connections: the machine, which is paused, is to be saved, and
// its programs must see the end of what cannot be saved.
func (*SocketLine) HangUp(*struct{}, *struct{}) error {
	hangUp()
	return nil
}

// NewLine is a new line, as the call's only file.
type NewLine struct{ urpc.FilePayload }

// Use takes it from a supervisor that has found this machine running: the line
// of its predecessor is broken.
func (*SocketLine) Use(args *NewLine, _ *struct{}) error {
	if len(args.Files) != 1 {
		return fmt.Errorf("%d files, not one", len(args.Files))
	}
	fd, err := unix.Dup(int(args.Files[0].Fd()))
	if err != nil {
		return err
	}
	toHost.use(fd)
	return nil
}
