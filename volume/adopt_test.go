package volume

import (
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/perigee-run/perigee/api"
)

// TestAdopt: the snapshots of a volume whose node is gone are another node's to list,
// to restore and to end; what that node had alone is not.
func TestAdopt(t *testing.T) {
	k := newFakes(t)
	days := 3
	said := Summary{Volume: api.Volume{ID: "vol_00000000000000001", Name: "data", App: "shop", State: api.VolumeCreated, SizeGB: 7, Region: "fra", Node: "n2"}, AppID: "app_1", Org: "personal",
		Snapshots: []api.VolumeSnapshot{
			{ID: "vs_2", Status: api.SnapshotCreating, CreatedAt: time.Now()},
			{ID: "vs_1", Status: api.SnapshotCreated, CreatedAt: time.Now().Add(-time.Hour), RetentionDays: &days},
		}}
	if err := k.Adopt(t.Context(), said); err != nil || k.lookup(said.Volume.ID) != nil {
		t.Errorf("snapshots that are on the disk of their node alone are taken over: %v", err)
	}
	k.objects.shared = true
	for range 2 {
		if err := k.Adopt(t.Context(), said); err != nil {
			t.Fatal(err)
		}
	}
	all, err := k.Snapshots(t.Context(), "shop", said.Volume.ID)
	if err != nil || len(all) != 1 || all[0].ID != "vs_1" || *all[0].RetentionDays != days {
		t.Errorf("%+v, %v", all, err)
	}
	if got := k.Summaries()[said.Volume.ID].Volume; got.State != api.VolumeDestroyed || got.Node != "n1" || got.Region != "fra" || got.SizeGB != 7 {
		t.Errorf("%+v", got)
	}
	v := k.lookup(said.Volume.ID)
	if err := k.expire(t.Context(), v, time.Now().Add(4*k.cfg.Day)); err != nil {
		t.Fatal(err)
	}
	if k.lookup(said.Volume.ID) != nil {
		t.Error("it stays when its last snapshot is over")
	}
}

// TestOneKeyOneVolume: creations that are sent again under the same key, at once and
// later, make one volume.
func TestOneKeyOneVolume(t *testing.T) {
	k := newFakes(t)
	var all sync.WaitGroup
	ids := make(chan string, 8)
	create := func(key string) {
		v, err := k.Create(t.Context(), "shop", api.CreateVolumeRequest{IdempotencyKey: key})
		if err != nil {
			t.Error(err)
		}
		ids <- v.ID
	}
	for range 6 {
		all.Go(func() { create("k1") })
	}
	all.Wait()
	create("k1")
	first := <-ids
	for range 6 {
		if id := <-ids; id != first {
			t.Errorf("one key made %s and %s", first, id)
		}
	}
	create("k2")
	underWay := func() int {
		k.mu.Lock()
		defer k.mu.Unlock()
		return len(k.making)
	}
	for end := time.Now().Add(10 * time.Second); underWay() > 0 && time.Now().Before(end); { // the answer comes just before
		time.Sleep(time.Millisecond)
	}
	if <-ids == first || len(k.all()) != 2 || underWay() != 0 {
		t.Errorf("%d volumes, %d creations under way", len(k.all()), underWay())
	}
}

// TestOrphans: a volume whose app was destroyed is given to another app of the org,
// with its snapshots, and only to one that may have it.
func TestOrphans(t *testing.T) {
	k := newFakes(t)
	ctx := t.Context()
	apps := &apps{"a1"}
	k.cfg.Apps, k.cfg.Synced = apps, func() bool { return true }
	k.cfg.Listed = func(app, id string) bool {
		for _, s := range k.Summaries() {
			if s.Volume.App == app && s.AppID == apps.id && slices.ContainsFunc(s.Snapshots, func(o api.VolumeSnapshot) bool { return o.ID == id }) {
				return true
			}
		}
		return false
	}
	v, err := k.Create(ctx, "shop", api.CreateVolumeRequest{})
	if err != nil {
		t.Fatal(err)
	}
	snap, err := k.Snapshot(ctx, "shop", v.ID)
	if err != nil {
		t.Fatal(err)
	}
	within(t, "it is stored", func() bool { all, _ := k.Snapshots(ctx, "shop", v.ID); return all[0].Status == api.SnapshotCreated })
	if _, err := k.Destroy(ctx, "shop", v.ID, false); err != nil {
		t.Fatal(err)
	}
	apps.id = "a2"
	if _, err := k.Keep(ctx, "shop", v.ID, false); !api.IsCode(err, api.CodeNotFound) {
		t.Errorf("another app has it: %v", err)
	}
	one := 1
	restore := api.CreateVolumeRequest{SnapshotID: snap.ID, SizeGB: &one}
	if _, err := k.Create(ctx, "shop", restore); !api.IsCode(err, api.CodeNotFound) {
		t.Errorf("another app restores it: %v", err)
	}
	got, err := k.Keep(ctx, "shop", v.ID, true)
	if err != nil || got.State != api.VolumeCreated || got.DestroyAt != nil {
		t.Fatalf("%+v, %v", got, err)
	}
	if _, err := k.Create(ctx, "shop", restore); err != nil {
		t.Errorf("its snapshot cannot be restored: %v", err)
	}
	if _, err := os.Stat(k.disk(v.ID).dir); err != nil {
		t.Error(err)
	}
	if _, err := k.Destroy(ctx, "shop", v.ID, true); err != nil {
		t.Fatal(err)
	}
	apps.id = "a3"
	if got, err := k.Keep(ctx, "shop", v.ID, true); err != nil || got.State != api.VolumeDestroyed {
		t.Errorf("one of which there are but snapshots: %+v, %v", got, err)
	}
	if _, err := k.Create(ctx, "shop", restore); err != nil {
		t.Errorf("its snapshot cannot be restored: %v", err)
	}
}
