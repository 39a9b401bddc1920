package volume

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/catalog"
	"github.com/perigee-run/perigee/volume/disk"
	"github.com/perigee-run/perigee/volume/objects"
	"github.com/perigee-run/perigee/volume/snapshot"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// table keeps records in memory, as bytes, so that nothing is shared.
type table struct {
	mu   sync.Mutex
	all  map[string][]byte
	puts int
}

func (t *table) written() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.puts
}

func (t *table) Put(_ context.Context, key string, r Record) (uint64, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	b, err := json.Marshal(r)
	t.all[key] = b
	t.puts++
	return 1, err
}

func (t *table) Delete(_ context.Context, key string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.all, key)
	return nil
}

func (t *table) List(string) (out []catalog.Entry[Record]) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for key, b := range t.all {
		e := catalog.Entry[Record]{Key: key}
		if json.Unmarshal(b, &e.Value) == nil {
			out = append(out, e)
		}
	}
	return out
}

// apps has one app, shop, whose id may change.
type apps struct{ id string }

func (a *apps) Owner(app string) (Owner, error) {
	if app != "shop" || a.id == "" {
		return Owner{}, api.Errorf(api.CodeNotFound, "there is no app %q", app)
	}
	return Owner{ID: a.id, Org: "acme"}, nil
}

// kit is the volumes of a node that can be killed.
type kit struct {
	*Store
	t       *testing.T
	dir     string
	key     []byte
	records *table
	apps    *apps
	machine string // has every volume, as its records say
	mount   api.Mount
	day     time.Duration
	end     func()
}

func newKit(t *testing.T) *kit {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: volumes are mounted")
	}
	if err := disk.Check(); err != nil {
		t.Skipf("%v; scripts/deps.sh run installs it", err)
	}
	k := &kit{t: t, dir: t.TempDir(), key: bytes.Repeat([]byte{7}, 32), records: &table{all: map[string][]byte{}}, apps: &apps{"a1"}, day: time.Hour}
	k.open()
	t.Cleanup(func() {
		k.kill()
		k.Leave(context.Background())
	})
	return k
}

// open starts the store, also after kill.
func (k *kit) open() {
	k.t.Helper()
	repo, err := snapshot.New(objects.NewDir(filepath.Join(k.dir, "snapshots")), k.key)
	if err != nil {
		k.t.Fatal(err)
	}
	k.Store, err = New(k.t.Context(), Config{
		Dir: filepath.Join(k.dir, "volumes"), Node: "n1", Region: "fra", Key: k.key, Records: k.records, Apps: k.apps, Snapshots: repo,
		Holder: func(string) (string, api.Mount, bool) { return k.machine, k.mount, false }, Synced: func() bool { return true },
		Every: 20 * time.Millisecond, Day: k.day, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		k.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = k.Run(ctx) }()
	k.Settle(ctx)
	k.end = func() { cancel(); <-done }
}

func (k *kit) kill() { k.end() }

func (k *kit) make(req api.CreateVolumeRequest) api.Volume {
	k.t.Helper()
	v, err := k.Create(k.t.Context(), "shop", req)
	if err != nil {
		k.t.Fatal(err)
	}
	return v
}

func (k *kit) eventually(what string, ok func() bool) {
	k.t.Helper()
	for range 500 {
		if ok() {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	k.t.Fatalf("not in 10 s: %s", what)
}

func mount(id string) []api.Mount { return []api.Mount{{Volume: id, Path: "/data"}} }

func TestOneMachineEach(t *testing.T) {
	k, ctx := newKit(t), t.Context()
	v := k.make(api.CreateVolumeRequest{Name: "data"})
	got, err := k.Resolve("shop", "", []api.Mount{{Name: "data", Path: "/data"}})
	if err != nil || got[0].Volume != v.ID || !got[0].Encrypted {
		t.Fatalf("by name: %+v, %v", got, err)
	}
	if err := k.Attach(ctx, "shop", "m1", mount(v.ID)); err != nil {
		t.Fatal(err)
	}
	for range 2 { // again is no error
		if err := k.Attach(ctx, "shop", "m1", mount(v.ID)); err != nil {
			t.Fatal(err)
		}
	}
	other := k.make(api.CreateVolumeRequest{Name: "more"})
	if err := k.Attach(ctx, "shop", "m2", append(mount(other.ID), mount(v.ID)...)); !api.IsCode(err, api.CodeConflict) {
		t.Errorf("a second machine: %v", err)
	}
	if got, _ := k.Get(ctx, "shop", other.ID); got.AttachedMachineID != nil {
		t.Error("of two volumes, one of which is taken, the other is kept")
	}
	if _, err := k.Open(ctx, v.ID, "m2"); err == nil {
		t.Error("another machine mounts it")
	}
	dir, err := k.Open(ctx, v.ID, "m1")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("x"), 0o600); err != nil {
		t.Error(err)
	}
	if _, err := k.Destroy(ctx, "shop", v.ID, true); !api.IsCode(err, api.CodePrecondition) {
		t.Errorf("to destroy one that is used: %v", err)
	}
	k.Detach(ctx, "m1", nil)
	if got, _ := k.Get(ctx, "shop", v.ID); got.AttachedMachineID != nil || k.lookup(v.ID).disk.Mounted() {
		t.Errorf("after its machine is gone: %+v", got)
	}
	s, _ := k.Summary(v.ID)
	if b, _ := json.Marshal(s); bytes.Contains(b, []byte(`"key"`)) {
		t.Errorf("others are told of the key: %s", b)
	}
}

func TestOthersSeeNothing(t *testing.T) {
	k, ctx := newKit(t), t.Context()
	v := k.make(api.CreateVolumeRequest{})
	snap, err := k.Snapshot(ctx, "shop", v.ID)
	if err != nil {
		t.Fatal(err)
	}
	k.eventually("the snapshot is stored", func() bool {
		all, _ := k.Snapshots(ctx, "shop", v.ID)
		return all[0].Status == api.SnapshotCreated
	})
	k.apps.id = "a2" // another app got the name
	if _, err := k.Get(ctx, "shop", v.ID); !api.IsCode(err, api.CodeNotFound) {
		t.Errorf("a former app's volume: %v", err)
	}
	if _, err := k.Create(ctx, "shop", api.CreateVolumeRequest{SnapshotID: snap.ID}); !api.IsCode(err, api.CodeNotFound) {
		t.Errorf("a former app's snapshot: %v", err)
	}
	k.eventually("a volume without an app is to be destroyed", func() bool {
		s, _ := k.Summary(v.ID)
		return s.Volume.State == api.VolumePendingDestroy
	})
}

// TestTime: what is due by itself, with days that are short.
func TestTime(t *testing.T) {
	k, ctx := newKit(t), t.Context()
	k.kill()
	k.day = 400 * time.Millisecond
	k.open()
	off, one := false, 1
	v := k.make(api.CreateVolumeRequest{SnapshotRetention: &one})
	k.eventually("a snapshot is taken by itself", func() bool {
		all, _ := k.Snapshots(ctx, "shop", v.ID)
		return len(all) > 0 && all[len(all)-1].Scheduled
	})
	if _, err := k.Update(ctx, "shop", v.ID, api.UpdateVolumeRequest{AutoBackupEnabled: &off}); err != nil {
		t.Fatal(err)
	}
	k.eventually("old snapshots go", func() bool {
		all, _ := k.Snapshots(ctx, "shop", v.ID)
		return len(all) == 0
	})
	if _, err := k.Destroy(ctx, "shop", v.ID, false); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Keep(ctx, "shop", v.ID, false); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * k.day)
	if _, err := k.Get(ctx, "shop", v.ID); err != nil {
		t.Fatalf("a volume that was kept: %v", err)
	}
	if _, err := k.Destroy(ctx, "shop", v.ID, false); err != nil {
		t.Fatal(err)
	}
	k.eventually("it is gone a day later", func() bool {
		_, err := k.Get(ctx, "shop", v.ID)
		return api.IsCode(err, api.CodeNotFound)
	})
	if names, _ := objects.List(ctx, objects.NewDir(filepath.Join(k.dir, "snapshots")), ""); len(names) != 0 {
		t.Errorf("the store has %q still", names)
	}
}

// TestRecover: what a crash leaves half made goes, what was acknowledged stays, and
// what nobody knows is left alone.
func TestRecover(t *testing.T) {
	k, ctx := newKit(t), t.Context()
	v := k.make(api.CreateVolumeRequest{Name: "data"})
	if err := k.Attach(ctx, "shop", "gone", mount(v.ID)); err != nil {
		t.Fatal(err)
	}
	k.kill()
	half := Record{ID: newID(), Node: "n1", App: "shop", AppID: "a1", State: api.VolumeCreating}
	k.records.Put(ctx, half.ID, half)
	vols := filepath.Join(k.dir, "volumes")
	lost, stranger := filepath.Join(vols, newID()+".new"), filepath.Join(vols, newID())
	for _, dir := range []string{lost, stranger, filepath.Join(vols, half.ID)} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	k.open()
	if got, err := k.Get(ctx, "shop", v.ID); err != nil || got.AttachedMachineID != nil {
		t.Errorf("the volume of a machine that is not there: %+v, %v", got, err)
	}
	if _, err := k.Get(ctx, "shop", half.ID); !api.IsCode(err, api.CodeNotFound) {
		t.Errorf("a volume that was half made: %v", err)
	}
	for dir, stays := range map[string]bool{lost: false, filepath.Join(vols, half.ID): false, stranger: true} {
		if _, err := os.Stat(dir); (err == nil) != stays {
			t.Errorf("%s: there: %v, want %v", filepath.Base(dir), err == nil, stays)
		}
	}
	k.kill()
	k.machine = "m1" // its record was written, the volume's was not
	k.open()
	if got, _ := k.Get(ctx, "shop", v.ID); got.AttachedMachineID == nil || *got.AttachedMachineID != "m1" {
		t.Errorf("a machine that has it: %+v", got)
	}
}

func TestOutgrown(t *testing.T) {
	used := func(percent int64) disk.Usage {
		return disk.Usage{BlockSize: 4096, Blocks: 1000, Available: 1000 - 10*percent}
	}
	for _, c := range []struct {
		r    Record
		u    disk.Usage
		want int
	}{
		{Record{SizeGB: 1}, used(99), 0},
		{Record{SizeGB: 1, Extend: &Extend{80, 2, 0}}, used(79), 0},
		{Record{SizeGB: 1, Extend: &Extend{80, 2, 0}}, used(80), 3},
		{Record{SizeGB: 1, Extend: &Extend{80, 2, 2}}, used(90), 2},
		{Record{SizeGB: 2, Extend: &Extend{80, 2, 2}}, used(90), 0},
		{Record{SizeGB: 1, Growing: true, Extend: &Extend{80, 2, 0}}, used(90), 0},
	} {
		c.r.State = api.VolumeCreated
		if gb, more := c.r.outgrown(c.u); more != (c.want > 0) || more && gb != c.want {
			t.Errorf("%+v: %d, %v; want %d", c.r, gb, more, c.want)
		}
	}
}

func TestCheck(t *testing.T) {
	no, zero, many := false, 0, 61
	for field, req := range map[string]api.CreateVolumeRequest{
		"name": {Name: "Not-This"}, "fstype": {Fstype: "xfs"}, "encrypted": {Encrypted: &no}, "size_gb": {SizeGB: &zero},
		"snapshot_retention": {SnapshotRetention: &many}, "snapshot_id": {SnapshotID: "a", SourceVolumeID: "b"},
	} {
		if err := Check(req); err == nil || api.AsError(err).Field != field {
			t.Errorf("a bad %s: %v", field, err)
		}
	}
}
