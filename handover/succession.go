package handover

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrUnderWay means that an heir was started already and has not failed.
var ErrUnderWay = errors.New("a process that takes over was started already")

// Giver is who goes, as far as it is asked by the heir. Its methods may be called
// at the same time.
type Giver interface {
	// Give ends what the heir is about to begin, see [Heritage.Want], and returns
	// when it has ended. It may be asked again for the same, and for what there is not.
	Give(what string)
	// Busy counts what is in flight here, by the ids of [Heritage.InFlight].
	Busy() map[string]int
	// Drain is called when the heir serves. It begins nothing more, lets what is open
	// end, cuts what is left when ctx ends, and returns when nothing is under way.
	Drain(ctx context.Context)
}

// Config says who goes, and how long others may take.
type Config struct {
	// Giver is who goes. Required.
	Giver Giver
	// HelloWithin is how long a new program may take to say that it runs. Default 15
	// seconds.
	HelloWithin time.Duration
	// ReadyWithin is how long it may take to open all that was let go of. Default one
	// minute.
	ReadyWithin time.Duration
	// Grace is how long connections may go on here when the heir serves. Default 10
	// minutes.
	Grace time.Duration
	// LastGrace is how long they may when the heir has ended. Default 10 seconds.
	LastGrace time.Duration
	// QuietAfter is how long after the heir serves only what is in flight is left
	// here: from then on Giver.Busy is asked. Default 3 seconds.
	QuietAfter time.Duration
	// Logger defaults to slog.Default().
	Logger *slog.Logger
}

func (c *Config) defaults() {
	c.HelloWithin = cmp.Or(c.HelloWithin, 15*time.Second)
	c.ReadyWithin = cmp.Or(c.ReadyWithin, time.Minute)
	c.Grace = cmp.Or(c.Grace, 10*time.Minute)
	c.LastGrace = cmp.Or(c.LastGrace, 10*time.Second)
	c.QuietAfter = cmp.Or(c.QuietAfter, 3*time.Second)
	c.Logger = cmp.Or(c.Logger, slog.Default())
}

// Succession is a process's part in giving its place to another one. It hands over
// once; programs that do not even say that they run do not count.
type Succession struct {
	cfg     Config
	willing chan struct{} // closed when heir is set
	settled chan struct{} // closed when line is set
	heir    *Heir

	mu      sync.Mutex // guards what follows
	busy    bool       // an heir was started
	sockets map[string]syscall.Conn
	line    *line                  // to the heir, once it serves
	asked   map[string]chan<- word // by id
}

// New is for a process that serves.
func New(cfg Config) *Succession {
	cfg.defaults()
	return &Succession{cfg: cfg, willing: make(chan struct{}), settled: make(chan struct{}), sockets: map[string]syscall.Conn{}, asked: map[string]chan<- word{}}
}

// Keep notes an open socket or file for an heir, who takes it by the name, which
// has no comma. What is not the kernel's (no syscall.Conn) is not kept. It stays
// the caller's to close, with the end of the process.
func (s *Succession) Keep(name string, socket any) {
	if c, ok := socket.(syscall.Conn); ok {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.sockets[name] = c
	}
}

// Own makes this process the one that a kept unix socket is of: the kernel says so
// to those who ask who listens (to listen again changes nothing else), and its path
// goes when the socket is closed here, unless there is an heir by then.
func (s *Succession) Own(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	u, ok := s.sockets[name].(*net.UnixListener)
	if !ok {
		return fmt.Errorf("cannot own %q: it is no unix socket that is kept", name)
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return err
	}
	e := raw.Control(func(fd uintptr) { err = unix.Listen(int(fd), unix.SOMAXCONN) })
	u.SetUnlinkOnClose(true)
	return errors.Join(e, err)
}

// disown leaves the paths of unix sockets to the heir.
func (s *Succession) disown() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.sockets {
		if u, ok := c.(*net.UnixListener); ok {
			u.SetUnlinkOnClose(false)
		}
	}
}

// Start starts a program with the flags of this one, gives it what is kept and
// also, and waits until it says that it runs. Then it is willing to take over, and
// waits for HandOver. An error is [ErrUnderWay], or says why the program is of no
// use; it has ended then, and nothing has changed.
func (s *Succession) Start(ctx context.Context, program string, also map[string]syscall.Conn) (*Heir, error) {
	if !s.begin() {
		return nil, ErrUnderWay
	}
	h, err := s.spawn(ctx, program, also)
	if err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.busy = false
		return nil, err
	}
	s.cfg.Logger.Info("a new program takes over", "program", program, "version", h.Version, "pid", h.PID)
	s.disown()
	s.heir = h
	close(s.willing)
	return h, nil
}

func (s *Succession) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.busy
	s.busy = true
	return !was
}

func (s *Succession) spawn(ctx context.Context, program string, also map[string]syscall.Conn) (*Heir, error) {
	s.mu.Lock()
	conns := maps.Clone(s.sockets)
	s.mu.Unlock()
	maps.Copy(conns, also)
	files, err := duplicateAll(conns, duplicateOf)
	if err != nil {
		return nil, err
	}
	h, err := startHeir(program, files)
	if err == nil {
		err = h.greet(ctx, s.cfg.HelloWithin)
	}
	if err != nil {
		closeAll(files)
		return nil, fmt.Errorf("the program %s is of no use: %w", program, err)
	}
	return h, nil
}

// Heir is who is willing, nil before Willing.
func (s *Succession) Heir() *Heir {
	if !s.Leaving() {
		return nil
	}
	return s.heir
}

// Busy reports whether an heir was started and has not failed to say that it runs.
func (s *Succession) Busy() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.busy
}

// Willing is closed when there is an heir: it is time to let go, and to call
// HandOver.
func (s *Succession) Willing() <-chan struct{} { return s.willing }

// Leaving reports whether there is an heir.
func (s *Succession) Leaving() bool {
	select {
	case <-s.willing:
		return true
	default:
		return false
	}
}
