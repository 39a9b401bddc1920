//go:build linux

package space

import (
	"context"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func newSpace(t *testing.T, cfg Config) *Space {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root to make namespaces")
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func TestCommandRunsInside(t *testing.T) {
	conf := t.TempDir() + "/resolv.conf"
	if err := os.WriteFile(conf, []byte("nameserver 192.0.2.1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	s := newSpace(t, Config{Hostname: "visitor", ResolvConf: conf})
	out, err := s.Command(t.Context(), "sh", "-c", "hostname; cat /etc/resolv.conf; ls /sys/class/net >/dev/null; cat /proc/net/dev | grep -c :; ls -d /proc/[0-9]* | wc -l; cat /proc/1/comm").CombinedOutput()
	if err != nil {
		t.Fatal(err, string(out))
	}
	f := strings.Fields(string(out))
	if f[0] != "visitor" || f[2] != "192.0.2.1" || f[3] != "1" || f[5] != "sh" {
		t.Errorf("the host is not of its own: %q", out)
	}
	if _, err := s.Command(t.Context(), "false").Output(); err == nil {
		t.Error("a failing program did not fail")
	}
}

func TestSocketsAreInside(t *testing.T) {
	s := newSpace(t, Config{})
	l, err := s.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if c, err := net.Dial("tcp", l.Addr().String()); err == nil {
		c.Close()
		t.Error("a listener of the host can be reached from outside")
	}
	go func() {
		c, err := l.Accept()
		if err == nil {
			c.Write([]byte("hello"))
			c.Close()
		}
	}()
	c, err := s.Dial(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b := make([]byte, 5)
	if _, err := c.Read(b); err != nil || string(b) != "hello" || c.RemoteAddr().String() != l.Addr().String() {
		t.Errorf("read %q from %v: %v", b, c.RemoteAddr(), err)
	}
	if _, err := s.Dial(t.Context(), "tcp", "127.0.0.1:1"); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("want refused, got %v", err)
	}
	if _, err := s.Dial(t.Context(), "tcp", "192.0.2.1:80"); err == nil || !strings.Contains(err.Error(), "unreachable") {
		t.Errorf("want unreachable, got %v", err)
	}
}

func TestCloseEndsAllProcesses(t *testing.T) {
	s := newSpace(t, Config{})
	// A daemon that nobody waits for.
	mark := "86321.7"
	if out, err := s.Command(t.Context(), "sh", "-c", "setsid sleep "+mark+" >/dev/null 2>&1 & sleep 0.1").CombinedOutput(); err != nil {
		t.Fatal(err, string(out))
	}
	if !runs(mark) {
		t.Fatal("the daemon does not run")
	}
	s.Close()
	if runs(mark) {
		t.Error("a process survived its host")
	}
	if err := s.Command(context.Background(), "true").Run(); err == nil {
		t.Error("a closed host ran a program")
	}
}

func runs(arg string) bool {
	files, _ := os.ReadDir("/proc")
	for _, f := range files {
		b, _ := os.ReadFile("/proc/" + f.Name() + "/cmdline")
		if string(b) == "sleep\x00"+arg+"\x00" {
			return true
		}
	}
	return false
}

func TestEnterFromOutside(t *testing.T) {
	s := newSpace(t, Config{Hostname: "inside"})
	var out strings.Builder
	cmd := exec.Command("hostname")
	cmd.Stdout = &out
	if err := Enter(s.Pid(), cmd); err != nil || strings.TrimSpace(out.String()) != "inside" {
		t.Errorf("entered %q: %v", out.String(), err)
	}
	if here, _ := os.Hostname(); here == "inside" {
		t.Error("entering changed this process")
	}
}

func TestOrphansAreReaped(t *testing.T) {
	s := newSpace(t, Config{})
	if err := s.Command(t.Context(), "sh", "-c", "for i in 1 2 3; do (setsid sleep 0.01 &) ; done").Run(); err != nil {
		t.Fatal(err)
	}
	var out []byte
	for range 100 {
		out, _ = s.Command(t.Context(), "sh", "-c", "cat /proc/[0-9]*/stat | grep -c ' Z '").Output()
		if strings.TrimSpace(string(out)) == "0" {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Errorf("%s zombies are left", out)
}
