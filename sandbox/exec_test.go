package sandbox_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/perigee-run/perigee/sandbox"
)

func TestExec(t *testing.T) {
	k := newKit(t)
	s := k.spec("sleep", "1000")
	s.Cwd = "/www"
	k.start(s)
	for _, test := range []struct {
		name         string
		spec         sandbox.ExecSpec
		in, out, err string
		code         int
	}{
		{"output", sandbox.ExecSpec{Args: []string{"sh", "-c", "echo o; echo e >&2; exit 4"}}, "", "o\n", "e\n", 4},
		{"input", sandbox.ExecSpec{Args: []string{"cat"}}, "in", "in", "", 0},
		{"signal", sandbox.ExecSpec{Args: []string{"sh", "-c", "kill -9 $$"}}, "", "", "", 137},
		{"of the machine", sandbox.ExecSpec{Args: []string{"sh", "-c", "pwd; echo $NAME; id -u"}}, "", "/www\nvalue\n0\n", "", 0},
		{"of its own", sandbox.ExecSpec{Args: []string{"sh", "-c", "pwd; echo $NAME; id -u"}, Cwd: "/bin", Env: []string{"PATH=/bin", "NAME=x"}, User: true, UID: 9}, "", "/bin\nx\n9\n", "", 0},
		{"much", sandbox.ExecSpec{Args: []string{"head", "-c", "3000000", "/dev/zero"}}, "", strings.Repeat("\x00", 3000000), "", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			var out, errOut bytes.Buffer
			code, err := k.Exec(t.Context(), s.ID, test.spec, sandbox.Streams{Stdin: strings.NewReader(test.in), Stdout: &out, Stderr: &errOut})
			if err != nil || code != test.code || out.String() != test.out || errOut.String() != test.err {
				t.Errorf("%d, %v, %d bytes %.40q, %q", code, err, out.Len(), out.String(), errOut.String())
			}
		})
	}
	if _, err := k.Exec(t.Context(), s.ID, sandbox.ExecSpec{Args: []string{"nothing"}}, sandbox.Streams{}); err == nil {
		t.Error("a program that is not there ran")
	}
	if _, err := k.Exec(t.Context(), "nobody", sandbox.ExecSpec{Args: []string{"true"}}, sandbox.Streams{}); !errors.Is(err, sandbox.ErrNotFound) {
		t.Errorf("exec in nothing: %v", err)
	}
}

// screen is a terminal's output that a test can look at.
type screen struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (s *screen) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(b)
}

func (s *screen) shows(text string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Contains(s.buf.String(), text)
}

func TestExecTerminal(t *testing.T) {
	k := newKit(t)
	s := k.spec("sleep", "1000")
	k.start(s)
	keys, typed := io.Pipe()
	sizes := make(chan sandbox.Size)
	var out screen
	done := make(chan int)
	go func() {
		code, err := k.Exec(t.Context(), s.ID, sandbox.ExecSpec{Args: []string{"sh"}, Terminal: true, Size: sandbox.Size{Rows: 20, Cols: 70}},
			sandbox.Streams{Stdin: keys, Stdout: &out, Resize: sizes})
		if err != nil {
			t.Error(err)
		}
		done <- code
	}()
	say := func(line, want string) {
		t.Helper()
		_, _ = io.WriteString(typed, line+"\n")
		until(t, "screen shows "+want, func() bool { return out.shows(want) })
	}
	say("stty size", "20 70")
	// The command in front, not the shell, is told of a new size.
	say(`sh -c "trap 'stty size; exit' WINCH; echo re''ady; while :; do sleep 0.05; done"`, "ready")
	sizes <- sandbox.Size{Rows: 30, Cols: 90}
	until(t, "the command sees the new size", func() bool { return out.shows("30 90") })
	_, _ = io.WriteString(typed, "exit 9\n")
	if code := <-done; code != 9 {
		t.Errorf("code %d", code)
	}
	typed.Close()
}

func TestExecEndsWithItsContext(t *testing.T) {
	k := newKit(t)
	s := k.spec("sleep", "1000")
	k.start(s)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := k.Exec(ctx, s.ID, sandbox.ExecSpec{Args: []string{"sleep", "999"}}, sandbox.Streams{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	until(t, "the command is gone", func() bool {
		p, err := k.Processes(t.Context(), s.ID)
		must(t, err)
		return len(p) == 1
	})
}
