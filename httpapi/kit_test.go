package httpapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/app"
	"github.com/perigee-run/perigee/catalog"
	"github.com/perigee-run/perigee/cluster"
	"github.com/perigee-run/perigee/deploy"
	"github.com/perigee-run/perigee/image"
	"github.com/perigee-run/perigee/machine"
	"github.com/perigee-run/perigee/machine/machinetest"
	"github.com/perigee-run/perigee/token"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*Server).WaitForShutdown"),
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server/ats.Register.func1"))
}

const secret = "tok-123"

// kit is the API over the real rooms for apps, deploys, machines and the
// catalog. What needs root, gVisor and network namespaces is stood in for by
// machinetest and shelf, so that these tests run for everyone; the test folder
// has the same calls against the real ones.
type kit struct {
	*api.Client
	url      string
	server   *Server
	apps     *app.Store
	machines *machine.Host
	deploys  *deploy.Deployer
	box      *machinetest.Sandbox
	cluster  *cluster.Cluster
	tokens   *token.Store
	audit    *audited
	busy     atomic.Int64 // machines that every other node says it has; negative: it is down
	stopped  chan bool
}

func newKit(t testing.TB) *kit {
	t.Helper()
	quiet, dir := slog.New(slog.DiscardHandler), t.TempDir()
	cat, err := catalog.Open(t.Context(), catalog.Config{Dir: dir, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	k := &kit{box: &machinetest.Sandbox{}, stopped: make(chan bool, 1)}
	k.apps, err = app.New(app.Config{Catalog: cat, KeyFile: filepath.Join(dir, "secrets.key"), Domain: "node.example",
		Pools: []netip.Prefix{netip.MustParsePrefix("2001:db8:f::/48")}})
	records, err2 := catalog.NewLocal[machine.Record](cat, "machines")
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	k.machines, err = machine.New(machine.Config{Dir: filepath.Join(dir, "machines"), Node: "n1", Region: "fra", Sandbox: k.box, Images: shelf{},
		Networks: machinetest.Networks{}, Records: records, Apps: k.apps, Secrets: k.apps, Pool: -1, Logger: quiet, CPUs: 8, MemoryMB: 8192})
	if err != nil {
		t.Fatal(err)
	}
	deploys, err := deploy.New(deploy.Config{Apps: k.apps, Machines: k.machines, Images: shelf{}, Logs: talk{}, Settle: time.Millisecond, Region: "fra", Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	k.cluster, err = cluster.Open(cluster.Config{Dir: dir, Name: "n1", Region: "fra", Address: "192.0.2.1", Logger: quiet, Status: func(string) cluster.Status {
		n := k.busy.Load()
		return cluster.Status{Up: n >= 0, CPUs: 4, MemoryMB: 2048, Machines: int(max(n, 0))}
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := k.cluster.Attach(t.Context(), cat); err != nil {
		t.Fatal(err)
	}
	k.deploys = deploys
	laptops, err := newPeers(cat)
	if err != nil {
		t.Fatal(err)
	}
	k.audit = &audited{}
	key, err := k.apps.Derive("tokens")
	if err != nil {
		t.Fatal(err)
	}
	k.tokens, err = token.New(token.Config{Catalog: cat, Key: key, OrgOf: func(name string) string { a, _ := k.apps.Get(name); return a.Org }})
	if err != nil {
		t.Fatal(err)
	}
	issuer, err := token.NewIssuer("https://node.example", key)
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(Config{Audit: k.audit, Tokens: k.tokens, Issuer: issuer, Cluster: k.cluster, Peers: laptops, Apps: k.apps, Deploys: deploys, Machines: k.machines, Images: shelf{}, Node: self{k}, Builder: builder{}, Logs: talk{}, Volumes: shelves{},
		Address: func(a string) (string, string) { return a + ".node.example", "http://" + a + ".node.example" }, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	s.cfg.Certificates, s.cfg.Resolver, s.cfg.Placer = newAuthority(t, dir), phoneBook{}, places{}
	k.serve(t, s, deploys, cat)
	return k
}

// serve runs the rooms and the server, and ends them in reverse order.
func (k *kit) serve(t testing.TB, s *Server, deploys *deploy.Deployer, cat *catalog.Catalog) {
	k.server = s
	var rooms sync.WaitGroup
	runMachines, endMachines := context.WithCancel(context.Background())
	runDeploys, endDeploys := context.WithCancel(context.Background())
	machinesDone := make(chan struct{})
	go func() { defer close(machinesDone); _ = k.machines.Run(runMachines) }()
	rooms.Go(func() { _ = deploys.Run(runDeploys) })
	server := httptest.NewServer(s.Handler(Tokens{Root: Token(secret), Store: k.tokens}))
	k.url = server.URL
	var err error
	if k.Client, err = api.NewClient(api.ClientConfig{Addr: server.URL, Token: secret}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		k.Client.Close()
		server.Close()
		endDeploys()
		rooms.Wait()
		endMachines()
		<-machinesDone
		cat.Close()
		k.box.Close()
	})
}

// app makes an app.
func (k *kit) app(t testing.TB, name string) {
	t.Helper()
	if _, err := k.CreateApp(t.Context(), api.CreateAppRequest{AppName: name}); err != nil {
		t.Fatal(err)
	}
}

// machine makes an app with a machine that runs.
func (k *kit) machine(t testing.TB, name string) api.Machine {
	t.Helper()
	k.app(t, name)
	m, err := k.CreateMachine(t.Context(), name, api.CreateMachineRequest{Config: &api.MachineConfig{Image: "one"}})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// do makes a request by hand.
func (k *kit) do(t testing.TB, method, path, token, body string) (*http.Response, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, k.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", token)
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, b
}

// self is the node.
type self struct{ k *kit }

func (self) Info(context.Context) (api.NodeInfo, error) {
	return api.NodeInfo{Name: "n1", Region: "fra", Domain: "node.example", Registry: "localhost:4280", CPUs: 8,
		HTTP: ":80", HTTPS: ":443", CACert: "PEM", Problems: []api.Problem{{Name: "clock", Fault: "it is slow", Cure: "wind it up"}}}, nil
}

func (s self) Stop(_ context.Context, machines bool) error {
	s.k.stopped <- machines
	return nil
}

func (self) Upgrade(_ context.Context, node string) (string, error) {
	if node != "n1" {
		return "", api.Errorf(api.CodeNotFound, "there is no node %q", node)
	}
	return "2.0", nil
}

// builder says what it was asked.
type builder struct{}

func (builder) Build(_ context.Context, app string, _ token.Scope, o api.BuildOptions, context io.Reader, progress func(api.Progress)) (string, error) {
	b, err := io.ReadAll(context)
	if err != nil {
		return "", err
	}
	if o.Dockerfile == "broken" {
		return "", api.Errorf(api.CodeBuildFailed, "line 1: unknown instruction")
	}
	progress(api.Progress{Kind: "build", Message: fmt.Sprintf("%s %s %s %v %v %d", app, o.Dockerfile, o.Target, o.Args["A"], o.NoCache, len(b))})
	return "r/" + app + "@sha256:built", nil
}

// talk is a log of three lines; with Follow it goes on until the reader leaves.
type talk struct{}

func (talk) Logs(ctx context.Context, app string, q api.LogQuery) iter.Seq2[api.LogLine, error] {
	return func(yield func(api.LogLine, error) bool) {
		for i := range 3 {
			if !yield(api.LogLine{App: app, Machine: q.Machine, Text: fmt.Sprint("line ", i, " of ", q.Lines)}, nil) {
				return
			}
		}
		if q.Machine == "broken" {
			yield(api.LogLine{}, errors.New("the log is gone"))
		}
		if q.Follow {
			<-ctx.Done()
		}
	}
}

// shelf has every image but "missing".
type shelf struct{}

func (shelf) Pull(_ context.Context, ref string, progress func(image.Progress)) (image.Image, error) {
	if ref == "missing" {
		return image.Image{}, errors.New(`cannot pull "missing": there is no such image`)
	}
	if progress != nil {
		progress(image.Progress{Layer: "sha256:l", Phase: image.PhaseDone, Done: 5, Total: 5})
	}
	i, _ := shelf{}.Get(ref)
	return i, nil
}

func (shelf) BuiltIn(ref string) (string, bool) {
	rest, ok := strings.CutPrefix(ref, "localhost:4280/")
	repo, _, _ := strings.Cut(strings.Replace(rest, "@", ":", 1), ":")
	return repo, ok
}

func (shelf) Loopback(ref string) bool { return strings.HasPrefix(ref, "localhost:5000/") }

func (shelf) Get(ref string) (image.Image, bool) {
	_, digest, ok := strings.Cut(ref, "@")
	if !ok {
		digest = "sha256:" + strings.Repeat("1", 64)
	}
	return image.Image{Ref: ref, Registry: "r", Repository: "a", Digest: digest, Config: image.RunConfig{Cmd: []string{"/app"}}}, ref != "missing"
}

func (shelf) LookupUser(string, string) (uid, gid uint32, groups []uint32, home string, err error) {
	return 0, 0, nil, "/", nil
}

func (shelf) Import(_ context.Context, r io.Reader, name string, progress func(image.Progress)) (image.Image, error) {
	b, err := io.ReadAll(r)
	if err != nil {
		return image.Image{}, err
	}
	if string(b) == "bad" {
		return image.Image{}, errors.New("cannot import image: not an archive")
	}
	progress(image.Progress{Layer: "sha256:l", Phase: image.PhaseUnpacking, Done: int64(len(b))})
	return image.Image{Registry: "r", Repository: name, Digest: "sha256:imported"}, nil
}

func (shelf) List() []image.Image {
	return []image.Image{{Ref: "r/a:1", Digest: "sha256:a", Size: 4096}}
}

func (shelf) Remove(context.Context, string) error { return nil }
