package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/perigee-run/perigee/api"
)

func TestTokens(t *testing.T) {
	k := newKit(t)
	for _, token := range []string{"Bearer " + secret, "bearer " + secret, "FlyV1 " + secret, "Basic " + basic("x:"+secret)} {
		if resp, b := k.do(t, "GET", "/v1/apps", token, ""); resp.StatusCode != 200 {
			t.Errorf("%q: %d %s", token, resp.StatusCode, b)
		}
	}
	r, _ := http.NewRequest("GET", "/", nil)
	r.SetBasicAuth("", "")
	if _, err := Token("").Authenticate(r); err == nil {
		t.Error("an empty token lets in")
	}
}

func TestLost(t *testing.T) {
	k := newKit(t)
	for _, c := range []struct {
		method, path string
		status       int
		code         string
	}{
		{"GET", "/", 404, api.CodeNotFound}, {"GET", "/v1/nothing", 404, api.CodeNotFound}, {"GET", "/v2/", 404, api.CodeNotFound},
		{"PUT", "/v1/apps", 405, api.CodeBadRequest}, {"DELETE", "/healthz", 405, api.CodeBadRequest}, {"GET", "/v1/apps/a%2Fb", 404, api.CodeNotFound},
		{"GET", "/v1/apps/none/machines", 404, api.CodeNotFound}, {"GET", "/v1/apps/%00", 404, api.CodeNotFound},
	} {
		resp, b := k.do(t, c.method, c.path, "Bearer "+secret, "")
		if resp.StatusCode != c.status || !isError(b, c.code) || resp.Header.Get(api.RequestIDHeader) == "" {
			t.Errorf("%s %s: %d %s", c.method, c.path, resp.StatusCode, b)
		}
		if c.status == 405 && resp.Header.Get("Allow") == "" {
			t.Errorf("%s %s does not say what is allowed", c.method, c.path)
		}
	}
}

func TestBodyLimitAndWarnings(t *testing.T) {
	k := newKit(t)
	resp, b := k.do(t, "POST", "/v1/apps", "Bearer "+secret, `{"app_name":"`+strings.Repeat("x", 3<<20)+`"}`)
	if resp.StatusCode != http.StatusRequestEntityTooLarge || !isError(b, api.CodeBadRequest) {
		t.Errorf("3 MiB: %d %s", resp.StatusCode, b)
	}
	k.app(t, "shop")
	resp, b = k.do(t, "POST", "/v1/apps/shop/machines", "Bearer "+secret, `{"config":{"image":"one","enviroment":{},"guest":{"cpus":null,"\r\n":1}},"extra":1}`)
	warnings := strings.Join(resp.Header.Values("Warning"), " ")
	if resp.StatusCode != 200 || !strings.Contains(warnings, "config.enviroment") || !strings.Contains(warnings, "extra") || !strings.Contains(warnings, "config.guest") {
		t.Errorf("%d %s, warnings %q", resp.StatusCode, b, warnings)
	}
}

func TestPanicIsAnAnswer(t *testing.T) {
	k := newKit(t)
	s := &Server{cfg: Config{Logger: quietLogger()}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /boom", func(http.ResponseWriter, *http.Request) { panic("boom") })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: s.guard(mux)}
	go server.Serve(l)
	defer server.Close()
	k.url = "http://" + l.Addr().String()
	if resp, b := k.do(t, "GET", "/boom", "", ""); resp.StatusCode != 500 || !isError(b, api.CodeInternal) {
		t.Errorf("%d %s", resp.StatusCode, b)
	}
}

func TestUnixSocketNeedsNoToken(t *testing.T) {
	k := newKit(t)
	s, err := New(Config{Apps: k.apps, Deploys: noDeploys{}, Machines: k.machines, Images: shelf{}, Node: self{k}, Logger: quietLogger()})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: s.Handler(Trust("root"))}
	go server.Serve(l)
	defer server.Close()
	c, err := api.NewClient(api.ClientConfig{Addr: "unix://" + path})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if n, err := c.Node(t.Context()); err != nil || n.Name != "n1" {
		t.Errorf("node = %+v, %v", n, err)
	}
}

func TestClientAddresses(t *testing.T) {
	for addr, ok := range map[string]bool{"unix:///run/x": true, "http://h:1": true, "https://h/": true, "": false, "h:1": false, "unix:": false, "ftp://x": false, "http://": false, "://": false} {
		if _, err := api.NewClient(api.ClientConfig{Addr: addr}); (err == nil) != ok {
			t.Errorf("%q: %v", addr, err)
		}
	}
	c, _ := api.NewClient(api.ClientConfig{Addr: "http://127.0.0.1:1"})
	if _, err := c.ListApps(t.Context()); err == nil {
		t.Error("nobody answers, but no error")
	}
}

type noDeploys struct{ Deploys }

func TestApps(t *testing.T) {
	k, ctx := newKit(t), t.Context()
	r, err := k.CreateApp(ctx, api.CreateAppRequest{AppName: "shop"})
	if err != nil || r.ID == "" || r.CreatedAt < 1e12 {
		t.Fatalf("create = %+v, %v", r, err)
	}
	if _, err := k.CreateApp(ctx, api.CreateAppRequest{AppName: "shop"}); !api.IsCode(err, api.CodeNameTaken) || api.AsError(err).Status != 409 {
		t.Errorf("second create: %v", err)
	}
	if _, err := k.CreateApp(ctx, api.CreateAppRequest{AppName: "No"}); api.AsError(err).Field != "app_name" || api.AsError(err).Hint == "" {
		t.Errorf("bad name: %+v", err)
	}
	if err := k.AddHost(ctx, "shop", "shop.example.com"); err != nil {
		t.Fatal(err)
	}
	a, err := k.GetApp(ctx, "shop")
	if err != nil || a.Status != "pending" || len(a.Hosts) != 1 || a.Organization.Slug != "personal" {
		t.Errorf("app = %+v, %v", a, err)
	}
	hosts, err := k.ListHosts(ctx, "shop")
	if err != nil || len(hosts) != 1 {
		t.Errorf("hosts = %v, %v", hosts, err)
	}
	if err := k.RemoveHost(ctx, "shop", "shop.example.com"); err != nil {
		t.Error(err)
	}
	all, err := k.ListApps(ctx)
	if err != nil || len(all) != 1 {
		t.Errorf("list = %v, %v", all, err)
	}
	if err := k.DeleteApp(ctx, "shop"); err != nil {
		t.Error(err)
	}
	if _, err := k.GetApp(ctx, "shop"); !api.IsCode(err, api.CodeNotFound) {
		t.Errorf("after the destruction: %v", err)
	}
}

func TestSecrets(t *testing.T) {
	k, ctx := newKit(t), t.Context()
	k.app(t, "shop")
	v := "hunter2"
	r, err := k.SetSecrets(ctx, "shop", map[string]*string{"A": &v, "B": &v})
	if err != nil || r.Version != 1 || len(r.Secrets) != 2 {
		t.Fatalf("set = %+v, %v", r, err)
	}
	if _, err := k.SetSecrets(ctx, "shop", map[string]*string{"B": nil}); err != nil {
		t.Fatal(err)
	}
	_, b := k.do(t, "GET", "/v1/apps/shop/secrets", "Bearer "+secret, "")
	if bytes.Contains(b, []byte(v)) || bytes.Contains(b, []byte(`"B"`)) {
		t.Errorf("list = %s", b)
	}
	if _, err := k.SetSecrets(ctx, "shop", map[string]*string{"A-B": &v}); api.AsError(err).Field != "values.A-B" {
		t.Errorf("bad name: %v", err)
	}
	resp, b := k.do(t, "DELETE", "/v1/apps/shop/secrets/A", "Bearer "+secret, "")
	if resp.StatusCode != 200 {
		t.Errorf("delete: %s", b)
	}
	if s, err := k.ListSecrets(ctx, "shop"); err != nil || len(s) != 0 {
		t.Errorf("list = %v, %v", s, err)
	}
}

func TestMachineLife(t *testing.T) {
	k, ctx := newKit(t), t.Context()
	m := k.machine(t, "shop")
	if m.State != api.StateStarted || m.InstanceID == "" {
		t.Fatalf("machine = %+v", m)
	}
	for _, verb := range []struct {
		do    func() error
		state string
	}{
		{func() error { return k.PauseMachine(ctx, "shop", m.ID) }, api.StatePaused},
		{func() error { return k.StartMachine(ctx, "shop", m.ID) }, api.StateStarted},
		{func() error { return k.RestartMachine(ctx, "shop", m.ID) }, api.StateStarted},
		{func() error { return k.SignalMachine(ctx, "shop", m.ID, "SIGHUP") }, api.StateStarted},
		{func() error { return k.SuspendMachine(ctx, "shop", m.ID) }, api.StateSuspended},
		{func() error { return k.StopMachine(ctx, "shop", m.ID, api.StopRequest{Timeout: api.D(time.Second)}) }, api.StateStopped},
		{func() error { return k.StartMachine(ctx, "shop", m.ID) }, api.StateStarted},
	} {
		if err := verb.do(); err != nil {
			t.Fatalf("to %s: %v", verb.state, err)
		}
		if r, err := k.WaitMachine(ctx, "shop", m.ID, api.WaitOptions{States: []string{verb.state}, Timeout: 5 * time.Second}); err != nil || r.State != verb.state {
			t.Errorf("wait for %s = %+v, %v", verb.state, r, err)
		}
	}
	machineLooks(ctx, t, k, m)
	if err := k.DestroyMachine(ctx, "shop", m.ID, false); !api.IsCode(err, api.CodePrecondition) {
		t.Errorf("destruction of one that runs: %v", err)
	}
	if err := k.DestroyMachine(ctx, "shop", m.ID, true); err != nil {
		t.Error(err)
	}
}

func machineLooks(ctx context.Context, t *testing.T, k *kit, m api.Machine) {
	if _, err := k.WaitMachine(ctx, "shop", m.ID, api.WaitOptions{States: []string{"stopped"}, Timeout: time.Second}); !api.IsCode(err, api.CodeTimeout) || api.AsError(err).Status != 408 {
		t.Errorf("wait for what does not come: %v", err)
	}
	for _, bad := range []string{"timeout=61", "timeout=x", "timeout=-1", "state=flying"} {
		if resp, b := k.do(t, "GET", "/v1/apps/shop/machines/"+m.ID+"/wait?"+bad, "Bearer "+secret, ""); resp.StatusCode != 422 {
			t.Errorf("wait?%s: %d %s", bad, resp.StatusCode, b)
		}
	}
	if p, err := k.Processes(ctx, "shop", m.ID); err != nil || len(p) != 1 {
		t.Errorf("processes = %v, %v", p, err)
	}
	if e, err := k.Events(ctx, "shop", m.ID); err != nil || len(e) < 5 {
		t.Errorf("events = %v, %v", e, err)
	}
	u, err := k.UpdateMachine(ctx, "shop", m.ID, api.CreateMachineRequest{Config: &api.MachineConfig{Image: "one", Env: map[string]string{"A": "1"}}, CurrentVersion: m.InstanceID})
	if err != nil || u.InstanceID == m.InstanceID {
		t.Errorf("update = %+v, %v", u, err)
	}
	_, err = k.UpdateMachine(ctx, "shop", m.ID, api.CreateMachineRequest{Config: &api.MachineConfig{Image: "one"}, CurrentVersion: m.InstanceID})
	if !api.IsCode(err, api.CodeConflict) {
		t.Errorf("update of an old version: %v", err)
	}
	if v, err := k.Versions(ctx, "shop", m.ID); err != nil || len(v) != 2 || v[0].Version != u.InstanceID {
		t.Errorf("versions = %v, %v", v, err)
	}
	var former api.Machine
	_, b := k.do(t, "GET", "/v1/apps/shop/machines/"+m.ID+"?version="+m.InstanceID, "Bearer "+secret, "")
	if err := json.Unmarshal(b, &former); err != nil || former.Config == nil || len(former.Config.Env) != 0 {
		t.Errorf("former version = %s", b)
	}
	k.app(t, "other")
	if _, err := k.GetMachine(ctx, "other", m.ID); !api.IsCode(err, api.CodeNotFound) {
		t.Errorf("another app's machine: %v", err)
	}
	if err := k.DestroyMachine(ctx, "other", m.ID, true); !api.IsCode(err, api.CodeNotFound) {
		t.Errorf("destruction through another app: %v", err)
	}
}

func TestLeases(t *testing.T) {
	k, ctx := newKit(t), t.Context()
	m := k.machine(t, "shop")
	l, err := k.AcquireLease(ctx, "shop", m.ID, api.LeaseRequest{TTL: 60, Description: "deploy"})
	if err != nil || l.Nonce == "" || l.Owner != "token" {
		t.Fatalf("lease = %+v, %v", l, err)
	}
	if err := k.CordonMachine(ctx, "shop", m.ID); !api.IsCode(err, api.CodeConflict) {
		t.Errorf("a change without the nonce: %v", err)
	}
	own := k.WithLease(l.Nonce)
	if err := own.CordonMachine(ctx, "shop", m.ID); err != nil {
		t.Error(err)
	}
	if again, err := own.AcquireLease(ctx, "shop", m.ID, api.LeaseRequest{TTL: 90}); err != nil || again.Nonce != l.Nonce || again.ExpiresAt <= l.ExpiresAt {
		t.Errorf("prolonged = %+v, %v", again, err)
	}
	for nonce, want := range map[string]string{l.Nonce: l.Nonce, "wrong": "", "": ""} {
		if shown, err := k.WithLease(nonce).GetLease(ctx, "shop", m.ID); err != nil || shown.Nonce != want || shown.Description == "" {
			t.Errorf("shown to who sends %q: %+v, %v", nonce, shown, err)
		}
	}
	_, b := k.do(t, "GET", "/v1/apps/shop/machines/"+m.ID+"/lease", "Bearer "+secret, "")
	if !bytes.HasPrefix(b, []byte(`{"status":"success","data":{`)) {
		t.Errorf("lease travels as %s", b)
	}
	if err := own.ReleaseLease(ctx, "shop", m.ID); err != nil {
		t.Error(err)
	}
	if _, err := k.GetLease(ctx, "shop", m.ID); !api.IsCode(err, api.CodeNotFound) {
		t.Errorf("after the release: %v", err)
	}
}

func TestMetadata(t *testing.T) {
	k, ctx := newKit(t), t.Context()
	m := k.machine(t, "shop")
	at := "/v1/apps/shop/machines/" + m.ID + "/metadata"
	if err := k.SetMetadata(ctx, "shop", m.ID, "tier", "db"); err != nil {
		t.Fatal(err)
	}
	resp, b := k.do(t, "PATCH", at, "Bearer "+secret, `{"metadata":{"tier":null,"zone":"a"}}`)
	if resp.StatusCode != 200 || strings.TrimSpace(string(b)) != `{"zone":"a"}` {
		t.Errorf("patch: %d %s", resp.StatusCode, b)
	}
	if resp, b := k.do(t, "PATCH", at, "Bearer "+secret, `{"metadata":{},"machine_version":"old"}`); resp.StatusCode != 409 {
		t.Errorf("patch of an old version: %d %s", resp.StatusCode, b)
	}
	if resp, b := k.do(t, "GET", at+"/zone", "Bearer "+secret, ""); resp.StatusCode != 200 || !strings.Contains(string(b), `"a"`) {
		t.Errorf("one key: %d %s", resp.StatusCode, b)
	}
	for query, n := range map[string]int{"?metadata.zone=a": 1, "?metadata.zone=b": 0, "?state=started,stopped": 1, "?state=stopped": 0, "?region=fra": 1, "?region=ams": 0} {
		var list []api.Machine
		_, b := k.do(t, "GET", "/v1/apps/shop/machines"+query, "Bearer "+secret, "")
		if err := json.Unmarshal(b, &list); err != nil || len(list) != n {
			t.Errorf("list%s = %s", query, b)
		}
	}
	if err := k.DeleteMetadata(ctx, "shop", m.ID, "zone"); err != nil {
		t.Error(err)
	}
	if all, err := k.Metadata(ctx, "shop", m.ID); err != nil || len(all) != 0 {
		t.Errorf("metadata = %v, %v", all, err)
	}
}

func TestFlyClientsSeeKnownStates(t *testing.T) {
	k := newKit(t)
	m := k.machine(t, "shop")
	if err := k.PauseMachine(t.Context(), "shop", m.ID); err != nil {
		t.Fatal(err)
	}
	fly, err := api.NewClient(api.ClientConfig{Addr: k.url, Token: secret, UserAgent: "flyctl/0.4.1"})
	if err != nil {
		t.Fatal(err)
	}
	defer fly.Close()
	if m, err := fly.GetMachine(t.Context(), "shop", m.ID); err != nil || m.State != api.StateSuspended {
		t.Errorf("flyctl sees %s, %v", m.State, err)
	}
	if m, err := k.GetMachine(t.Context(), "shop", m.ID); err != nil || m.State != api.StatePaused {
		t.Errorf("we see %s, %v", m.State, err)
	}
}

func TestExec(t *testing.T) {
	k, ctx := newKit(t), t.Context()
	m := k.machine(t, "shop")
	r, err := k.Exec(ctx, "shop", m.ID, api.ExecRequest{Command: []string{"cat"}, Stdin: "hello"})
	if err != nil || r.Stdout != "hello" {
		t.Errorf("exec = %+v, %v", r, err)
	}
	var out, errs bytes.Buffer
	x, err := k.ExecStream(ctx, "shop", m.ID, api.ExecStreamRequest{Command: []string{"sh", "-c", "cat; echo bad >&2; exit 7"}},
		api.ExecIO{Stdin: strings.NewReader(strings.Repeat("x", 100_000)), Stdout: &out, Stderr: &errs})
	if err != nil || x.ExitCode != 7 || out.Len() != 100_000 || errs.String() != "bad\n" {
		t.Errorf("stream = %+v, %v, %d bytes, %q", x, err, out.Len(), errs.String())
	}
	out.Reset()
	sizes := make(chan api.TerminalSize, 1)
	sizes <- api.TerminalSize{Cols: 132, Rows: 43}
	if _, err := k.ExecStream(ctx, "shop", m.ID, api.ExecStreamRequest{Command: []string{"sizes"}, TTY: true}, api.ExecIO{Stdout: &out, Resize: sizes}); err != nil || out.String() != "132x43" {
		t.Errorf("resize: %q, %v", out.String(), err)
	}
	if _, err := k.ExecStream(ctx, "shop", m.ID, api.ExecStreamRequest{}, api.ExecIO{}); api.AsError(err).Field != "command" {
		t.Errorf("no command: %v", err)
	}
	for _, bad := range []api.ExecStreamRequest{{Program: "/bin/sh"}, {Program: "sftp", Command: []string{"true"}}} {
		if _, err := k.ExecStream(ctx, "shop", m.ID, bad, api.ExecIO{}); api.AsError(err).Field != "program" || !api.IsCode(err, api.CodeInvalid) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	if _, err := k.ExecStream(ctx, "shop", "00000000000000", api.ExecStreamRequest{Command: []string{"true"}}, api.ExecIO{}); !api.IsCode(err, api.CodeNotFound) {
		t.Errorf("no machine: %v", err)
	}
	short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	if _, err := k.ExecStream(short, "shop", m.ID, api.ExecStreamRequest{Command: []string{"sleep", "60"}}, api.ExecIO{}); err == nil {
		t.Error("a command outlives its client")
	}
}

func TestStreams(t *testing.T) {
	k, ctx := newKit(t), t.Context()
	k.app(t, "shop")
	image, err := last(k.PullImage(ctx, "one"))
	if err != nil || !strings.HasPrefix(image.Image, "r/a@sha256:") {
		t.Errorf("pull = %+v, %v", image, err)
	}
	if _, err := last(k.PullImage(ctx, "missing")); !api.IsCode(err, api.CodeImage) || api.AsError(err).Status != 422 {
		t.Errorf("pull of nothing: %v", err)
	}
	if p, err := last(k.ImportImage(ctx, "shop", strings.NewReader("tar"))); err != nil || p.Image != "r/shop@sha256:imported" {
		t.Errorf("import = %+v, %v", p, err)
	}
	if _, err := last(k.ImportImage(ctx, "shop", strings.NewReader("bad"))); !api.IsCode(err, api.CodeImage) {
		t.Errorf("bad archive: %v", err)
	}
	if _, err := last(k.ImportImage(ctx, "none", strings.NewReader("tar"))); !api.IsCode(err, api.CodeNotFound) {
		t.Errorf("import for no app: %v", err)
	}
	if _, err := last(k.ImportImage(ctx, "shop", failing{})); err == nil || !strings.Contains(err.Error(), "disk on fire") {
		t.Errorf("an upload that cannot be read: %v", err)
	}
	var lines []api.Progress
	for p, err := range k.Build(ctx, "shop", api.BuildOptions{Dockerfile: "d", Target: "t", Args: map[string]string{"A": "a=b c"}, NoCache: true}, strings.NewReader("tar")) {
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, p)
	}
	if len(lines) != 2 || lines[0].Message != "shop d t a=b c true 3" || lines[1].Image != "r/shop@sha256:built" {
		t.Errorf("build = %+v", lines)
	}
	if _, err := last(k.Build(ctx, "shop", api.BuildOptions{Dockerfile: "broken"}, strings.NewReader("tar"))); !api.IsCode(err, api.CodeBuildFailed) {
		t.Errorf("broken build: %v", err)
	}
	if i, err := k.ListImages(ctx); err != nil || len(i) != 1 {
		t.Errorf("images = %v, %v", i, err)
	}
	if err := k.DeleteImage(ctx, "r/a:1"); err != nil {
		t.Error(err)
	}
	if err := k.DeleteImage(ctx, "sha256:none"); !api.IsCode(err, api.CodeNotFound) {
		t.Errorf("image that is not there: %v", err)
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, fmt.Errorf("disk on fire") }

var _ io.Reader = failing{}

func last(seq func(func(api.Progress, error) bool)) (p api.Progress, err error) {
	for p, err = range seq {
		if err != nil {
			return p, err
		}
	}
	if p.Kind != "done" {
		return p, fmt.Errorf("the stream ends with %+v", p)
	}
	return p, nil
}

func TestLogs(t *testing.T) {
	k, ctx := newKit(t), t.Context()
	k.app(t, "shop")
	n := 0
	for l, err := range k.Logs(ctx, "shop", api.LogQuery{Lines: 5, Machine: "m", Since: time.Now(), Follow: true}) {
		if err != nil || l.Text != fmt.Sprintf("line %d of 5", n) || l.Machine != "m" {
			t.Fatalf("line = %+v, %v", l, err)
		}
		if n++; n == 3 {
			break // the stream itself does not end
		}
	}
	var broke error
	for _, err := range k.Logs(ctx, "shop", api.LogQuery{Machine: "broken"}) {
		broke = err
	}
	if broke == nil {
		t.Error("a log that breaks off ends as if it were whole")
	}
	for _, bad := range []string{"lines=x", "since=yesterday", "follow=perhaps"} {
		if resp, b := k.do(t, "GET", "/v1/apps/shop/logs?"+bad, "Bearer "+secret, ""); resp.StatusCode != 422 {
			t.Errorf("logs?%s: %d %s", bad, resp.StatusCode, b)
		}
	}
}

func TestReleases(t *testing.T) {
	k, ctx := newKit(t), t.Context()
	k.app(t, "shop")
	groups := map[string]api.MachineConfig{"app": {}}
	p, err := last(k.Deploy(ctx, "shop", api.DeployRequest{Image: "one", Groups: groups}))
	if err != nil || p.Release == nil || p.Release.Version != 1 {
		t.Fatalf("deploy = %+v, %v", p, err)
	}
	if p, err = last(k.Scale(ctx, "shop", api.ScaleRequest{Counts: map[string]int{"app": 2}})); err != nil || p.Release.Version != 2 {
		t.Errorf("scale = %+v, %v", p, err)
	}
	if p, err = last(k.Rollback(ctx, "shop", 1)); err != nil || p.Release.Version != 3 {
		t.Errorf("rollback = %+v, %v", p, err)
	}
	if _, err := last(k.Deploy(ctx, "shop", api.DeployRequest{Image: "missing"})); !api.IsCode(err, api.CodeImage) || api.AsError(err).Status != 422 {
		t.Errorf("missing image: %v", err)
	}
	if _, err := last(k.Rollback(ctx, "shop", 9)); !api.IsCode(err, api.CodeNotFound) {
		t.Errorf("rollback to nothing: %v", err)
	}
	all, err := k.ListReleases(ctx, "shop")
	if err != nil || len(all) != 3 || all[0].Version != 3 || all[0].Status != api.ReleaseComplete {
		t.Errorf("releases = %+v, %v", all, err)
	}
	if r, err := k.GetRelease(ctx, "shop", 2); err != nil || r.Counts["app"] != 2 {
		t.Errorf("release 2 = %+v, %v", r, err)
	}
	a, err := k.GetApp(ctx, "shop")
	if err != nil || a.Status != "deployed" || a.Release != 3 || a.MachineCount != 2 || a.URL == "" {
		t.Errorf("app = %+v, %v", a, err)
	}
}

func TestNode(t *testing.T) {
	k, ctx := newKit(t), t.Context()
	if err := k.StopNode(ctx, true); err != nil || !<-k.stopped {
		t.Errorf("stop: %v", err)
	}
	_, b := k.do(t, "GET", "/docs", "", "")
	if !bytes.Contains(b, []byte("/v1/apps/{app_name}/machines")) || bytes.Contains(b, []byte("<script")) {
		t.Error("the page lacks endpoints, or has scripts")
	}
}
