package sandbox_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/perigee-run/perigee/sandbox"
)

// visitorImage makes an image with one program, testdata/visitor, and a file
// where the socket will be.
var visitorImage = sync.OnceValues(func() (string, error) {
	root, image := filepath.Join(built.dir, "visitor"), filepath.Join(built.dir, "visitor.erofs")
	cmd := exec.Command("go", "build", "-o", filepath.Join(root, "visitor"), "./testdata/visitor")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	script := `mkdir $0/.fly && echo hidden > $0/.fly/own && mkfs.erofs -E noinline_data $1 $0 && truncate -s %4096 $1`
	if out, err := exec.Command("sh", "-ec", script, root, image).CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return image, nil
})

const socketPath = "/.fly/api"

// visited is a machine whose socket leads to a server of the test's.
func (k *kit) visited(args ...string) sandbox.Spec {
	k.t.Helper()
	image, err := visitorImage()
	must(k.t, err)
	s := k.spec(args...)
	s.Rootfs = image
	s.Sockets = []sandbox.Socket{{Path: socketPath, Host: filepath.Join(k.dir, "door"), Name: "name of " + s.ID}}
	return s
}

// host serves what comes through the door.
func (k *kit) host(h http.Handler) (end func()) {
	k.t.Helper()
	l, err := sandbox.ListenDoor(filepath.Join(k.dir, "door"))
	must(k.t, err)
	door := sandbox.NewDoor(l)
	server := &http.Server{Handler: h, ConnContext: func(ctx context.Context, c net.Conn) context.Context {
		return context.WithValue(ctx, visit{}, c.(*sandbox.Guest).Visit)
	}}
	done := make(chan error)
	go func() { done <- server.Serve(door) }()
	end = sync.OnceFunc(func() {
		_ = server.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			k.t.Error(err)
		}
	})
	k.t.Cleanup(end)
	return end
}

type visit struct{}

// echo answers with who asks and how much was sent.
func echo(w http.ResponseWriter, r *http.Request) {
	n, _ := io.Copy(io.Discard, r.Body)
	fmt.Fprintf(w, "%s sent %d", r.Context().Value(visit{}).(sandbox.Visit).Name, n)
}

// visit runs the visitor in the machine and returns what it says.
func (k *kit) visit(id string, args ...string) string {
	k.t.Helper()
	var out screen
	ctx, cancel := context.WithTimeout(k.t.Context(), 20*time.Second)
	defer cancel()
	if _, err := k.Exec(ctx, id, sandbox.ExecSpec{Args: append([]string{"/visitor"}, args...)}, sandbox.Streams{Stdout: &out, Stderr: &out}); err != nil {
		k.t.Fatal(err)
	}
	return out.buf.String()
}

// TestSocket: a machine without a network talks with the host through its
// socket: from its first instruction on, after a crash of the supervisor, after
// a restart of the server, after a restore, and however much it says.
func TestSocket(t *testing.T) {
	k := newKit(t)
	end := k.host(http.HandlerFunc(echo))
	s := k.visited("/visitor", "again", socketPath, "/")
	s.ReadOnly = true
	k.start(s)
	want := "name of " + s.ID + " sent 0"
	until(t, "the first answer", func() bool { return strings.Contains(k.console(s), "\n") })
	if first, _, _ := strings.Cut(k.console(s), "\n"); first != want {
		t.Errorf("the first answer is %q", first)
	}
	if got := k.visit(s.ID, "get", socketPath, "/"); got != want {
		t.Errorf("got %q", got)
	}
	if got, want := k.visit(s.ID, "many", socketPath, "/", "50", "300000"), "50 times name of "+s.ID+" sent 300000\n"; got != want {
		t.Errorf("50 at once: %q", got)
	}
	t.Run("supervisor killed", func(t *testing.T) {
		k.killSupervisor()
		_, err := k.List(t.Context())
		must(t, err)
		until(t, "a new line", func() bool { return k.visit(s.ID, "get", socketPath, "/") == want })
	})
	t.Run("server away", func(t *testing.T) {
		end()
		answer := make(chan string)
		go func() { answer <- k.visit(s.ID, "get", socketPath, "/") }()
		time.Sleep(200 * time.Millisecond)
		k.host(http.HandlerFunc(echo))
		if got := <-answer; got != want {
			t.Errorf("got %q", got)
		}
	})
	t.Run("paused", func(t *testing.T) {
		must(t, k.Pause(t.Context(), s.ID))
		must(t, k.Resume(t.Context(), s.ID))
		k.goesOn(s, want)
	})
	dir := filepath.Join(k.dir, "snap")
	t.Run("saved and resumed", func(t *testing.T) {
		must(t, k.Checkpoint(t.Context(), s.ID, dir))
		must(t, k.Resume(t.Context(), s.ID))
		k.goesOn(s, want)
	})
	t.Run("restored", func(t *testing.T) {
		must(t, k.Destroy(t.Context(), s.ID))
		s.ID += "r"
		must(t, k.Prepare(t.Context(), "pool", ""))
		must(t, k.Restore(t.Context(), s, "pool", dir))
		k.goesOn(s, want)
		if got := k.visit(s.ID, "get", socketPath, "/"); got != want {
			t.Errorf("got %q", got)
		}
	})
}

// goesOn waits until the machine has had many more of the answers it wants.
func (k *kit) goesOn(s sandbox.Spec, want string) {
	k.t.Helper()
	before := len(k.console(s))
	until(k.t, "more answers", func() bool { return strings.Count(k.console(s)[before:], want) > 5 })
}

// TestSocketHeldOpen saves a machine that waits for an answer: it is told that
// there is none, and does not wait for ever.
func TestSocketHeldOpen(t *testing.T) {
	for _, restore := range []bool{false, true} {
		t.Run(fmt.Sprint("restored ", restore), func(t *testing.T) {
			k := newKit(t)
			var asked sync.WaitGroup
			asked.Add(1)
			release := make(chan struct{})
			once := sync.OnceFunc(asked.Done)
			k.host(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				once()
				select {
				case <-release:
				case <-r.Context().Done():
				}
			}))
			s := k.visited("/visitor", "again", socketPath, "/")
			k.start(s)
			asked.Wait()
			dir := filepath.Join(k.dir, "snap")
			must(t, k.Checkpoint(t.Context(), s.ID, dir))
			if restore {
				must(t, k.Destroy(t.Context(), s.ID))
				s.ID += "r"
				must(t, k.Restore(t.Context(), s, "", dir))
			} else {
				must(t, k.Resume(t.Context(), s.ID))
			}
			until(t, "the error", func() bool { return strings.Contains(k.console(s), "error: Post") })
			close(release)
		})
	}
}

// TestSocketAnswerKept: an answer that a machine has not read when it is saved is
// there when it runs on.
func TestSocketAnswerKept(t *testing.T) {
	k := newKit(t)
	answered := make(chan bool)
	k.host(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte(strings.Repeat("x", 50_000) + "end of it"))
		must(t, http.NewResponseController(w).Flush())
		close(answered)
	}))
	s := k.visited("/visitor", "late", socketPath)
	k.start(s)
	<-answered
	dir := filepath.Join(k.dir, "snap")
	must(t, k.Checkpoint(t.Context(), s.ID, dir))
	must(t, k.Destroy(t.Context(), s.ID))
	s.ID += "r"
	must(t, k.Restore(t.Context(), s, "", dir))
	until(t, "the answer", func() bool { return strings.Contains(k.console(s), "xend of it\nended <nil>") })
	if n := strings.Count(k.console(s), "x"); n < 50_000 || n > 50_010 {
		t.Errorf("%d bytes of 50000", n)
	}
}

// TestSocketReaders: a machine that reads slowly, or not at all, holds up its own
// connection and no other; one that leaves frees the server.
func TestSocketReaders(t *testing.T) {
	k := newKit(t)
	freed := make(chan struct{}, 2)
	k.host(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/" {
			echo(w, r)
			return
		}
		for range 160 { // 10 MiB
			if _, err := w.Write(make([]byte, 1<<16)); err != nil {
				freed <- struct{}{}
				return
			}
		}
	}))
	s := k.visited("/visitor", "again", socketPath, "/")
	k.start(s)
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan error)
	go func() {
		_, err := k.Exec(ctx, s.ID, sandbox.ExecSpec{Args: []string{"/visitor", "deaf", socketPath, "/large"}}, sandbox.Streams{})
		left <- err
	}()
	if got := k.visit(s.ID, "slow", socketPath, "/large"); got != "10485760 bytes" {
		t.Errorf("a slow reader got %s", got)
	}
	k.goesOn(s, "name of")
	leave()
	<-left
	select {
	case <-freed:
	case <-time.After(10 * time.Second):
		t.Error("the server still writes to one who left")
	}
}

// TestSocketHostile: what a machine may not do.
func TestSocketHostile(t *testing.T) {
	k := newKit(t)
	s := k.spec("sleep", "1000")
	s.UID, s.GID = 1000, 1000
	s.Sockets = []sandbox.Socket{{Path: socketPath, Host: filepath.Join(k.dir, "door"), Name: "n"}}
	k.start(s)
	run := func(uid uint32, command string) string {
		var out screen
		_, err := k.Exec(t.Context(), s.ID, sandbox.ExecSpec{Args: []string{"sh", "-c", command}, User: true, UID: uid, GID: uid}, sandbox.Streams{Stdout: &out, Stderr: &out})
		must(t, err)
		return strings.TrimSpace(out.buf.String())
	}
	if got := run(0, "stat -c '%F %a %u %g' /.fly/api; ls /.fly"); got != "socket 660 1000 1000\napi" {
		t.Errorf("the socket is %q", got)
	}
	if got := run(5, "echo x > /.fly/x"); !strings.Contains(got, "denied") {
		t.Errorf("another user writes: %q", got)
	}
	for _, bad := range []sandbox.Socket{
		{Path: "api", Host: "/x"}, {Path: "/api", Host: "/x"}, {Path: "/a/../b/api", Host: "/x"}, {Path: "/a/api", Host: "x"},
		{Path: "/a/" + strings.Repeat("b", 200), Host: "/x"}, {Path: "/a/api", Host: "/x", Name: strings.Repeat("n", 300)},
	} {
		s := k.spec("true")
		s.Sockets = []sandbox.Socket{bad}
		if err := k.Start(t.Context(), s, ""); !errors.Is(err, sandbox.ErrInvalid) {
			t.Errorf("socket %+v: %v", bad, err)
		}
	}
}
