package handover

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// word is one message between a process and who takes its place.
type word struct {
	Say  string         `json:"say"`
	ID   string         `json:"id,omitempty"` // what it is about
	Addr netip.Addr     `json:"addr,omitzero"`
	Err  string         `json:"err,omitempty"`
	Busy map[string]int `json:"busy,omitempty"` // what is in flight, by id
}

// What the successor says, and what the predecessor does.
const (
	sayHello  = "hello"  // it runs; ID is its version
	sayWant   = "want"   // it needs what ID names
	sayReady  = "ready"  // it serves
	sayFailed = "failed" // it cannot, and why
	sayWoke   = "woke"   // the answer to wake

	sayGo   = "go"   // what only one process can have is free
	sayGave = "gave" // the answer to want
	sayWake = "wake" // what is in flight here needs what ID names
	sayBusy = "busy" // what is still in flight here
)

// line carries words both ways. One goroutine reads; say may be called by any.
type line struct {
	conn net.Conn
	dec  *json.Decoder
	mu   sync.Mutex // held while a word is written
}

func newLine(conn net.Conn) *line { return &line{conn: conn, dec: json.NewDecoder(conn)} }

// linePair makes both ends: ours, and a descriptor for the other process.
func linePair() (*line, int, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, 0, err
	}
	l, err := lineOf(fds[0])
	if err != nil {
		unix.Close(fds[1])
	}
	return l, fds[1], err
}

// lineHere makes both ends for this process.
func lineHere() (one, other *line, err error) {
	one, fd, err := linePair()
	if err != nil {
		return nil, nil, err
	}
	if other, err = lineOf(fd); err != nil {
		one.close()
	}
	return one, other, err
}

// lineOf takes the descriptor over.
func lineOf(fd int) (*line, error) {
	f := os.NewFile(uintptr(fd), "line")
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	return newLine(conn), nil
}

// sayWithin bounds how long the other end may refuse to listen.
const sayWithin = 5 * time.Second

func (l *line) say(w word) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	b, err := json.Marshal(w)
	if err != nil {
		return err
	}
	_ = l.conn.SetWriteDeadline(time.Now().Add(sayWithin))
	if _, err = l.conn.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("cannot speak with the other process: %w", err)
	}
	return nil
}

// hear returns an error when the other end is gone.
func (l *line) hear() (w word, err error) {
	err = l.dec.Decode(&w)
	return w, err
}

func (l *line) close() { l.conn.Close() }

// hungUp reports whether the other end is gone.
func hungUp(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}
