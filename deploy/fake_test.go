package deploy

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/app"
	"github.com/perigee-run/perigee/catalog"
	"github.com/perigee-run/perigee/image"
	"github.com/perigee-run/perigee/machine"
)

// rack is machines that live in memory and survive a crash of the deployer. It
// exists because a crash at every single operation cannot be had from real ones.
// What a machine does is in its environment: BEHAVE=exit ends it with code 3,
// BEHAVE=wrong answers its check with 500, BEHAVE=silent never becomes healthy.
type rack struct {
	mu       sync.Mutex
	machines map[string]*api.Machine
	versions map[string][]machine.Version
	next     int
	subs     map[chan string]bool

	ops   int              // operations done
	dieAt int              // the operation at which the deployer dies; 0 never
	after bool             // it dies after the operation, not before
	die   func()           // ends the deployer
	watch func(op string)  // is told of each operation; mu is held
	fail  map[string]error // by operation
	sizes int              // GiB of the volumes that machines get; 0 leaves mounts as they are
}

func newRack() *rack {
	return &rack{machines: map[string]*api.Machine{}, versions: map[string][]machine.Version{}, subs: map[chan string]bool{}}
}

var errDead = errors.New("the daemon is dead")

// op does one operation, or dies at it.
func (k *rack) op(ctx context.Context, name, id string, do func() error) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	k.ops++
	if k.ops == k.dieAt && !k.after {
		k.die()
		return errDead
	}
	if err := k.fail[name]; err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	if k.watch != nil {
		k.watch(name)
	}
	for c := range k.subs {
		c <- id
	}
	if k.ops == k.dieAt {
		k.die()
		return errDead
	}
	return nil
}

func (k *rack) find(id string) (*api.Machine, error) {
	m := k.machines[id]
	if m == nil {
		return nil, api.Errorf(api.CodeNotFound, "machine %q is not on this node", id)
	}
	return m, nil
}

func (k *rack) change(ctx context.Context, name, id string, do func(m *api.Machine)) error {
	return k.op(ctx, name, id, func() error {
		m, err := k.find(id)
		if err == nil {
			do(m)
		}
		return err
	})
}

func (k *rack) Ready() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

func (k *rack) List(app string) []api.Machine {
	k.mu.Lock()
	defer k.mu.Unlock()
	var out []api.Machine
	for _, m := range k.machines {
		if m.App == app {
			out = append(out, *m)
		}
	}
	slices.SortFunc(out, func(a, b api.Machine) int { return a.CreatedAt.Compare(b.CreatedAt) })
	return out
}

func (k *rack) Get(_ context.Context, id string) (api.Machine, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	m, err := k.find(id)
	if err != nil {
		return api.Machine{}, err
	}
	return *m, nil
}

// WaitPorts never succeeds: no machine of the rack listens.
func (k *rack) WaitPorts(ctx context.Context, id string) error {
	<-ctx.Done()
	return api.Errorf(api.CodeTimeout, "nothing accepts connections on port 8080").WithHint("listen")
}

func (k *rack) Versions(_ context.Context, id string) ([]machine.Version, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.versions[id], nil
}

func (k *rack) Changes(ctx context.Context) <-chan string {
	c := make(chan string, 10000)
	k.mu.Lock()
	defer k.mu.Unlock()
	for id := range k.machines {
		c <- id
	}
	k.subs[c] = true
	context.AfterFunc(ctx, func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		delete(k.subs, c)
		close(c)
	})
	return c
}

func (k *rack) Wait(_ context.Context, id string, _ machine.WaitQuery) (api.WaitResponse, error) {
	m, err := k.Get(context.Background(), id)
	return api.WaitResponse{OK: true, State: m.State}, err
}

func (k *rack) WaitHealthy(ctx context.Context, id string) error {
	m, err := k.Get(ctx, id)
	switch {
	case err != nil:
		return err
	case m.State != api.StateStarted:
		return api.Errorf(api.CodePrecondition, "machine %q is %s", id, m.State)
	case m.Config.Env["BEHAVE"] == "wrong" || m.Config.Env["BEHAVE"] == "silent":
		<-ctx.Done()
		return api.Errorf(api.CodeTimeout, "machine %q did not become healthy", id)
	}
	return nil
}

func (k *rack) Create(ctx context.Context, app string, req api.CreateMachineRequest) (out api.Machine, err error) {
	k.mu.Lock()
	k.next++
	id := fmt.Sprintf("%014x", k.next)
	k.mu.Unlock()
	err = k.op(ctx, "create", id, func() error {
		k.attach(id, req.Config)
		m := &api.Machine{ID: id, App: app, Region: req.Region, Config: req.Config, Release: req.Release, Cordoned: req.SkipServiceRegistration, CreatedAt: time.Unix(int64(k.next), 0)}
		m.InstanceID = fmt.Sprint("v", k.next)
		k.machines[id] = m
		k.versions[id] = []machine.Version{{ID: m.InstanceID, Config: *req.Config, Release: req.Release}}
		k.run(m)
		out = *m
		return nil
	})
	return out, err
}

// attach writes the machine's volumes into its mounts, as its node does.
func (k *rack) attach(id string, c *api.MachineConfig) {
	if k.sizes == 0 {
		return
	}
	c.Mounts = slices.Clone(c.Mounts)
	for i := range c.Mounts {
		m := &c.Mounts[i]
		m.Volume, m.Encrypted, m.SizeGB = or(m.Volume, "vol_"+m.Name+id), true, k.sizes
	}
}

// run starts a machine, which behaves.
func (k *rack) run(m *api.Machine) {
	m.State, m.Checks, m.Standing = api.StateStarted, nil, ""
	code := -1
	switch m.Config.Env["BEHAVE"] {
	case "exit":
		code = 3
	case "done":
		code = 0
	case "wrong":
		m.Checks = []api.CheckStatus{{Name: "web", Status: "critical", Output: "GET / answered 500 Internal Server Error: no"}}
	}
	if m.Config.Metadata[metaCommand] != "" && code < 0 {
		code = 0
	}
	if code >= 0 {
		m.State, m.Standing = api.StateStopped, fmt.Sprintf("exited with code %d", code)
		m.Events = []api.Event{{Type: "exit", Request: &api.EventRequest{ExitEvent: &api.ExitEvent{ExitCode: code}}}}
	}
}

func (k *rack) Update(ctx context.Context, id string, req api.CreateMachineRequest, _ string) (api.Machine, error) {
	return api.Machine{}, k.change(ctx, "update", id, func(m *api.Machine) {
		k.next++
		k.attach(id, req.Config)
		m.InstanceID, m.Config, m.Release = fmt.Sprint("v", k.next), req.Config, req.Release
		k.versions[id] = append(k.versions[id], machine.Version{ID: m.InstanceID, Config: *req.Config, Release: req.Release})
		k.run(m)
	})
}

func (k *rack) Start(ctx context.Context, id, _ string) (api.StartResponse, error) {
	return api.StartResponse{}, k.change(ctx, "start", id, k.run)
}

func (k *rack) Stop(ctx context.Context, id string, _ api.StopRequest, _ string) error {
	return k.change(ctx, "stop", id, func(m *api.Machine) { m.State = api.StateStopped })
}

func (k *rack) Destroy(ctx context.Context, id string, _ bool, _ string) error {
	return k.change(ctx, "destroy", id, func(m *api.Machine) { delete(k.machines, id) })
}

func (k *rack) Cordon(ctx context.Context, id, _ string) error {
	return k.change(ctx, "cordon", id, func(m *api.Machine) { m.Cordoned = true })
}

func (k *rack) Uncordon(ctx context.Context, id, _ string) error {
	return k.change(ctx, "uncordon", id, func(m *api.Machine) { m.Cordoned = false })
}

// serving counts the app's machines that take requests; mu is held.
func (k *rack) serving(app string) int {
	n := 0
	for _, m := range k.machines {
		if m.App == app && !m.Cordoned && m.State == api.StateStarted {
			n++
		}
	}
	return n
}

// shelf has every image but "missing".
type shelf struct{}

func (shelf) Pull(_ context.Context, ref string, progress func(image.Progress)) (image.Image, error) {
	if ref == "missing" {
		return image.Image{}, errors.New("no such image")
	}
	progress(image.Progress{Layer: "sha256:l", Phase: image.PhaseDone})
	_, digest, pinned := strings.Cut(ref, "@")
	if !pinned {
		digest = "sha256:" + ref
	}
	return image.Image{Registry: "r", Repository: "a", Digest: digest}, nil
}

// talk is what every machine says.
type talk struct{}

func (talk) Logs(_ context.Context, app string, q api.LogQuery) iter.Seq2[api.LogLine, error] {
	return func(yield func(api.LogLine, error) bool) {
		for i := range 30 {
			if !yield(api.LogLine{App: app, Machine: q.Machine, Source: "app", Text: fmt.Sprint("line ", i)}, nil) {
				return
			}
		}
	}
}

// bench is a store with a catalog, shared by the cases of a test.
type bench struct {
	*rack
	apps *app.Store
	d    *Deployer
	end  func()
}

func newStore(t *testing.T) *app.Store {
	t.Helper()
	dir := t.TempDir()
	c, err := catalog.Open(t.Context(), catalog.Config{Dir: dir, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	s, err := app.New(app.Config{Catalog: c, KeyFile: filepath.Join(dir, "key")})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newBench(t *testing.T, apps *app.Store, k *rack, name string) *bench {
	t.Helper()
	if _, err := apps.Get(name); err != nil {
		if _, err := apps.Create(t.Context(), api.CreateAppRequest{AppName: name}); err != nil {
			t.Fatal(err)
		}
	}
	b := &bench{rack: k, apps: apps}
	b.boot(t)
	return b
}

// boot starts a deployer; end stops it and waits.
func (b *bench) boot(t *testing.T) {
	t.Helper()
	d, err := New(Config{Apps: b.apps, Machines: b.rack, Images: shelf{}, Logs: talk{}, Settle: time.Millisecond, WaitTimeout: time.Minute,
		PortTimeout: 200 * time.Millisecond, wrongFor: 10 * time.Millisecond, lag: time.Millisecond, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := d.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	b.d, b.die = d, func() { cancel(); d.stop() }
	b.end = func() { cancel(); <-done }
	t.Cleanup(b.end)
}
