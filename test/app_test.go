package test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/perigee-run/perigee/api"
)

func appWithChecks(t testing.TB, name, more string) string {
	t.Helper()
	dir := t.TempDir()
	toml := fmt.Sprintf("app = %q\n[http_service]\n  internal_port = 8080\n  auto_stop_machines = \"suspend\"\n%s%s", name, Checks, more)
	if err := os.WriteFile(filepath.Join(dir, "perigee.toml"), []byte(toml), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestDeploys walks through an app's life: releases without a failed request,
// a broken one that changes nothing, a rollback, secrets.
func TestDeploys(t *testing.T) {
	n := Start(t)
	tar := App(t)
	dir := appWithChecks(t, "shop", "[env]\n  RELEASE = \"one\"\n")
	n.deploy(dir, "--image", tar)
	visitor := n.Visitor()
	const url = "http://shop.apps.localhost"
	if _, b := get(t, visitor, url+"/release"); b != "one" {
		t.Fatalf("first release answers %q", b)
	}
	image := n.machine("shop").Config.Image

	stop := n.load(url + "/release")
	writeConfig(t, dir, "shop", "[env]\n  RELEASE = \"two\"\n")
	n.deploy(dir, "--image", image)
	if answers := stop(); answers["one"] == 0 || answers["two"] == 0 {
		t.Errorf("answers during the deploy: %v", answers)
	}

	writeConfig(t, dir, "shop", "[env]\n  RELEASE = \"three\"\n  EXIT_AT_START = \"1\"\n")
	began := time.Now()
	_, errs, code := n.PerigeeIn(dir, "deploy", "--image", image)
	if code != 6 || !strings.Contains(errs, "cannot open the database, as asked") || !strings.Contains(errs, "7") {
		t.Errorf("broken deploy: exit code %d after %s\n%s", code, time.Since(began), errs)
	}
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("broken deploy took %s to fail", took)
	}
	writeConfig(t, dir, "shop", "[env]\n  RELEASE = \"four\"\n  SICK = \"1\"\n")
	if _, errs, code := n.PerigeeIn(dir, "deploy", "--image", image, "--wait-timeout", "10s"); code != 6 || !strings.Contains(errs, "sick, as asked") {
		t.Errorf("sick deploy: exit code %d\n%s", code, errs)
	}
	if _, b := get(t, visitor, url+"/release"); b != "two" {
		t.Errorf("after two broken deploys the app answers %q", b)
	}
	if list, _ := n.Client.ListMachines(context.Background(), "shop"); len(list) != 1 {
		t.Errorf("%d machines after broken deploys, want 1", len(list))
	}

	if out, errs, code := n.PerigeeIn(dir, "rollback"); code != 0 {
		t.Fatalf("rollback: %s%s", out, errs)
	}
	if _, b := get(t, visitor, url+"/release"); b != "one" {
		t.Errorf("after the rollback the app answers %q", b)
	}
	if out, errs, code := n.PerigeeIn(dir, "secrets", "set", "PASSWORD=swordfish"); code != 0 {
		t.Fatalf("secrets set: %s%s", out, errs)
	}
	if _, b := get(t, visitor, url+"/env?name=PASSWORD"); b != "swordfish" {
		t.Errorf("the app sees the secret as %q", b)
	}
	if out := n.Must("secrets", "list", "-a", "shop", "--json") + n.Must("machine", "list", "-a", "shop", "--json") + n.Log(); strings.Contains(out, "swordfish") {
		t.Error("the secret's value is shown")
	}
	if out := n.Must("releases", "-a", "shop", "--json"); strings.Count(out, `"status": "failed"`) != 2 {
		t.Errorf("releases:\n%s", out)
	}
	n.counts(dir)
}

func (n *Node) counts(dir string) {
	n.T.Helper()
	for _, want := range []int{3, 1} {
		if out, errs, code := n.PerigeeIn(dir, "scale", "count", fmt.Sprint(want)); code != 0 {
			n.T.Fatalf("scale count %d: %s%s", want, out, errs)
		}
		if list, _ := n.Client.ListMachines(context.Background(), "shop"); len(list) != want {
			n.T.Errorf("%d machines after scale count %d", len(list), want)
		}
	}
}

func writeConfig(t testing.TB, dir, name, more string) {
	t.Helper()
	toml := fmt.Sprintf("app = %q\n[http_service]\n  internal_port = 8080\n  auto_stop_machines = \"suspend\"\n%s%s", name, Checks, more)
	if err := os.WriteFile(filepath.Join(dir, "perigee.toml"), []byte(toml), 0o644); err != nil {
		t.Fatal(err)
	}
}

// load asks again and again until stop is called, which returns how often each
// answer came; any failure fails the test.
func (n *Node) load(url string) (stop func() map[string]int) {
	quit, done := make(chan struct{}), make(chan map[string]int)
	client := n.Visitor()
	go func() {
		answers := map[string]int{}
		for {
			select {
			case <-quit:
				done <- answers
				return
			default:
			}
			resp, err := client.Get(url)
			if err != nil {
				n.T.Errorf("a request failed during a deploy: %v", err)
				continue
			}
			var b bytes.Buffer
			b.ReadFrom(resp.Body)
			resp.Body.Close()
			if resp.StatusCode != 200 {
				n.T.Errorf("a request was answered %d during a deploy: %s", resp.StatusCode, b.String())
			}
			answers[b.String()]++
			time.Sleep(5 * time.Millisecond)
		}
	}()
	return func() map[string]int { close(quit); return <-done }
}

// TestEdge checks what the router does for an app: TLS, HTTP/2, headers,
// WebSockets that keep a machine awake, streams, 404 for strangers.
func TestEdge(t *testing.T) {
	n := Start(t, "--pause-after", "1s")
	n.deploy(appWithChecks(t, "edge", ""), "--image", App(t))
	visitor := n.Visitor()
	resp, err := visitor.Get("https://edge.apps.localhost/headers")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.ProtoMajor != 2 {
		t.Errorf("TLS visitor got HTTP/%d", resp.ProtoMajor)
	}
	var h http.Header
	if err := json.NewDecoder(resp.Body).Decode(&h); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"X-Forwarded-Proto": "https", "X-Forwarded-For": "127.0.0.1", "Fly-Client-Ip": "127.0.0.1", "Fly-Region": "lab"} {
		if got := h.Get(name); !strings.HasPrefix(got, want) {
			t.Errorf("%s = %q, want %q", name, got, want)
		}
	}
	if h.Get("X-Request-Id") == "" {
		t.Error("no X-Request-Id reached the app")
	}
	if status, _ := get(t, visitor, "http://stranger.apps.localhost/"); status != 404 {
		t.Errorf("an unknown host is answered %d", status)
	}
	n.webSocketKeepsAwake()
}

// webSocketKeepsAwake holds a WebSocket over TLS open, silent, for longer than
// the idle time: the machine must stay awake, and go to sleep afterwards.
func (n *Node) webSocketKeepsAwake() {
	t := n.T
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	info, err := n.Client.Node(ctx)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(info.CACert))
	client := n.Visitor()
	// WebSocket begins as HTTP/1.1.
	client.Transport.(*http.Transport).TLSClientConfig = &tls.Config{RootCAs: pool, NextProtos: []string{"http/1.1"}}
	client.Transport.(*http.Transport).ForceAttemptHTTP2 = false
	client.Timeout = 0
	c, _, err := websocket.Dial(ctx, "wss://edge.apps.localhost/ws", &websocket.DialOptions{HTTPClient: client})
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(4 * time.Second)
	if s := n.machine("edge").State; s != api.StateStarted {
		t.Errorf("with an open WebSocket the machine is %s", s)
	}
	if err := c.Write(ctx, websocket.MessageText, []byte("still here?")); err != nil {
		t.Fatal(err)
	}
	if _, b, err := c.Read(ctx); err != nil || string(b) != "still here?" {
		t.Fatalf("echo: %q, %v", b, err)
	}
	c.Close(websocket.StatusNormalClosure, "")
	for range 100 {
		if n.machine("edge").State == api.StatePaused {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Errorf("after the WebSocket the machine is %s, not paused", n.machine("edge").State)
}

// TestBrowser opens the app in Chromium, over TLS, with a WebSocket, while the
// machine sleeps.
func TestBrowser(t *testing.T) {
	chromium, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("needs chromium; hint: apt-get install chromium")
	}
	n := Start(t)
	n.deploy(appWithChecks(t, "page", ""), "--image", App(t))
	if err := n.Client.SuspendMachine(context.Background(), "page", n.machine("page").ID); err != nil {
		t.Fatal(err)
	}
	_, port, _ := strings.Cut(n.HTTPS, ":")
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--ignore-certificate-errors",
		"--user-data-dir="+t.TempDir(), "--dump-dom", "https://page.apps.localhost:"+port+"/")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("chromium: %v", err)
	}
	if !strings.Contains(string(out), "echo: hello from the browser") {
		t.Errorf("the page shows:\n%s", out)
	}
}

// TestMisfortune checks what is recorded when an app ends badly.
func TestMisfortune(t *testing.T) {
	n := Start(t)
	ctx := context.Background()
	image := n.importImage("bad", App(t))
	run := func(name string, cmd []string, restart string, memory int) api.Machine {
		t.Helper()
		start := true
		m, err := n.Client.CreateMachine(ctx, "bad", api.CreateMachineRequest{Name: name, Config: &api.MachineConfig{
			Image: image, Init: &api.Init{Cmd: cmd}, Restart: &api.Restart{Policy: restart}, Guest: &api.Guest{MemoryMB: memory},
			Services: []api.Service{{Protocol: "tcp", InternalPort: 8080, Autostart: &start, Ports: []api.Port{{Port: 80, Handlers: []string{"http"}}}}},
		}})
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	for _, c := range []struct {
		name string
		code string
		exit int
	}{{"clean", "0", 0}, {"three", "3", 3}} {
		m := run(c.name, []string{"exit", c.code}, "no", 128)
		if _, err := n.Client.WaitMachine(ctx, "bad", m.ID, api.WaitOptions{States: []string{"stopped", "failed"}}); err != nil {
			t.Fatal(err)
		}
		x := exitEvent(n.mustGet("bad", m.ID))
		if x == nil || x.ExitCode != c.exit || x.OOMKilled {
			t.Errorf("%s: exit event %+v", c.name, x)
		}
		n.Client.DestroyMachine(ctx, "bad", m.ID, true)
	}
	m := run("hungry", nil, "no", 96)
	if _, err := n.Client.WaitMachine(ctx, "bad", m.ID, api.WaitOptions{States: []string{"started"}}); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	resp, err := n.Visitor().Get("http://bad.apps.localhost/eat")
	if err == nil {
		resp.Body.Close()
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("the visitor learnt of the death after %s", took.Round(time.Millisecond))
	}
	if _, err := n.Client.WaitMachine(ctx, "bad", m.ID, api.WaitOptions{States: []string{"stopped", "failed"}}); err != nil {
		t.Fatal(err)
	}
	if x := exitEvent(n.mustGet("bad", m.ID)); x == nil || !x.OOMKilled {
		t.Errorf("out of memory: exit event %+v", x)
	}
	if !strings.Contains(n.Must("logs", "-a", "bad", "-n", "1000"), "about to exit, as asked") {
		t.Error("the app's last words are not in the log")
	}
}

// TestDyingMachine kills a machine in the middle of an answer: the visitor must
// be told at once, and the next one be served.
func TestDyingMachine(t *testing.T) {
	n := Start(t)
	n.deploy(appWithChecks(t, "mortal", ""), "--image", App(t))
	visitor := n.Visitor()
	for _, signal := range []string{"SIGKILL"} {
		id := n.machine("mortal").ID
		time.AfterFunc(300*time.Millisecond, func() { n.Client.SignalMachine(context.Background(), "mortal", id, signal) })
		began := time.Now()
		resp, err := visitor.Get("http://mortal.apps.localhost/slow?for=20s")
		if err == nil {
			var b bytes.Buffer
			_, err = b.ReadFrom(resp.Body)
			resp.Body.Close()
			if err == nil && strings.Contains(b.String(), "end") {
				t.Error("the answer of a killed machine is whole")
			}
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("the visitor learnt of the death after %s", took.Round(time.Millisecond))
		}
		if status, _ := get(t, visitor, "http://mortal.apps.localhost/release"); status != 200 {
			t.Errorf("the next visitor is answered %d", status)
		}
	}
}

func (n *Node) mustGet(app, id string) api.Machine {
	n.T.Helper()
	m, err := n.Client.GetMachine(context.Background(), app, id)
	if err != nil {
		n.T.Fatal(err)
	}
	return m
}

func exitEvent(m api.Machine) *api.ExitEvent {
	for _, e := range m.Events {
		if e.Request != nil && e.Request.ExitEvent != nil {
			return e.Request.ExitEvent
		}
	}
	return nil
}
