package main

import (
	"context"
	"sync"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	gcontext "gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/sentry/socket/unix/transport"
	"gvisor.dev/gvisor/pkg/state"
	"gvisor.dev/gvisor/pkg/syserr"
	"gvisor.dev/gvisor/pkg/waiter"
)

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
