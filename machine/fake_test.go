package machine

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/catalog"
	"github.com/perigee-run/perigee/image"
	"github.com/perigee-run/perigee/mesh"
	"github.com/perigee-run/perigee/sandbox"
)

// This file is a node's outside in memory. It serves the tables that are about
// this room's own logic (who may do what when, back-off, waits, leases, a crash
// at every single step); what machines really do is tested in real_test.go.

// fakeSandbox keeps sandboxes whose process is named by its arguments: "sleep"
// runs, "exit N" ends at once, "stubborn" heeds SIGKILL only, "broken" cannot
// be started.
type fakeSandbox struct {
	mu    sync.Mutex
	boxes map[string]*fakeBox
	slow  chan struct{} // Checkpoint waits for it if it is not nil
	hangs chan struct{} // Start of "hangs" waits for it if it is not nil
	calls []string
	exec  func() (int, error) // what Exec does, if it is not nil
	code  int                 // that commands of Exec end with
}

type fakeBox struct {
	info  sandbox.Info
	ended chan struct{}
}

func newFakeSandbox() *fakeSandbox { return &fakeSandbox{boxes: map[string]*fakeBox{}} }

func (f *fakeSandbox) Prepare(_ context.Context, id, netns string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.boxes[id] = &fakeBox{info: sandbox.Info{ID: id, State: sandbox.StatePrepared}, ended: make(chan struct{})}
	return nil
}

// slowStart has "hangs" wait for the channel when it is started.
func (f *fakeSandbox) slowStart(c chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hangs = c
}

func (f *fakeSandbox) Start(ctx context.Context, spec sandbox.Spec, from string) error {
	f.mu.Lock()
	if c := f.hangs; c != nil && spec.Args[0] == "hangs" {
		f.mu.Unlock()
		select {
		case <-c:
		case <-ctx.Done():
			return ctx.Err()
		}
		f.mu.Lock()
	}
	defer f.mu.Unlock()
	if from != "" && f.boxes[from] == nil {
		return sandbox.ErrNotFound
	}
	delete(f.boxes, from)
	if spec.Args[0] == "broken" {
		return fmt.Errorf("no such program: %w", sandbox.ErrInvalid)
	}
	f.calls = append(f.calls, "start")
	b := &fakeBox{info: sandbox.Info{ID: spec.ID, State: sandbox.StateRunning, StartedAt: time.Now(), Spec: &spec}, ended: make(chan struct{})}
	f.boxes[spec.ID] = b
	if spec.Args[0] == "exit" {
		code, _ := strconv.Atoi(spec.Args[1])
		b.end(sandbox.Exit{Code: code})
	}
	return nil
}

func (b *fakeBox) end(x sandbox.Exit) {
	if b.info.State != sandbox.StateStopped {
		x.At = time.Now()
		b.info.State, b.info.Exit = sandbox.StateStopped, &x
		close(b.ended)
	}
}

func (f *fakeSandbox) Restore(ctx context.Context, spec sandbox.Spec, from, dir string) error {
	b, err := os.ReadFile(filepath.Join(dir, "memory"))
	if err != nil || string(b) != "whole" {
		return fmt.Errorf("memory is damaged: %w", sandbox.ErrSnapshot)
	}
	f.mu.Lock()
	f.calls = append(f.calls, "restore")
	f.mu.Unlock()
	return f.Start(ctx, spec, from)
}

// in runs do with the sandbox if it is in one of the states.
func (f *fakeSandbox) in(id string, do func(*fakeBox), states ...sandbox.State) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	b := f.boxes[id]
	switch {
	case b == nil:
		return sandbox.ErrNotFound
	case !slices.Contains(states, b.info.State):
		return fmt.Errorf("it is %s: %w", b.info.State, sandbox.ErrState)
	}
	do(b)
	return nil
}

func (f *fakeSandbox) Pause(_ context.Context, id string) error {
	return f.in(id, func(b *fakeBox) { b.info.State = sandbox.StatePaused }, sandbox.StateRunning)
}

func (f *fakeSandbox) Resume(_ context.Context, id string) error {
	return f.in(id, func(b *fakeBox) { b.info.State = sandbox.StateRunning; f.calls = append(f.calls, "resume") }, sandbox.StatePaused)
}

func (f *fakeSandbox) Checkpoint(_ context.Context, id, dir string) error {
	err := f.in(id, func(b *fakeBox) { b.info.State = sandbox.StatePaused }, sandbox.StateRunning, sandbox.StatePaused)
	if err != nil {
		return err
	}
	f.mu.Lock()
	slow := f.slow
	f.mu.Unlock()
	if slow != nil {
		<-slow
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "memory"), []byte("whole"), 0o600)
}

func (f *fakeSandbox) Wait(ctx context.Context, id string) (sandbox.Exit, error) {
	f.mu.Lock()
	b := f.boxes[id]
	f.mu.Unlock()
	if b == nil {
		return sandbox.Exit{}, sandbox.ErrNotFound
	}
	select {
	case <-b.ended:
		return *b.info.Exit, nil
	case <-ctx.Done():
		return sandbox.Exit{}, ctx.Err()
	}
}

func (f *fakeSandbox) Signal(_ context.Context, id string, sig int) error {
	states := []sandbox.State{sandbox.StateRunning}
	if sig == 9 {
		states = append(states, sandbox.StatePaused)
	}
	return f.in(id, func(b *fakeBox) {
		f.calls = append(f.calls, "signal "+strconv.Itoa(sig))
		if sig == 9 || b.info.Spec.Args[0] != "stubborn" {
			b.end(sandbox.Exit{Code: 128 + sig, Signal: sig})
		}
	}, states...)
}

func (f *fakeSandbox) List(context.Context) ([]sandbox.Info, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []sandbox.Info
	for _, b := range f.boxes {
		out = append(out, b.info)
	}
	return out, nil
}

func (f *fakeSandbox) Destroy(_ context.Context, id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if b := f.boxes[id]; b != nil {
		b.end(sandbox.Exit{Code: 137, Signal: 9})
		delete(f.boxes, id)
	}
	return nil
}

func (f *fakeSandbox) Exec(context.Context, string, sandbox.ExecSpec, sandbox.Streams) (int, error) {
	if f.exec != nil {
		return f.exec()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.code, nil
}

func (f *fakeSandbox) Stats(context.Context, string) (sandbox.Stats, error) {
	return sandbox.Stats{MemoryBytes: 1}, nil
}

func (f *fakeSandbox) Processes(context.Context, string) ([]sandbox.Process, error) {
	return []sandbox.Process{{PID: 1, Command: "sleep"}}, nil
}

// dies ends the machine's process from outside.
func (f *fakeSandbox) dies(machine string, x sandbox.Exit) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for id, b := range f.boxes {
		if strings.HasPrefix(id, machine+".") {
			b.end(x)
		}
	}
}

// count counts the sandboxes of machines, by state.
func (f *fakeSandbox) count() map[sandbox.State]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := map[sandbox.State]int{}
	for _, b := range f.boxes {
		out[b.info.State]++
	}
	return out
}

func (f *fakeSandbox) called(call string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, c := range f.calls {
		if c == call {
			n++
		}
	}
	return n
}

// fakeNets hands out slots and holds to mesh's rule that an address has one slot.
type fakeNets struct {
	mu    sync.Mutex
	next  int
	slots map[int]mesh.Slot
}

func newFakeNets() *fakeNets { return &fakeNets{slots: map[int]mesh.Slot{}} }

func (f *fakeNets) PrivateIPv6(id mesh.Identity) netip.Addr {
	return mesh.PrivateIPv6(netip.MustParsePrefix("fdaa::/16"), 1, 1, id.Machine)
}

func (f *fakeNets) Acquire(context.Context) (*mesh.Slot, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.next++
	s := mesh.Slot{ID: f.next, NetnsPath: fmt.Sprintf("/ns/%d", f.next), IPv4: netip.AddrFrom4([4]byte{127, 0, byte(f.next >> 8), byte(f.next)})}
	f.slots[s.ID] = s
	return &s, nil
}

func (f *fakeNets) Assign(_ context.Context, s *mesh.Slot, id mesh.Identity) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, o := range f.slots {
		if o.Identity == id && o.ID != s.ID {
			return fmt.Errorf("machine %q has slot %d still", id.Machine, o.ID)
		}
	}
	s.Identity, s.IPv6 = id, f.PrivateIPv6(id)
	f.slots[s.ID] = *s
	return nil
}

func (f *fakeNets) Release(_ context.Context, s *mesh.Slot) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.slots, s.ID)
	return nil
}

func (f *fakeNets) Slots() []mesh.Slot {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []mesh.Slot
	for _, s := range f.slots {
		out = append(out, s)
	}
	return out
}

// fakeImages knows the images "app", with a command and a user of its own, and "bare".
type fakeImages struct{}

func (fakeImages) Get(ref string) (image.Image, bool) {
	img := image.Image{Ref: "local/app:1", Registry: "local", Repository: "app", Tag: "1", Digest: "sha256:aa", Rootfs: "/app.erofs",
		Config: image.RunConfig{Entrypoint: []string{"sleep"}, Env: []string{"FROM=image", "BOTH=image"}, User: "node", WorkingDir: "/srv", StopSignal: "SIGTERM"}}
	switch {
	case ref == "app" || ref == "sha256:aa":
		return img, true
	case ref == "bare" || ref == "sha256:bb":
		return image.Image{Ref: "local/bare", Registry: "local", Repository: "bare", Digest: "sha256:bb", Rootfs: "/bare.erofs"}, true
	}
	return image.Image{}, false
}

func (f fakeImages) Pull(_ context.Context, ref string, _ func(image.Progress)) (image.Image, error) {
	if img, ok := f.Get(ref); ok {
		return img, nil
	}
	return image.Image{}, errors.New("no such image")
}

func (fakeImages) LookupUser(_, spec string) (uid, gid uint32, groups []uint32, home string, err error) {
	switch spec {
	case "":
		return 0, 0, nil, "/root", nil
	case "node":
		return 1000, 1000, []uint32{5}, "/home/node", nil
	}
	return 0, 0, nil, "", fmt.Errorf("no user %q in the image", spec)
}

// memRecords holds records as a catalog does.
type memRecords struct {
	mu   sync.Mutex
	recs map[string]Record
	full bool // no write succeeds
}

func (r *memRecords) fill(full bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.full = full
}

func (r *memRecords) Put(_ context.Context, key string, rec Record) (uint64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.full {
		return 0, errors.New("the disk is full")
	}
	r.recs[key] = rec
	return 0, nil
}

func (r *memRecords) Delete(_ context.Context, key string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.recs, key)
	return nil
}

func (r *memRecords) List(string) []catalog.Entry[Record] {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []catalog.Entry[Record]
	for k, v := range r.recs {
		out = append(out, catalog.Entry[Record]{Key: k, Value: v})
	}
	return out
}

type fakeApps struct{}

func (fakeApps) Org(_ context.Context, app string) (string, error) {
	if app == "shop" || app == "blog" {
		return "acme", nil
	}
	return "", api.Errorf(api.CodeNotFound, "there is no app %q", app)
}

type fakeSecrets struct{}

func (fakeSecrets) Secrets(context.Context, string) (map[string]string, uint64, error) {
	return map[string]string{"KEY": "s3cret", "BOTH": "secret", "PEM": "aGVsbG8="}, 3, nil
}

func (f fakeSecrets) SecretsAt(ctx context.Context, app string, _ uint64) (map[string]string, error) {
	values, _, err := f.Secrets(ctx, app)
	return values, err
}

// vault keeps every set of secrets that there was, as the app room does.
type vault struct {
	mu   sync.Mutex
	sets []map[string]string
}

func (v *vault) set(values map[string]string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.sets = append(v.sets, values)
}

func (v *vault) Secrets(ctx context.Context, app string) (map[string]string, uint64, error) {
	v.mu.Lock()
	version := uint64(len(v.sets))
	v.mu.Unlock()
	values, err := v.SecretsAt(ctx, app, version)
	return values, version, err
}

func (v *vault) SecretsAt(_ context.Context, _ string, version uint64) (map[string]string, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if version == 0 {
		return nil, nil
	}
	return v.sets[version-1], nil
}

// said collects the platform's lines.
type said struct {
	mu    sync.Mutex
	lines []string
}

func (s *said) Follow(_, _, _ string) {}
func (s *said) Unfollow(string)       {}
func (s *said) Say(_, _, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines = append(s.lines, text)
}

// gate lets a number of calls through and then loses the node: nothing that the
// host does afterwards has an effect.
type gate struct {
	mu     sync.Mutex
	passes int // -1: no limit
	dead   bool
	answer bool // lose the answer of the last call instead of the call
	died   chan struct{}
}

func newGate() *gate { return &gate{passes: -1, died: make(chan struct{})} }

// die is called with mu held.
func (g *gate) die() {
	if !g.dead {
		g.dead = true
		close(g.died)
	}
}

var errCrash = errors.New("the daemon is gone")

func (g *gate) call(do func() error) error {
	g.mu.Lock()
	if g.dead {
		g.mu.Unlock()
		return errCrash
	}
	last := g.passes == 0
	if g.passes > 0 {
		g.passes--
	}
	lose := last && !g.answer
	if lose {
		g.die()
	}
	g.mu.Unlock()
	if lose {
		return errCrash
	}
	err := do()
	if last {
		g.kill()
		return errCrash
	}
	return err
}

func (g *gate) kill() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.die()
}

func (g *gate) isDead() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.dead
}

// arm makes the node die at the n-th call from now.
func (g *gate) arm(n int, answer bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.passes, g.answer = n, answer
}

type gatedSandbox struct {
	Sandbox
	g *gate
}

func (s gatedSandbox) Prepare(ctx context.Context, id, netns string) error {
	return s.g.call(func() error { return s.Sandbox.Prepare(ctx, id, netns) })
}
func (s gatedSandbox) Start(ctx context.Context, spec sandbox.Spec, from string) error {
	return s.g.call(func() error { return s.Sandbox.Start(ctx, spec, from) })
}
func (s gatedSandbox) Restore(ctx context.Context, spec sandbox.Spec, from, dir string) error {
	return s.g.call(func() error { return s.Sandbox.Restore(ctx, spec, from, dir) })
}
func (s gatedSandbox) Pause(ctx context.Context, id string) error {
	return s.g.call(func() error { return s.Sandbox.Pause(ctx, id) })
}
func (s gatedSandbox) Resume(ctx context.Context, id string) error {
	return s.g.call(func() error { return s.Sandbox.Resume(ctx, id) })
}
func (s gatedSandbox) Checkpoint(ctx context.Context, id, dir string) error {
	return s.g.call(func() error { return s.Sandbox.Checkpoint(ctx, id, dir) })
}
func (s gatedSandbox) Signal(ctx context.Context, id string, sig int) error {
	return s.g.call(func() error { return s.Sandbox.Signal(ctx, id, sig) })
}
func (s gatedSandbox) Destroy(ctx context.Context, id string) error {
	return s.g.call(func() error { return s.Sandbox.Destroy(ctx, id) })
}

type gatedNets struct {
	Networks
	g *gate
}

func (n gatedNets) Acquire(ctx context.Context) (s *mesh.Slot, err error) {
	return s, n.g.call(func() error { s, err = n.Networks.Acquire(ctx); return err })
}
func (n gatedNets) Assign(ctx context.Context, s *mesh.Slot, id mesh.Identity) error {
	return n.g.call(func() error { return n.Networks.Assign(ctx, s, id) })
}
func (n gatedNets) Release(ctx context.Context, s *mesh.Slot) error {
	return n.g.call(func() error { return n.Networks.Release(ctx, s) })
}

type gatedRecords struct {
	Records
	g *gate
}

func (r gatedRecords) Put(ctx context.Context, key string, rec Record) (uint64, error) {
	return 0, r.g.call(func() error { _, err := r.Records.Put(ctx, key, rec); return err })
}
func (r gatedRecords) Delete(ctx context.Context, key string) error {
	return r.g.call(func() error { return r.Records.Delete(ctx, key) })
}

// world is what outlives a daemon.
type world struct {
	t       testing.TB
	dir     string
	sandbox *fakeSandbox
	nets    *fakeNets
	records *memRecords
	said    *said
}

func newWorld(t testing.TB) *world {
	return &world{t: t, dir: t.TempDir(), sandbox: newFakeSandbox(), nets: newFakeNets(), records: &memRecords{recs: map[string]Record{}}, said: &said{}}
}

// daemon is one run of a host.
type daemon struct {
	*Host
	gate *gate
	end  func() // waits for Run to return
}

// crash ends the daemon as kill -9 would: nothing it does has an effect any more.
func (d *daemon) crash() {
	d.gate.kill()
	d.end()
}

func (w *world) run(change ...func(*Config)) *daemon {
	w.t.Helper()
	g := newGate()
	cfg := Config{
		Dir: w.dir, Node: "n1", Region: "fra", Sandbox: gatedSandbox{w.sandbox, g}, Images: fakeImages{}, Networks: gatedNets{w.nets, g},
		Records: gatedRecords{w.records, g}, Apps: fakeApps{}, Secrets: fakeSecrets{}, Console: w.said,
		CPUs: 2, MemoryMB: 4096, Pool: -1, SinkAfter: -1, MinFreeMB: 1, Logger: discard, backoff: time.Millisecond,
		removeAll: func(path string) error { return g.call(func() error { return os.RemoveAll(path) }) },
	}
	for _, c := range change {
		c(&cfg)
	}
	return runHost(w.t, cfg, g)
}

func runHost(t testing.TB, cfg Config, g *gate) *daemon {
	t.Helper()
	h, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	d := &daemon{Host: h, gate: g, end: sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil && !g.isDead() {
			t.Error(err)
		}
	})}
	t.Cleanup(d.end)
	go func() {
		select {
		case <-g.died:
			cancel()
		case <-ctx.Done():
		}
	}()
	select {
	case <-h.Ready():
	case <-time.After(20 * time.Second):
		t.Fatal("the host does not get ready")
	}
	return d
}

func (f *fakeSandbox) Limit(context.Context, string, int) error { return nil }

func (f *fakeSandbox) Reclaim(_ context.Context, _ string, mib int) (uint64, error) {
	return uint64(mib) << 19, nil
}
