package main

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path"
	"slices"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/control/client"

	"github.com/perigee-run/perigee/sandbox"
)

// A line connects a sandbox with its supervisor: a pair of sockets that keep
// messages apart. The sandbox asks for a connection with a number of four bytes
// and the path of the socket that was connected to; the answer is the number,
// with the machine's end of a new socket pair, or without: refused. The other
// end goes to the daemon (sandbox.Door).
//
// A supervisor that finds a sandbox gives it a new line, by a call to gVisor's
// control server, where SocketLine is registered.

const (
	// maxUntaken bounds the connections of a machine that the daemon has not
	// taken: it may be away for a moment.
	maxUntaken = 64
	// takeTimeout is how long a connection waits for the daemon.
	takeTimeout = 30 * time.Second
	takeRetry   = 50 * time.Millisecond
	// A machine gets so many connections at once, and one each lineEvery: they cost
	// the host processor time that is nobody's.
	lineBurst = 256
	lineEvery = 5 * time.Millisecond
)

// pace spaces what comes too quickly.
type pace struct{ due time.Time }

func (p *pace) delay(now time.Time) time.Duration {
	if early := now.Add(-lineBurst * lineEvery); p.due.Before(early) {
		p.due = early
	}
	p.due = p.due.Add(lineEvery)
	return p.due.Sub(now)
}

// newLine makes a line for b and serves our end until the sandbox ends. The
// other is for the sandbox.
func (s *supervisor) newLine(b *box, sockets []sandbox.Socket) (*os.File, error) {
	ours, theirs, err := claimPair()
	if err != nil {
		return nil, err
	}
	go s.serveLine(b, sockets, ours)
	return theirs, nil
}

func (s *supervisor) serveLine(b *box, sockets []sandbox.Socket, line *net.UnixConn) {
	defer line.Close()
	untaken := make(chan struct{}, maxUntaken)
	buf := make([]byte, 4+maxSocketPath)
	for p := (pace{}); ; {
		n, err := line.Read(buf)
		if err != nil {
			return
		}
		time.Sleep(p.delay(time.Now())) // the machine waits
		if err := s.answerLine(b, sockets, line, buf[:n], untaken); err != nil {
			s.log.Warn("connection of a machine refused", "id", b.info().ID, "error", err)
		}
	}
}

// answerLine answers one question. What asks is not trusted.
func (s *supervisor) answerLine(b *box, sockets []sandbox.Socket, line *net.UnixConn, question []byte, untaken chan struct{}) error {
	if len(question) < 4 {
		return fmt.Errorf("a question of %d bytes", len(question))
	}
	number, asked := question[:4], string(question[4:])
	i := slices.IndexFunc(sockets, func(x sandbox.Socket) bool { return x.Path == asked })
	if i < 0 {
		_, err := line.Write(number)
		return err
	}
	select {
	case untaken <- struct{}{}:
	default:
		_, _ = line.Write(number)
		return fmt.Errorf("the daemon has not taken %d earlier ones", maxUntaken)
	}
	theirs, ours, err := streamPair()
	if err != nil {
		<-untaken
		_, _ = line.Write(number)
		return err
	}
	defer theirs.Close()
	go func() {
		defer func() { <-untaken }()
		defer ours.Close()
		if err := handOver(sockets[i], b.info().ID, ours); err != nil {
			s.log.Warn("connection of a machine dropped", "id", b.info().ID, "error", err)
		}
	}()
	_, _, err = line.WriteMsgUnix(number, unix.UnixRights(int(theirs.Fd())), nil)
	return err
}

func streamPair() (a, b *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot make a socket pair: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "machine"), os.NewFile(uintptr(fds[1]), "host"), nil
}

// handOver gives a connection to the daemon, waiting a while for one that is
// being started.
func handOver(to sandbox.Socket, id string, conn *os.File) error {
	word, err := json.Marshal(sandbox.Visit{Sandbox: id, Name: to.Name})
	if err != nil {
		return err
	}
	for end := time.Now().Add(takeTimeout); ; time.Sleep(takeRetry) {
		if err = handOnce(to.Host, word, conn); err == nil || time.Now().After(end) {
			return err
		}
	}
}

func handOnce(host string, word []byte, conn *os.File) error {
	dialed, err := net.Dial("unix", host)
	if err != nil {
		return err
	}
	defer dialed.Close()
	door := dialed.(*net.UnixConn)
	if err := door.SetDeadline(time.Now().Add(takeTimeout)); err != nil {
		return err
	}
	if _, _, err := door.WriteMsgUnix(word, unix.UnixRights(int(conn.Fd())), nil); err != nil {
		return err
	}
	_, err = door.Read(make([]byte, 1)) // taken
	return err
}

// relay gives a sandbox that an earlier supervisor began a line of ours.
func (s *supervisor) relay(b *box) {
	if err := s.giveLine(b); err != nil {
		s.log.Warn("the sockets of a machine lead nowhere", "id", b.info().ID, "error", err)
	}
}

func (s *supervisor) giveLine(b *box) error {
	theirs, err := s.newLine(b, b.rec.Spec.Sockets)
	if err != nil {
		return err
	}
	defer theirs.Close()
	args := &NewLine{}
	args.Files = []*os.File{theirs}
	return b.callLine("Use", args)
}

// callLine calls the sandbox's SocketLine.
func (b *box) callLine(method string, args any) error {
	at, err := os.Open(path.Dir(b.handle().GetControlSocketPath())) // its path may be longer than an address
	if err != nil {
		return err
	}
	defer at.Close()
	c, err := client.ConnectTo(fmt.Sprintf("/proc/self/fd/%d/%s", at.Fd(), path.Base(b.handle().GetControlSocketPath())))
	if err != nil {
		return err
	}
	defer c.Close()
	return c.Call("SocketLine."+method, args, &struct{}{})
}

// guestSockets are the sockets of spec for the sandbox: its main process's user
// may connect to them, and root.
func guestSockets(spec *sandbox.Spec) []guestSocket {
	var out []guestSocket
	for _, s := range spec.Sockets {
		out = append(out, guestSocket{Path: s.Path, UID: spec.UID, GID: spec.GID})
	}
	return out
}

// socketMounts are the file systems that hold the sockets, and hide what the
// image has there.
func socketMounts(sockets []sandbox.Socket) []specs.Mount {
	var out []specs.Mount
	for _, s := range sockets {
		dir := path.Dir(s.Path)
		if slices.ContainsFunc(out, func(m specs.Mount) bool { return m.Destination == dir }) {
			continue
		}
		out = append(out, specs.Mount{Destination: dir, Type: "tmpfs", Source: "perigee", Options: []string{"nosuid", "noexec", "nodev", "mode=755", "size=64k"}})
	}
	return out
}
