package main

import (
	"log/slog"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/control/server"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/runsc/boot"

	"github.com/perigee-run/perigee/sandbox"
)

// TestFieldsOfGVisor fails when another gVisor keeps its kernel or its control
// server elsewhere: then machines with sockets would not start.
func TestFieldsOfGVisor(t *testing.T) {
	l := reflect.TypeFor[boot.Loader]()
	if f, ok := l.FieldByName("k"); !ok || f.Type != reflect.TypeFor[*kernel.Kernel]() {
		t.Errorf("the kernel is %v", f.Type)
	}
	ctrl, ok := l.FieldByName("ctrl")
	if !ok || ctrl.Type.Kind() != reflect.Pointer {
		t.Fatal("there is no controller")
	}
	if f, ok := ctrl.Type.Elem().FieldByName("srv"); !ok || f.Type != reflect.TypeFor[*server.Server]() {
		t.Errorf("the control server is %v", f.Type)
	}
}

func TestPace(t *testing.T) {
	var p pace
	now := time.Now()
	for i := range lineBurst {
		if d := p.delay(now); d > 0 {
			t.Fatalf("number %d waits %s", i, d)
		}
	}
	if d := p.delay(now); d != lineEvery {
		t.Errorf("one too many waits %s", d)
	}
	if d := p.delay(now.Add(time.Second)); d > 0 {
		t.Errorf("a second later it waits %s", d)
	}
}

// FuzzLine asks what a sandbox may ask that is no longer gVisor's: an answer is
// the question's number, and a connection only for a socket that there is.
func FuzzLine(f *testing.F) {
	const known = "/.fly/api"
	for _, seed := range []string{"", "\x00", "\x00\x00\x00\x01", "\x00\x00\x00\x01" + known, "\x00\x00\x00\x02/etc/passwd", "\x00\x00\x00\x03" + known + "\x00"} {
		f.Add([]byte(seed))
	}
	host := filepath.Join(f.TempDir(), "door")
	l, err := sandbox.ListenDoor(host)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { l.Close() })
	go func() {
		for door := sandbox.NewDoor(l); ; {
			c, err := door.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	s := &supervisor{log: slog.New(slog.DiscardHandler)}
	sockets := []sandbox.Socket{{Path: known, Host: host, Name: "n"}}
	f.Fuzz(func(t *testing.T, question []byte) {
		ours, theirs, err := claimPair()
		if err != nil {
			t.Fatal(err)
		}
		defer ours.Close()
		defer theirs.Close()
		_ = s.answerLine(&box{}, sockets, ours, question, make(chan struct{}, 1))
		ours.Close()
		checkAnswer(t, int(theirs.Fd()), question, len(question) >= 4 && string(question[4:]) == known)
	})
}

func checkAnswer(t *testing.T, line int, question []byte, connected bool) {
	t.Helper()
	buf, oob := make([]byte, 64), make([]byte, unix.CmsgSpace(64))
	n, oobn, err := recvmsg(line, buf, oob)
	if err != nil {
		t.Fatal(err)
	}
	fds, _ := parseRights(oob[:oobn])
	for _, fd := range fds {
		unix.Close(fd)
	}
	switch {
	case len(question) < 4 && n != 0:
		t.Errorf("a short question is answered by %q", buf[:n])
	case len(question) >= 4 && string(buf[:n]) != string(question[:4]):
		t.Errorf("%q is answered by %q", question, buf[:n])
	case connected != (len(fds) == 1) || len(fds) > 1:
		t.Errorf("%q gets %d files", question, len(fds))
	}
}
