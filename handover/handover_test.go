package handover

import (
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestTakesOver goes through all of it with a program that does as it should.
func TestTakesOver(t *testing.T) {
	f := newFormer(t)
	before := open(t)
	s, h, err := f.start(t, "serves", Config{})
	if err != nil {
		t.Fatal(err)
	}
	if h.Version != "v2" || s.Heir() != h || !s.Leaving() || !s.Busy() {
		t.Errorf("heir %+v, leaving %v, busy %v", h, s.Leaving(), s.Busy())
	}
	if _, err := s.Start(t.Context(), "/bin/true", nil); !errors.Is(err, ErrUnderWay) {
		t.Errorf("another one: %v", err)
	}
	if err := s.HandOver(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := <-f.given; got != "wire" {
		t.Errorf("gave %q", got)
	}
	early, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := s.Ask(early, "a"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("asked before there is somebody who serves: %v", err)
	}
	retired := make(chan struct{})
	go func() { defer close(retired); s.Retire(t.Context()) }()
	if addr, err := s.Ask(t.Context(), "a"); err != nil || addr.String() != "192.0.2.7" {
		t.Errorf("asked the heir: %v, %v", addr, err)
	}
	if _, err := s.Ask(t.Context(), "none"); err == nil || err.Error() != "there is none" {
		t.Errorf("asked for what there is not: %v", err)
	}
	f.awaitVisit(t, "heir a=2 b=0 gone=false")
	close(f.drain)
	<-retired
	if err := <-f.became; err != nil {
		t.Errorf("what was open was cut: %v", err)
	}
	f.awaitVisit(t, "heir a=0 b=0 gone=true")
	sameOpen(t, before) // less the listener, and the handle of the process that lives
}

// awaitVisit visits until the answer is as wanted.
func (f *former) awaitVisit(t *testing.T, want string) {
	t.Helper()
	got := ""
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		c, err := net.Dial("tcp", f.l.Addr().String())
		if err != nil {
			t.Fatalf("a visitor: %v", err)
		}
		b, _ := io.ReadAll(c)
		c.Close()
		if got = string(b); got == want {
			return
		}
	}
	t.Errorf("visitors get %q, want %q", got, want)
}

// limit is one that is reached, or that is not.
func limit(reached bool) time.Duration {
	if reached {
		return 100 * time.Millisecond
	}
	return time.Minute
}

// TestOfNoUse: a program that does not get as far as to say that it runs changes
// nothing.
func TestOfNoUse(t *testing.T) {
	for how, want := range map[string]string{
		"dies":   "it ended at once: exit status 3",
		"fails":  "it does not know a flag",
		"silent": "it did not say within 100ms that it runs",
	} {
		t.Run(how, func(t *testing.T) {
			f := newFormer(t)
			before := open(t)
			s, _, err := f.start(t, how, Config{HelloWithin: limit(how == "silent")})
			if err == nil || !strings.HasSuffix(strings.TrimSuffix(err.Error(), "; the node's log may say why"), want) {
				t.Errorf("error %v, want %q", err, want)
			}
			if s.Busy() || s.Leaving() || s.Heir() != nil {
				t.Error("something has changed")
			}
			if _, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); !errors.Is(err, syscall.ECHILD) {
				t.Errorf("a process is left: %v", err)
			}
			sameOpen(t, before)
			if _, err := s.Start(t.Context(), "/nonexistent", nil); err == nil || !strings.Contains(err.Error(), "cannot start it") {
				t.Errorf("a program that is not there: %v", err)
			}
			sameOpen(t, before)
		})
	}
}

// TestTakesBack: an heir that fails later is ended, and this process begins anew
// with all that it had.
func TestTakesBack(t *testing.T) {
	for how, want := range map[string]string{
		"crashes": "it ended: exit status 4",
		"cannot":  "the state is damaged",
		"hangs":   "it was not ready within 100ms",
	} {
		t.Run(how, func(t *testing.T) {
			f := newFormer(t)
			before := open(t)
			s, h, err := f.start(t, how, Config{ReadyWithin: limit(how == "hangs")})
			if err != nil {
				t.Fatal(err)
			}
			if err := s.HandOver(t.Context()); err == nil || err.Error() != want {
				t.Errorf("error %v, want %q", err, want)
			}
			if syscall.Kill(h.PID, 0) == nil {
				t.Error("the heir goes on")
			}
			s.cfg.ReadyWithin = time.Minute
			f.takeBack(t, s)
			sameOpen(t, before) // another listener, for the one that is closed
		})
	}
}

// takeBack begins anew at the second try.
func (f *former) takeBack(t *testing.T, s *Succession) {
	t.Helper()
	var done sync.WaitGroup
	var next *Heritage
	var l net.Listener
	tries := 0
	err := s.TakeBack(t.Context(), &done, func(h *Heritage) (err error) {
		if err := h.Begin(t.Context(), "v1"); err != nil {
			return err
		}
		if tries++; tries == 1 {
			return errors.New("a port is taken")
		}
		h.Want(t.Context(), "wire")
		next = h
		l, err = h.Listener("port/web", nil)
		return err
	})
	if err != nil || tries != 2 {
		t.Fatalf("after %d tries: %v", tries, err)
	}
	t.Cleanup(func() { l.Close() })
	if got := <-f.given; got != "wire" {
		t.Errorf("gave %q", got)
	}
	if next.Gone() || next.InFlight("a") != 1 {
		t.Error("the former one is gone before the new one serves")
	}
	if err := next.Ready(); err != nil {
		t.Error(err)
	}
	close(f.drain)
	done.Wait()
	if err := next.AwaitGone(t.Context()); err != nil {
		t.Error(err)
	}
	if next.InFlight("a") != 0 {
		t.Error("something is in flight at one that is gone")
	}
}

// TestTakeBackEnds: who is told to end does not try again.
func TestTakeBackEnds(t *testing.T) {
	f := newFormer(t)
	s, _, err := f.start(t, "hangs", Config{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.HandOver(ctx); err == nil {
		t.Error("it was handed over")
	}
	var done sync.WaitGroup
	tries, broken := 0, errors.New("no memory")
	if err := s.TakeBack(ctx, &done, func(*Heritage) error { tries++; return broken }); !errors.Is(err, broken) || tries != 1 {
		t.Errorf("after %d tries: %v", tries, err)
	}
	done.Wait()
}

// TestHeirEndsLater: what is open here has a moment more, and is cut then.
func TestHeirEndsLater(t *testing.T) {
	f := newFormer(t)
	s, _, err := f.start(t, "gives up", Config{LastGrace: time.Millisecond})
	if err == nil {
		err = s.HandOver(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	s.Retire(t.Context())
	if err := <-f.became; !errors.Is(err, context.Canceled) {
		t.Errorf("it ended by %v", err)
	}
	if _, err := s.Ask(t.Context(), "a"); err == nil {
		t.Error("one that has ended was asked")
	}
}

// TestGrace: connections that go on for ever are cut.
func TestGrace(t *testing.T) {
	f := newFormer(t)
	s, _, err := f.start(t, "serves", Config{Grace: 10 * time.Millisecond})
	if err == nil {
		err = s.HandOver(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	s.Retire(t.Context())
	if err := <-f.became; !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("it ended by %v", err)
	}
}

// TestPathOfASocket: it goes with the process that it is of, and stays for an heir.
func TestPathOfASocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sock")
	first, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	file, err := first.(*net.UnixListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	f := newFormer(t)
	t.Setenv(childEnv, "hangs")
	s := New(Config{Giver: f, Logger: nobody})
	s.Keep("socket", first)
	if err := s.Own("socket"); err != nil {
		t.Error(err)
	}
	h, err := s.Start(t.Context(), "/proc/self/exe", nil)
	if err != nil {
		t.Fatal(err)
	}
	h.end()
	first.Close()
	if _, err := net.Dial("unix", path); err != nil {
		t.Fatalf("after there was an heir: %v", err)
	}
	second, err := net.FileListener(file)
	if err != nil {
		t.Fatal(err)
	}
	s = New(Config{Giver: f, Logger: nobody})
	s.Keep("socket", second)
	if err := s.Own("socket"); err != nil {
		t.Error(err)
	}
	second.Close()
	if _, err := filepath.EvalSymlinks(path); err == nil {
		t.Error("the path is left")
	}
	if err := s.Own("other"); err == nil {
		t.Error("owns what was not kept")
	}
}
