package volume

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/volume/disk"
)

// TestSnapshotTakesNoPromisedRoom: what volumes may grow to stays free.
func TestSnapshotTakesNoPromisedRoom(t *testing.T) {
	k := newFakes(t)
	v := k.volume(60)
	k.disk(v.id).set(func(f *fake) { f.allocated = 60 * disk.GiB })
	k.free = 40 * disk.GiB
	k.volume(40)
	_, err := k.Snapshot(t.Context(), "shop", v.id)
	if !api.IsCode(err, api.CodeCapacity) {
		t.Errorf("a copy of 60 GB where 40 are free and promised: %v", err)
	}
	if all := v.now().Snapshots; len(all) != 0 {
		t.Errorf("it is noted all the same: %+v", all)
	}
	if err := k.Spare(k.cfg.Dir, 1); !api.IsCode(err, api.CodeCapacity) {
		t.Errorf("chunks beside full volumes: %v", err)
	}
	k.shares = true
	if _, err := k.Snapshot(t.Context(), "shop", v.id); err != nil {
		t.Errorf("where blocks are shared: %v", err)
	}
}

// TestRoomIsPromisedOnce makes volumes at a time, of which one fits.
func TestRoomIsPromisedOnce(t *testing.T) {
	k := newFakes(t)
	gb := 60
	var made atomic.Int32
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if _, err := k.Create(t.Context(), "shop", api.CreateVolumeRequest{SizeGB: &gb}); err == nil {
				made.Add(1)
			} else if !api.IsCode(err, api.CodeCapacity) || api.AsError(err).Kind != "volume_placement_capacity" {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if made.Load() != 1 || len(k.all()) != 1 {
		t.Errorf("%d volumes of 60 GB, %d known, on a disk of 100", made.Load(), len(k.all()))
	}
}

// TestForkOfSharedBlocksTakesItsWholeSize: the first write to each block needs a new one.
func TestForkOfSharedBlocksTakesItsWholeSize(t *testing.T) {
	k := newFakes(t)
	k.shares = true
	v := k.volume(50)
	k.disk(v.id).set(func(f *fake) { f.allocated = 50 * disk.GiB })
	k.free = 50 * disk.GiB
	fork, err := k.Create(t.Context(), "shop", api.CreateVolumeRequest{SourceVolumeID: v.id})
	if err != nil {
		t.Fatal(err)
	}
	k.disk(fork.ID).set(func(f *fake) { f.allocated = 50 * disk.GiB }) // the same blocks
	if _, err := k.Create(t.Context(), "shop", api.CreateVolumeRequest{SourceVolumeID: v.id}); !api.IsCode(err, api.CodeCapacity) {
		t.Errorf("a second fork: %v", err)
	}
}

// TestRestartDuringCopy: a machine that ends while its volume is copied starts again.
func TestRestartDuringCopy(t *testing.T) {
	k := newFakes(t)
	v := k.volume(1)
	if _, err := k.Open(t.Context(), v.id, "m1"); err != nil {
		t.Fatal(err)
	}
	hold := make(chan struct{})
	k.disk(v.id).set(func(f *fake) { f.hold = hold })
	copied := make(chan error, 1)
	go func() { _, err := k.Snapshot(context.Background(), "shop", v.id); copied <- err }()
	within(t, "it is being copied", func() bool { v.mu.Lock(); defer v.mu.Unlock(); return v.copying })
	soon, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	k.Close(soon, v.id) // its turn does not come
	if _, err := k.Open(soon, v.id, "m2"); err == nil {
		t.Error("another machine has it")
	}
	if _, err := k.Open(t.Context(), v.id, "m1"); err != nil {
		t.Errorf("while it is copied: %v", err)
	}
	close(hold)
	if err := <-copied; err != nil {
		t.Error(err)
	}
	k.keep(t.Context(), v)
	within(t, "it is kept", func() bool { return v.keeping.TryLock() })
	if !k.disk(v.id).Mounted() {
		t.Error("it was unmounted under the machine that was started again")
	}
}

// TestClosedDuringCopy: a machine that ends for good while its volume is copied does
// not leave it mounted.
func TestClosedDuringCopy(t *testing.T) {
	k := newFakes(t)
	v := k.volume(1)
	if _, err := k.Open(t.Context(), v.id, "m1"); err != nil {
		t.Fatal(err)
	}
	defer k.run()()
	hold := make(chan struct{})
	k.disk(v.id).set(func(f *fake) { f.hold = hold })
	go k.Snapshot(context.Background(), "shop", v.id)
	within(t, "it is being copied", func() bool { v.mu.Lock(); defer v.mu.Unlock(); return v.copying })
	soon, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	k.Close(soon, v.id)
	close(hold)
	within(t, "it is unmounted", func() bool { return !k.disk(v.id).Mounted() })
}

// TestOneSlowUploadHoldsNothingUp: other volumes are looked after, and Run ends.
func TestOneSlowUploadHoldsNothingUp(t *testing.T) {
	k := newFakes(t)
	a, b := k.volume(1), k.volume(1)
	old := time.Now().Add(-100 * 24 * time.Hour)
	k.save(t.Context(), a, func(r *Record) {
		r.Snapshots = []Snapshot{{ID: "vs_old", Status: api.SnapshotCreated, CreatedAt: old, Retention: 1}}
	})
	k.objects.stall(make(chan struct{}))
	if _, err := k.Snapshot(t.Context(), "shop", a.id); err != nil {
		t.Fatal(err)
	}
	within(t, "it is being sent", func() bool {
		if a.storing.TryLock() {
			a.storing.Unlock()
			return false
		}
		return true
	})
	stop := k.run()
	k.save(t.Context(), b, func(r *Record) { r.Machine, r.State, r.DestroyAt = "", api.VolumePendingDestroy, &old })
	within(t, "the other volume is destroyed", func() bool { return k.lookup(b.id) == nil })
	stop()
}

// TestVolumeInUseIsNotFreed: what cannot be unmounted is nobody else's, until it can.
func TestVolumeInUseIsNotFreed(t *testing.T) {
	k := newFakes(t)
	v := k.volume(1)
	if _, err := k.Open(t.Context(), v.id, "m1"); err != nil {
		t.Fatal(err)
	}
	k.disk(v.id).set(func(f *fake) { f.busy = true })
	k.Close(t.Context(), v.id)
	if _, err := k.Open(t.Context(), v.id, "m1"); err == nil {
		t.Error("a second life of its machine has it beside the first")
	}
	k.Detach(t.Context(), "m1", nil)
	if err := k.Attach(t.Context(), "shop", "m2", []api.Mount{{Volume: v.id}}); !api.IsCode(err, api.CodeConflict) {
		t.Errorf("another machine has it: %v", err)
	}
	if p := v.now().Problem; !strings.Contains(p, "busy") {
		t.Errorf("nobody is told: %q", p)
	}
	defer k.run()()
	k.disk(v.id).set(func(f *fake) { f.busy = false })
	within(t, "it is freed", func() bool { r := v.now(); return r.Machine == "" && r.Problem == "" })
}

// TestDamagedVolumeIsNotMounted, and its problem is told until it is mended.
func TestDamagedVolumeIsNotMounted(t *testing.T) {
	k := newFakes(t)
	v := k.volume(1)
	k.disk(v.id).set(func(f *fake) { f.damaged = true })
	if _, err := k.Open(t.Context(), v.id, "m1"); !errors.Is(err, disk.ErrDamaged) {
		t.Errorf("a damaged volume: %v", err)
	}
	k.Close(t.Context(), v.id)
	if p := v.now().Problem; !strings.Contains(p, "damaged") {
		t.Errorf("the problem is %q", p)
	}
	k.disk(v.id).set(func(f *fake) { f.damaged = false })
	if _, err := k.Open(t.Context(), v.id, "m1"); err != nil || v.now().Problem != "" {
		t.Errorf("after it was mended: %v, %q", err, v.now().Problem)
	}
}

// TestOpenAfterTheCallerLeft leaves nothing mounted.
func TestOpenAfterTheCallerLeft(t *testing.T) {
	k := newFakes(t)
	v := k.volume(1)
	hold := make(chan struct{})
	k.disk(v.id).set(func(f *fake) { f.hold = hold })
	k.save(t.Context(), v, func(r *Record) { r.SizeGB, r.Growing = 2, true })
	soon, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := k.Open(soon, v.id, "m1"); err == nil {
		t.Fatal("it is open while it grows")
	}
	close(hold)
	within(t, "it has grown", func() bool { return !v.now().Growing })
	if err := v.take(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer v.give()
	if k.disk(v.id).Mounted() || v.isOpen() {
		t.Error("it stays mounted, for nobody")
	}
}

// TestSnapshotsOnDemandAreLimited, for all of them are in one record.
func TestSnapshotsOnDemandAreLimited(t *testing.T) {
	k := newFakes(t)
	v := k.volume(1)
	k.save(t.Context(), v, func(r *Record) {
		for range maxSnapshots {
			r.Snapshots = append(r.Snapshots, Snapshot{ID: newSnapshotID(), Status: api.SnapshotCreated})
		}
	})
	if _, err := k.Snapshot(t.Context(), "shop", v.id); !api.IsCode(err, api.CodeInvalid) {
		t.Errorf("one more than there may be: %v", err)
	}
	if _, err := k.take(t.Context(), v, true); err != nil {
		t.Errorf("the daily one: %v", err)
	}
}

// TestDamagedManifestEndsNoExpiry: the snapshots go all the same, chunks may stay.
func TestDamagedManifestEndsNoExpiry(t *testing.T) {
	k := newFakes(t)
	v := k.volume(1)
	var ids []string
	for range 3 {
		one, err := k.Snapshot(t.Context(), "shop", v.id)
		if err != nil {
			t.Fatal(err)
		}
		within(t, "it is stored", func() bool { r := v.now(); return r.snapshot(one.ID).Status == api.SnapshotCreated })
		ids = append(ids, one.ID)
	}
	path := filepath.Join(k.place, "snapshots", ids[2]+"."+v.id)
	if _, err := os.Stat(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("nothing of ours"), 0o600); err != nil {
		t.Fatal(err)
	}
	k.save(t.Context(), v, func(r *Record) {
		r.Snapshots[1].CreatedAt, r.Snapshots[2].CreatedAt = time.Time{}, time.Time{} // newest first
	})
	within(t, "they expire", func() bool { // not while the last one is still being sent
		if err := k.expire(t.Context(), v, time.Now()); err != nil {
			t.Error(err)
		}
		r := v.now()
		return len(r.Snapshots) == 1
	})
	r := v.now()
	if r.Snapshots[0].ID != ids[2] {
		t.Errorf("left: %+v", r.Snapshots)
	}
	if !strings.Contains(r.Problem, "chunks") {
		t.Errorf("nobody is told: %q", r.Problem)
	}
}

// TestSnapshotIDIsNoPath of the host.
func TestSnapshotIDIsNoPath(t *testing.T) {
	for _, id := range []string{"../../../../x", "vs_../../x", "vs_", "vs_a/b", "/etc/passwd"} {
		if err := Check(api.CreateVolumeRequest{SnapshotID: id}); !api.IsCode(err, api.CodeInvalid) {
			t.Errorf("%q: %v", id, err)
		}
	}
	if err := Check(api.CreateVolumeRequest{SnapshotID: newSnapshotID()}); err != nil {
		t.Error(err)
	}
}

// TestCreateIsAllOrNothing lets callers leave at any moment.
func TestCreateIsAllOrNothing(t *testing.T) {
	k := newFakes(t)
	for i := range 50 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*20*time.Microsecond)
		made, err := k.Create(ctx, "shop", api.CreateVolumeRequest{})
		cancel()
		if err == nil {
			if k.lookup(made.ID) == nil {
				t.Fatalf("volume %s was made and is not there", made.ID)
			}
			if _, err := k.Destroy(t.Context(), "shop", made.ID, true); err != nil {
				t.Fatal(err)
			}
		}
	}
	within(t, "what nobody knows of is gone", func() bool { return len(k.all()) == 0 })
}

// TestGrowsWhileItsMachineRuns: a volume that is nearly full grows by itself and its
// machine goes on. Where the kernel does not allow that the problem says so, and it
// grows as soon as it may.
func TestGrowsWhileItsMachineRuns(t *testing.T) {
	k := newFakes(t)
	ctx := t.Context()
	v := k.volume(10)
	mounts := []api.Mount{{Volume: v.id, ExtendThresholdPercent: 80, AddSizeGB: 5, SizeGBLimit: 18}}
	if err := k.Attach(ctx, "shop", "m1", mounts); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Open(ctx, v.id, "m1"); err != nil {
		t.Fatal(err)
	}
	full := func(free int64) {
		k.disk(v.id).set(func(f *fake) {
			f.usage = disk.Usage{BlockSize: 4096, Blocks: f.size / 4096, Free: free * disk.GiB / 4096, Available: free * disk.GiB / 4096}
		})
	}
	defer k.run()()
	full(1)
	within(t, "it has grown", func() bool { r := v.now(); return r.SizeGB == 15 && !r.Growing && k.disk(v.id).Mounted() })
	k.disk(v.id).set(func(f *fake) { f.still = true })
	full(1)
	within(t, "it says that it waits", func() bool {
		r := v.now()
		return r.SizeGB == 18 && r.Growing && strings.Contains(r.Problem, "it has its new size when its machine is started next: the kernel does not let it")
	})
	k.disk(v.id).set(func(f *fake) { f.still = false })
	within(t, "it has grown as far as it may", func() bool { r := v.now(); return !r.Growing && r.Problem == "" })
	full(1)
	time.Sleep(50 * time.Millisecond)
	if r := v.now(); r.SizeGB != 18 {
		t.Errorf("it grew beyond its limit, to %d GB", r.SizeGB)
	}
}
