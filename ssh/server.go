package ssh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/machine"
	"github.com/perigee-run/perigee/sandbox"
)

// Machine is who a connection is for.
type Machine struct{ Org, App, ID string }

// Machines is one node's machines; *machine.Host is one.
type Machines interface {
	// Whose returns the org and the app of a machine.
	Whose(ctx context.Context, id string) (org, app string, err error)
	// Enter makes sure that the machine runs, or says why it does not.
	Enter(ctx context.Context, id string) error
	ExecStream(ctx context.Context, id string, spec machine.ExecSpec, streams sandbox.Streams) (int, error)
	// Dial reaches a port of a machine that runs and keeps it awake meanwhile.
	Dial(ctx context.Context, id string, port int) (io.ReadWriteCloser, error)
	// NoteSession writes down that somebody came in; the function it returns,
	// how it ended.
	NoteSession(ctx context.Context, id string, s machine.Session) (ended func(exitCode int))
}

// Config joins a Server with its neighbours. Authority and Machines are needed.
type Config struct {
	Authority *Authority
	Machines  Machines
	// Permit refuses a grant whose token is not good any more. Default: all are.
	Permit func(ctx context.Context, g Grant) error
	// Noted hears of every session that begins, and of the first forward of a
	// connection. Default: nobody does.
	Noted func(m Machine, g Grant)
	// Connections is how many a machine takes at a time, Channels how many
	// sessions and forwards one connection holds. Default 64 and 64.
	Connections, Channels int
	// Grace is how long a client may take to be let in, Beat how often a
	// connection is looked after: the other end is asked whether it is there,
	// and Permit whether it may stay. Default 30 s each.
	Grace, Beat time.Duration
	// Logger defaults to slog.Default().
	Logger *slog.Logger
}

// Server lets people into the machines of one node.
type Server struct {
	cfg Config

	mu    sync.Mutex     // guards conns
	conns map[string]int // machine → connections
}

var _ Machines = (*machine.Host)(nil)

// New checks the configuration.
func New(cfg Config) (*Server, error) {
	if cfg.Authority == nil || cfg.Machines == nil {
		return nil, errors.New("cannot make the SSH server: authority and machines are both needed")
	}
	if cfg.Permit == nil {
		cfg.Permit = func(context.Context, Grant) error { return nil }
	}
	if cfg.Noted == nil {
		cfg.Noted = func(Machine, Grant) {}
	}
	orElse(&cfg.Connections, 64)
	orElse(&cfg.Channels, 64)
	orElse(&cfg.Grace, 30*time.Second)
	orElse(&cfg.Beat, 30*time.Second)
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	return &Server{cfg: cfg, conns: map[string]int{}}, nil
}

// orElse gives p the default if it has the zero value.
func orElse[T comparable](p *T, def T) {
	var zero T
	if *p == zero {
		*p = def
	}
}

// Authority is the one that the server goes by.
func (s *Server) Authority() *Authority { return s.cfg.Authority }

// Admit looks whether a connection to a machine can be served, before there is
// one. The caller calls [Visit.Serve], or Leave if it does not come to that.
func (s *Server) Admit(ctx context.Context, id string) (*Visit, error) {
	org, app, err := s.cfg.Machines.Whose(ctx, id)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns[id] >= s.cfg.Connections {
		return nil, api.Errorf(api.CodeConflict, "machine %q has %d SSH connections, which is the most", id, s.conns[id]).WithHint("end some of them first")
	}
	s.conns[id]++
	return &Visit{server: s, machine: Machine{org, app, id}}, nil
}

// Visit is a place for one connection.
type Visit struct {
	server  *Server
	machine Machine
	left    sync.Once
}

// Leave gives the place up. It may be called again.
func (v *Visit) Leave() {
	v.left.Do(func() {
		s := v.server
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.conns[v.machine.ID]--; s.conns[v.machine.ID] <= 0 {
			delete(s.conns, v.machine.ID)
		}
	})
}

// Serve speaks SSH on conn until either end closes it or ctx ends, closes it and
// waits for what was begun on it. It gives the place up.
func (v *Visit) Serve(ctx context.Context, conn net.Conn) error {
	defer v.Leave()
	defer conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	c := &connection{server: v.server, machine: v.machine}
	if err := c.serve(ctx, conn); err != nil {
		return fmt.Errorf("SSH into machine %q: %w", v.machine.ID, err)
	}
	return nil
}
