//go:build linux

package build

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// namespace binds a new, empty network namespace to a file.
func namespace(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "netns")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "")
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(path, unix.MNT_DETACH) })
	return path
}

// TestStepsHaveTheGivenNetworks: steps, and what ADD downloads, are in the given
// namespaces, whatever the Dockerfile says; a step waits for one that is free.
func TestStepsHaveTheGivenNetworks(t *testing.T) {
	cfg := testConfig(t)
	asked := 0
	path := namespace(t)
	cfg.Networks = func(context.Context) ([]string, error) { asked++; return []string{path}, nil }
	cfg.Nameservers = []string{"192.0.2.53"}
	e := newEngine(t, cfg)
	host := httptest.NewServer(http.NotFoundHandler())
	defer host.Close()
	dir := project(t, map[string]string{"Dockerfile": runnable +
		"RUN /bin/busybox cat /proc/net/dev > /devices; /bin/busybox cat /etc/resolv.conf > /resolv\n" +
		"RUN --network=host /bin/busybox cat /proc/net/dev > /host\n" +
		"RUN --network=default /bin/busybox cat /proc/net/dev > /default\n"})
	_, files, _ := mustBuild(t, e, Request{ContextDir: dir})
	for _, name := range []string{"/devices", "/host", "/default"} {
		if lines := strings.Split(strings.TrimSpace(files[name]), "\n"); len(lines) != 3 || !strings.Contains(lines[2], "lo:") {
			t.Errorf("%s: not an empty namespace: %q", name, files[name])
		}
	}
	if !strings.Contains(files["/resolv"], "nameserver 192.0.2.53") {
		t.Errorf("resolv.conf: %q", files["/resolv"])
	}
	if asked != 1 {
		t.Errorf("networks were asked for %d times", asked)
	}
	dir = project(t, map[string]string{"Dockerfile": "FROM scratch\nADD " + host.URL + "/a /a\n"})
	if _, _, _, err := build(t, e, Request{ContextDir: dir}); err == nil || !strings.Contains(err.Error(), "unreachable") && !strings.Contains(err.Error(), "refused") {
		t.Errorf("ADD from this host: %v", err)
	}
}

func TestNetworksAreLentOnce(t *testing.T) {
	n := newNetworks([]string{"a"})
	first, err := n.New(t.Context(), "", struct{}{})
	if err != nil {
		t.Fatal(err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := n.New(gone, "", struct{}{}); err == nil {
		t.Error("two steps have one network")
	}
	first.Close()
	first.Close() // as BuildKit may
	if _, err := n.New(t.Context(), "", struct{}{}); err != nil {
		t.Error(err)
	}
	if _, err := n.New(gone, "", struct{}{}); err == nil {
		t.Error("a network was given back twice")
	}
}

func TestDialFromStaysAway(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes a network namespace")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if c, err := dialFrom(t.Context(), namespace(t), "tcp", l.Addr().String()); err == nil {
		c.Close()
		t.Error("the host was reached from an empty namespace")
	}
}
