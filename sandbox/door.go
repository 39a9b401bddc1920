package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"
)

// Door is where connections from inside machines arrive: the other side of
// Spec.Sockets. It is a net.Listener, whose connections say which machine they
// come from; that is the supervisor's word and not the machine's.
type Door struct{ l net.Listener }

var _ net.Listener = (*Door)(nil)

// Visit says where a connection comes from.
type Visit struct {
	// Sandbox is the Spec.ID, Name the Socket.Name.
	Sandbox string `json:"sandbox"`
	Name    string `json:"name"`
}

// Guest is a connection from inside a machine.
type Guest struct {
	net.Conn
	Visit
}

// ListenDoor listens on the unix socket path, for root alone. Whoever listened
// there before gets no more connections: one process follows another.
func ListenDoor(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("cannot open the machines' door: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("cannot open the machines' door: %w", err)
	}
	l.SetUnlinkOnClose(false) // the path may be a successor's by then
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("cannot open the machines' door: %w", err)
	}
	return l, nil
}

// NewDoor is the door at a listener of ListenDoor's.
func NewDoor(l net.Listener) *Door { return &Door{l} }

// Accept waits for the next connection, a *Guest. One that is not what it should
// be is dropped.
func (d *Door) Accept() (net.Conn, error) {
	for {
		conn, err := d.l.Accept()
		if err != nil {
			return nil, err
		}
		g, err := receiveGuest(conn.(*net.UnixConn))
		conn.Close()
		if err == nil {
			return g, nil
		}
	}
}

// Close ends Accept; connections go on.
func (d *Door) Close() error { return d.l.Close() }

// Addr is the socket's.
func (d *Door) Addr() net.Addr { return d.l.Addr() }

// handTimeout bounds what the supervisor, which sends at once, may take.
const handTimeout = 2 * time.Second

func receiveGuest(from *net.UnixConn) (*Guest, error) {
	if err := from.SetDeadline(time.Now().Add(handTimeout)); err != nil {
		return nil, err
	}
	word, oob := make([]byte, 1024), make([]byte, syscall.CmsgSpace(4))
	n, oobn, _, _, err := from.ReadMsgUnix(word, oob)
	if err != nil {
		return nil, err
	}
	conn, err := connOf(oob[:oobn])
	if err != nil {
		return nil, err
	}
	g := &Guest{Conn: conn}
	if err := json.Unmarshal(word[:n], &g.Visit); err == nil {
		_, err = from.Write([]byte{0})
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return g, nil
}

// connOf is the connection in a message.
func connOf(oob []byte) (net.Conn, error) {
	messages, err := syscall.ParseSocketControlMessage(oob)
	if err != nil || len(messages) != 1 {
		return nil, errors.New("a message without a connection")
	}
	fds, err := syscall.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, errors.New("a message without a connection")
	}
	syscall.CloseOnExec(fds[0])
	f := os.NewFile(uintptr(fds[0]), "machine")
	defer f.Close()
	return net.FileConn(f)
}
