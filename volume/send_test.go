package volume

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/volume/disk"
)

// left are the files below a folder.
func left(t *testing.T, dir string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			names = append(names, path)
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return names
}

// TestSnapshotWithoutRoomIsGivenUp, and leaves nothing on the disk that it filled.
func TestSnapshotWithoutRoomIsGivenUp(t *testing.T) {
	k := newFakes(t)
	v := k.volume(1)
	defer k.run()()
	full := api.Errorf(api.CodeCapacity, "node %q has no room", "n1")
	var last string
	for range 2 {
		k.objects.fail(full, 1) // the first chunk is stored
		one, err := k.Snapshot(t.Context(), "shop", v.id)
		if err != nil {
			t.Fatal(err)
		}
		within(t, "it is given up", func() bool { r := v.now(); return r.snapshot(one.ID).Status == api.SnapshotFailed })
		within(t, "its files are gone", func() bool { return len(left(t, k.place))+len(left(t, k.copies())) == 0 })
		last = one.ID
	}
	all, err := k.Snapshots(t.Context(), "shop", v.id)
	if err != nil || len(all) != 1 || all[0].ID != last || !strings.Contains(all[0].Reason, "no room") {
		t.Errorf("listed: %+v, %v", all, err)
	}
	if p := v.now().Problem; !strings.Contains(p, last) || !strings.Contains(p, "no room") {
		t.Errorf("the volume's problem: %q", p)
	}
	k.objects.fail(nil, 0)
	one, err := k.Snapshot(t.Context(), "shop", v.id)
	if err != nil {
		t.Fatal(err)
	}
	within(t, "the next one is stored", func() bool {
		r := v.now()
		return r.snapshot(one.ID).Status == api.SnapshotCreated && r.Problem == ""
	})
}

// TestSnapshotAsksForItsChunks where they are on the volumes' disk: for what has come
// since the one before.
func TestSnapshotAsksForItsChunks(t *testing.T) {
	k := newFakes(t)
	v := k.volume(40)
	k.disk(v.id).set(func(f *fake) { f.allocated = 40 * disk.GiB })
	k.free = 60 * disk.GiB // beside the volume
	k.cfg.SnapshotDir = filepath.Join(k.cfg.Dir, "snapshots", "not", "made", "yet")
	if _, err := k.Snapshot(t.Context(), "shop", v.id); !api.IsCode(err, api.CodeCapacity) {
		t.Errorf("a copy and chunks of 40 GB each where 60 are free: %v", err)
	}
	k.save(t.Context(), v, func(r *Record) {
		r.Snapshots = []Snapshot{{ID: newSnapshotID(), Status: api.SnapshotCreated, Size: 30 * disk.GiB}}
	})
	if _, err := k.Snapshot(t.Context(), "shop", v.id); err != nil {
		t.Errorf("with 30 GB of it stored: %v", err)
	}
}

// TestDestroyDoesNotWaitForAStoreThatIsAway, only for one that is at work.
func TestDestroyDoesNotWaitForAStoreThatIsAway(t *testing.T) {
	k := newFakes(t)
	v := k.volume(1)
	k.Detach(t.Context(), "m1", nil)
	defer k.run()()
	hold := make(chan struct{})
	k.objects.stall(hold)
	one, err := k.Snapshot(t.Context(), "shop", v.id)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.Destroy(t.Context(), "shop", v.id, true); !api.IsCode(err, api.CodeConflict) {
		t.Errorf("while it is on its way: %v", err)
	}
	k.objects.fail(errors.New("the bucket is away"), 0)
	close(hold)
	within(t, "it says why it is not stored", func() bool { r := v.now(); return strings.Contains(r.snapshot(one.ID).Reason, "away") })
	k.objects.fail(nil, 0)
	k.objects.stall(make(chan struct{})) // the next try does not end by itself
	within(t, "it is tried again", func() bool { _, busy := v.sending.Load(one.ID); return busy })
	if _, err := k.Destroy(t.Context(), "shop", v.id, true); err != nil {
		t.Fatal(err)
	}
	within(t, "nothing is left", func() bool { return k.lookup(v.id) == nil && len(left(t, k.place))+len(left(t, k.copies())) == 0 })
	if _, err := os.Stat(filepath.Join(k.cfg.Dir, v.id)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("its files: %v", err)
	}
}
