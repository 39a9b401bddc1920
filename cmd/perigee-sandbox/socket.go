package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	gcontext "gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/control/server"
	"gvisor.dev/gvisor/pkg/fspath"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/seccheck"
	pb "gvisor.dev/gvisor/pkg/sentry/seccheck/points/points_go_proto"
	"gvisor.dev/gvisor/pkg/sentry/socket/unix/transport"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/state"
	"gvisor.dev/gvisor/pkg/syserr"
	"gvisor.dev/gvisor/pkg/urpc"
	"gvisor.dev/gvisor/pkg/waiter"
	"gvisor.dev/gvisor/runsc/boot"
	"gvisor.dev/gvisor/runsc/cmd/util"
)

// A socket of a machine that leads to the host is a file in a small file system
// of its own; who connects to it gets one end of a host's socket pair, and the
// daemon the other. The sandbox may not make sockets itself (its seccomp rules
// are gVisor's): it asks the supervisor for each over a line, see line.go.
//
// So no byte of a connection passes through a process of ours on the way, no
// port of the host is open to machines, and a machine without any network has
// the socket too. This file is the machine's side.

// makeSockets puts the sockets into the machine's file system when its first
// process has been made and does not run yet. In a restored machine they are
// already there.
func makeSockets(l *boot.Loader, sockets []guestSocket) {
	if len(sockets) == 0 {
		return
	}
	controlOf(l).Register(&SocketLine{})
	if kernelOf(l).GlobalInit() != nil {
		return
	}
	seccheck.Global.AppendSink(&startSink{l: l, sockets: sockets}, []seccheck.PointReq{{Pt: seccheck.PointContainerStart}})
}

// guestSocket is one socket to make, and who may connect.
type guestSocket struct {
	Path     string
	UID, GID uint32
}

// startSink is called by gVisor at the moment we want.
type startSink struct {
	seccheck.SinkDefaults
	l       *boot.Loader
	sockets []guestSocket
}

// Name implements seccheck.Sink.
func (*startSink) Name() string { return "perigee" }

// ContainerStart implements seccheck.Sink. Nobody looks at what it returns.
func (s *startSink) ContainerStart(gcontext.Context, seccheck.FieldSet, *pb.Start) error {
	k := kernelOf(s.l)
	for _, socket := range s.sockets {
		if err := makeSocket(k, socket); err != nil {
			util.Fatalf("cannot make socket %q: %v", socket.Path, err)
		}
	}
	return nil
}

func makeSocket(k *kernel.Kernel, s guestSocket) error {
	ctx := k.SupervisorContext()
	creds := auth.NewRootCredentials(k.RootUserNamespace())
	root := k.GlobalInit().Leader().MountNamespace().Root(ctx)
	defer root.DecRef(ctx)
	at := &vfs.PathOperation{Root: root, Start: root, Path: fspath.Parse(s.Path)}
	made := &vfs.MknodOptions{Mode: linux.S_IFSOCK | 0o660, Endpoint: &hostDoor{path: s.Path}}
	if err := k.VFS().MknodAt(ctx, creds, at, made); err != nil {
		return err
	}
	owner := linux.Statx{Mask: linux.STATX_UID | linux.STATX_GID, UID: s.UID, GID: s.GID}
	return k.VFS().SetStatAt(ctx, creds, at, &vfs.SetStatOptions{Stat: owner})
}

// gVisor keeps its kernel and its control server to itself.
func kernelOf(l *boot.Loader) *kernel.Kernel {
	return *(**kernel.Kernel)(unsafe.Pointer(field(reflect.ValueOf(l), "k").UnsafeAddr()))
}

func controlOf(l *boot.Loader) *server.Server {
	return *(**server.Server)(unsafe.Pointer(field(field(reflect.ValueOf(l), "ctrl"), "srv").UnsafeAddr()))
}

// field is a field of the struct that pointer points to.
func field(pointer reflect.Value, name string) reflect.Value {
	f := pointer.Elem().FieldByName(name)
	if !f.IsValid() {
		util.Fatalf("this gVisor has no %s.%s", pointer.Type(), name)
	}
	return f
}

// hostDoor is what stands behind the socket file: every connection to it is one
// to the host. A snapshot holds it by its path.
type hostDoor struct{ path string }

var _ transport.BoundEndpoint = (*hostDoor)(nil)

// BidirectionalConnect implements transport.BoundEndpoint.
func (d *hostDoor) BidirectionalConnect(_ gcontext.Context, ce transport.ConnectingEndpoint, connected func(transport.Receiver, transport.ConnectedEndpoint)) *syserr.Error {
	if ce.Type() != linux.SOCK_STREAM {
		return syserr.ErrWrongProtocolForSocket
	}
	fd, err := toHost.connect(d.path)
	if err != nil {
		return syserr.ErrConnectionRefused
	}
	c, refused := d.attach(fd, ce, connected)
	if refused != nil {
		unix.Close(fd)
		return refused
	}
	if err := c.Init(); err != nil {
		return syserr.FromError(err)
	}
	return nil
}

func (d *hostDoor) attach(fd int, ce transport.ConnectingEndpoint, connected func(transport.Receiver, transport.ConnectedEndpoint)) (*hostConn, *syserr.Error) {
	ce.Lock()
	defer ce.Unlock()
	switch {
	case ce.Connected():
		return nil, syserr.ErrAlreadyConnected
	case ce.ListeningLocked():
		return nil, syserr.ErrInvalidEndpointState
	}
	c, err := newHostConn(fd, ce.WaiterQueue(), d.path)
	if err == nil {
		connected(c, c)
	}
	return c, err
}

// UnidirectionalConnect implements transport.BoundEndpoint.
func (d *hostDoor) UnidirectionalConnect(gcontext.Context) (transport.ConnectedEndpoint, *syserr.Error) {
	return nil, syserr.ErrConnectionRefused
}

// Passcred implements transport.BoundEndpoint.
func (d *hostDoor) Passcred() bool { return false }

// Release implements transport.BoundEndpoint.
func (d *hostDoor) Release(gcontext.Context) {}

// hostConn is the machine's end of a connection. gVisor closes it when the
// machine is saved; what it does not do is to tell who waits on it afterwards,
// as any closed connection does.
type hostConn struct {
	*transport.SCMConnectedEndpoint
	queue *waiter.Queue // of who waits; not in a snapshot

	mu sync.Mutex
	// rest is what the host had said by the time that it hung up.
	rest []byte
}

func newHostConn(fd int, queue *waiter.Queue, path string) (*hostConn, *syserr.Error) {
	scm, err := transport.NewSCMEndpoint(fd, queue, path)
	if err != nil {
		return nil, err
	}
	c := &hostConn{SCMConnectedEndpoint: scm, queue: queue}
	openConns.Store(c, true)
	return c, nil
}

// openConns are the hostConns that are open.
var openConns sync.Map

// maxRest bounds what a saved connection keeps.
const maxRest = 256 << 10

// hangUp ends all connections, as if the host had. What it had said can still be
// read: a machine that asks for its own suspension has the answer when it wakes.
func hangUp() {
	for c := range openConns.Range {
		c.(*hostConn).hangUp()
	}
}

func (c *hostConn) hangUp() {
	c.mu.Lock()
	for buf := make([]byte, 16<<10); len(c.rest) < maxRest; {
		out, _, err := c.SCMConnectedEndpoint.Recv(gcontext.Background(), [][]byte{buf}, transport.RecvArgs{})
		if err != nil || out.RecvLen <= 0 {
			break
		}
		c.rest = append(c.rest, buf[:out.RecvLen]...)
	}
	c.mu.Unlock()
	c.CloseRecv()
	c.CloseSend()
	c.queue.Notify(waiter.ReadableEvents | waiter.WritableEvents | waiter.EventHUp)
}

// Release implements transport.Receiver and transport.ConnectedEndpoint.
func (c *hostConn) Release(ctx gcontext.Context) {
	openConns.Delete(c)
	c.SCMConnectedEndpoint.Release(ctx)
}

// Recv implements transport.Receiver.
func (c *hostConn) Recv(ctx gcontext.Context, data [][]byte, args transport.RecvArgs) (transport.RecvOutput, bool, *syserr.Error) {
	if c.IsRecvClosed() {
		return c.recvRest(data, args)
	}
	return c.SCMConnectedEndpoint.Recv(ctx, data, args)
}

func (c *hostConn) recvRest(data [][]byte, args transport.RecvArgs) (out transport.RecvOutput, _ bool, _ *syserr.Error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.rest) == 0 {
		return out, false, syserr.ErrClosedForReceive
	}
	left := c.rest
	for _, d := range data {
		n := copy(d, left)
		left = left[n:]
		out.RecvLen += int64(n)
	}
	out.MsgLen = out.RecvLen
	if !args.Peek {
		c.rest = left
	}
	return out, false, nil
}

// Readable implements transport.Receiver.
func (c *hostConn) Readable() bool { return c.IsRecvClosed() || c.SCMConnectedEndpoint.Readable() }

// Writable implements transport.ConnectedEndpoint.
func (c *hostConn) Writable() bool { return c.IsSendClosed() || c.SCMConnectedEndpoint.Writable() }

// The types that a snapshot may hold, in the words of gVisor's generator.

func init() {
	state.Register((*hostDoor)(nil))
	state.Register((*hostConn)(nil))
}

// StateTypeName implements state.Type.
func (d *hostDoor) StateTypeName() string { return "perigee.hostDoor" }

// StateFields implements state.Type.
func (d *hostDoor) StateFields() []string { return []string{"path"} }

// StateSave implements state.SaverLoader.
func (d *hostDoor) StateSave(sink state.Sink) { sink.Save(0, &d.path) }

// StateLoad implements state.SaverLoader.
func (d *hostDoor) StateLoad(_ context.Context, source state.Source) { source.Load(0, &d.path) }

// StateTypeName implements state.Type.
func (c *hostConn) StateTypeName() string { return "perigee.hostConn" }

// StateFields implements state.Type.
func (c *hostConn) StateFields() []string { return []string{"SCMConnectedEndpoint", "rest"} }

// StateSave implements state.SaverLoader.
func (c *hostConn) StateSave(sink state.Sink) {
	sink.Save(0, &c.SCMConnectedEndpoint)
	sink.Save(1, &c.rest)
}

// StateLoad implements state.SaverLoader.
func (c *hostConn) StateLoad(_ context.Context, source state.Source) {
	source.Load(0, &c.SCMConnectedEndpoint)
	source.Load(1, &c.rest)
}

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
