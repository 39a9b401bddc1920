package test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/internal/debian"
)

// app writes a configuration for an image that serves HTTP, into a folder of
// its own, and returns the folder.
func app(t testing.TB, name string, port int, more string) string {
	t.Helper()
	dir := t.TempDir()
	toml := fmt.Sprintf(`app = %q

[http_service]
  internal_port = %d
  auto_stop_machines = "suspend"
  auto_start_machines = true
  min_machines_running = 0

[[vm]]
  memory = "512mb"
%s`, name, port, more)
	if err := os.WriteFile(filepath.Join(dir, "perigee.toml"), []byte(toml), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// get asks for a page and returns status and body.
func get(t testing.TB, c *http.Client, url string) (int, string) {
	t.Helper()
	resp, err := c.Get(url)
	if err != nil {
		t.Fatalf("GET %s: %v", url, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("GET %s: %v", url, err)
	}
	return resp.StatusCode, string(b)
}

func (n *Node) deploy(dir string, args ...string) {
	n.T.Helper()
	out, errs, code := n.PerigeeIn(dir, append([]string{"deploy"}, args...)...)
	if code != 0 {
		n.T.Fatalf("perigee deploy: exit code %d\n%s%s", code, out, errs)
	}
}

// machine returns the app's only machine.
func (n *Node) machine(app string) api.Machine {
	n.T.Helper()
	list, err := n.Client.ListMachines(context.Background(), app)
	if err != nil {
		n.T.Fatal(err)
	}
	if len(list) != 1 {
		n.T.Fatalf("app %s has %d machines, want 1", app, len(list))
	}
	return list[0]
}

func TestNginx(t *testing.T) {
	n := Start(t)
	tar := archive(t, "nginx:test", debian.Nginx())
	n.deploy(app(t, "web", 80, ""), "--image", tar)
	status, body := get(t, n.Visitor(), "http://web.apps.localhost/")
	if status != 200 || body != "nginx in a machine\n" {
		t.Fatalf("got %d %q", status, body)
	}
	if _, body := get(t, n.Visitor(), "https://web.apps.localhost/"); body != "nginx in a machine\n" {
		t.Fatalf("over TLS: %q", body)
	}
	out := n.Must("exec", "-a", "web", "-T", "--", "/bin/busybox", "id")
	if !strings.Contains(out, "uid=0") {
		t.Errorf("exec id: %q", out)
	}
	n.wakes("web", func() string { _, b := get(t, n.Visitor(), "http://web.apps.localhost/"); return b }, func(string) string { return "nginx in a machine\n" })
}

// TestNode checks that each way to sleep keeps what it promises: paused and
// suspended machines keep their memory (the counter goes on), stopped ones
// begin anew.
func TestNode(t *testing.T) {
	n := Start(t)
	tar := archive(t, "node:test", debian.Node())
	n.deploy(app(t, "counter", 8080, ""), "--image", tar)
	ask := func() string {
		_, b := get(t, n.Visitor(), "http://counter.apps.localhost/")
		return strings.TrimSpace(b)
	}
	ask()
	n.wakes("counter", ask, func(slept string) string {
		switch slept {
		case api.StatePaused:
			return "node 3"
		case api.StateSuspended:
			return "node 4"
		}
		return "node 1"
	})
}

// wakes puts the app's machine to sleep in every way and asks it something:
// the request must be held and answered as want says.
func (n *Node) wakes(name string, ask func() string, want func(slept string) string) {
	n.T.Helper()
	ctx := context.Background()
	ask()
	for _, sleep := range []struct {
		state string
		do    func(id string) error
	}{
		{api.StatePaused, func(id string) error { return n.Client.PauseMachine(ctx, name, id) }},
		{api.StateSuspended, func(id string) error { return n.Client.SuspendMachine(ctx, name, id) }},
		{api.StateStopped, func(id string) error { return n.Client.StopMachine(ctx, name, id, api.StopRequest{}) }},
	} {
		id := n.machine(name).ID
		if err := sleep.do(id); err != nil {
			n.T.Fatalf("%s: %v", sleep.state, err)
		}
		if got := n.machine(name).State; got != sleep.state {
			n.T.Fatalf("state is %s, want %s", got, sleep.state)
		}
		if got := ask(); got != want(sleep.state) {
			n.T.Errorf("after %s: got %q, want %q", sleep.state, got, want(sleep.state))
		}
		if got := n.machine(name).State; got != api.StateStarted {
			n.T.Errorf("after the request: state is %s, want started", got)
		}
	}
}

func TestPostgres(t *testing.T) {
	n := Start(t)
	tar := archive(t, "pg:test", debian.Postgres())
	dir := t.TempDir()
	port := freeAddr(t)
	_, public, _ := net.SplitHostPort(port)
	toml := fmt.Sprintf(`app = "db"
[[services]]
  internal_port = 5432
  protocol = "tcp"
  [[services.ports]]
    port = %s
  [[services.tcp_checks]]
    grace_period = "30s"
    interval = "5s"
    timeout = "2s"
[[vm]]
  memory = "1gb"
`, public)
	if err := os.WriteFile(filepath.Join(dir, "perigee.toml"), []byte(toml), 0o644); err != nil {
		t.Fatal(err)
	}
	n.deploy(dir, "--image", tar)
	ask := func(sql string) []string {
		return []string{"exec", "-a", "db", "-T", "--", "/usr/lib/postgresql/15/bin/psql", "-h", "127.0.0.1", "-U", "postgres", "-Atc", sql}
	}
	psql := func(sql string) string { return strings.TrimSpace(n.Must(ask(sql)...)) }
	// Its port is open, which is all that is checked, before it takes questions.
	for range 100 {
		if _, _, code := n.Perigee(ask("select 1")...); code == 0 {
			break
		}
		time.Sleep(200 * time.Millisecond)
	}
	psql("create table t as select generate_series(1, 1000) i")
	if got := psql("select sum(i) from t"); got != "500500" {
		t.Fatalf("sum = %q", got)
	}
	// The wire protocol through the router's raw TCP port: SSLRequest is refused with N.
	conn, err := net.DialTimeout("tcp", "127.0.0.1:"+public, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	conn.Write([]byte{0, 0, 0, 8, 4, 210, 22, 47})
	if b, err := bufio.NewReader(conn).ReadByte(); err != nil || b != 'N' {
		t.Fatalf("answer to SSLRequest: %q, %v", b, err)
	}
	// A database keeps what it holds through a suspend to disk.
	if err := n.Client.SuspendMachine(context.Background(), "db", n.machine("db").ID); err != nil {
		t.Fatal(err)
	}
	if got := psql("select count(*) from t"); got != "1000" {
		t.Fatalf("after suspend: %q rows", got)
	}
}
