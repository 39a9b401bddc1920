package handover

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"
)

// childEnv says what the program does when it is started as an heir.
const childEnv = "PERIGEE_HANDOVER_TEST_CHILD"

var nobody = slog.New(slog.DiscardHandler)

// TestMain is also the program that takes over.
func TestMain(m *testing.M) {
	if how := os.Getenv(childEnv); how != "" {
		time.AfterFunc(time.Minute, func() { os.Exit(9) }) // whatever becomes of the test
		os.Exit(child(how))
	}
	os.Exit(m.Run())
}

// child is an heir; it returns its exit status.
func child(how string) int {
	switch how {
	case "dies":
		return 3
	case "silent":
		time.Sleep(time.Hour)
	}
	h, err := Inherit()
	if err != nil || h == nil {
		return 5
	}
	if how == "fails" {
		h.Fail(errors.New("it does not know a flag"))
		time.Sleep(time.Hour) // it is ended
	}
	ctx := context.Background()
	if err := h.Begin(ctx, "v2"); err != nil {
		return 6
	}
	switch how {
	case "crashes":
		return 4
	case "hangs":
		time.Sleep(time.Hour)
	case "cannot":
		h.Fail(errors.New("the state is damaged"))
		time.Sleep(time.Hour)
	case "gives up":
		return serveAsHeir(ctx, h, true)
	}
	return serveAsHeir(ctx, h, false)
}

// serveAsHeir tells every visitor what it knows of the one before.
func serveAsHeir(ctx context.Context, h *Heritage, giveUp bool) int {
	all, err := h.Listeners("port/")
	l := all["web"]
	if err != nil || l == nil || h.Take("port/web", "") != nil {
		return 7
	}
	h.Want(ctx, "wire")
	h.Answer(func(_ context.Context, id string) (netip.Addr, error) {
		if id == "none" {
			return netip.Addr{}, errors.New("there is none")
		}
		return netip.MustParseAddr("192.0.2.7"), nil
	})
	if err := h.Ready(); err != nil {
		return 8
	}
	for !giveUp {
		c, err := l.Accept()
		if err != nil {
			return 8
		}
		fmt.Fprintf(c, "heir a=%d b=%d gone=%v", h.InFlight("a"), h.InFlight("b"), h.Gone())
		c.Close()
	}
	return 0
}

// former is who goes: a listener whose visitors it answers, until they end.
type former struct {
	l      net.Listener
	given  chan string
	drain  chan struct{} // Drain returns when it is closed, or its time is over
	busy   map[string]int
	became chan error // why Drain returned
}

func newFormer(t *testing.T) *former {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return &former{l: l, given: make(chan string, 10), drain: make(chan struct{}), busy: map[string]int{"a": 2}, became: make(chan error, 10)}
}

func (f *former) Give(what string)     { f.given <- what }
func (f *former) Busy() map[string]int { return f.busy }
func (f *former) Drain(ctx context.Context) {
	f.l.Close()
	select {
	case <-f.drain:
	case <-ctx.Done():
	}
	f.became <- ctx.Err()
}

// start begins to hand over to a child that does so.
func (f *former) start(t *testing.T, how string, cfg Config) (*Succession, *Heir, error) {
	t.Helper()
	t.Setenv(childEnv, how)
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cfg.Giver, cfg.QuietAfter, cfg.Logger = f, time.Millisecond, nobody
	s := New(cfg)
	s.Keep("port/web", f.l)
	s.Keep("nothing", 7)
	h, err := s.Start(t.Context(), program, nil)
	if err == nil {
		t.Cleanup(func() {
			_ = h.process.Kill()
			_, _ = h.process.Wait() // done already, if it failed
		})
	}
	return s, h, err
}

// open counts this process's descriptors.
func open(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// sameOpen fails when descriptors were left open.
func sameOpen(t *testing.T, before int) {
	t.Helper()
	for range 100 {
		if open(t) <= before {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%d descriptors are open, %d were", open(t), before)
}
