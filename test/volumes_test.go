package test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/volume/disk"
)

// store is an app whose machines have volumes, on a real node.
type store struct {
	*Node
	t     *testing.T
	image string
}

// mounted starts a node with an app named store.
func mounted(t *testing.T, flags ...string) *store {
	t.Helper()
	if err := disk.Check(); err != nil {
		t.Skipf("%v; scripts/deps.sh run installs it", err)
	}
	n := Start(t, flags...)
	return &store{n, t, n.importImage("store", Tiny(t))}
}

func (s *store) volume(req api.CreateVolumeRequest) api.Volume {
	s.t.Helper()
	v, err := s.Client.CreateVolume(context.Background(), "store", req)
	if err != nil {
		s.t.Fatal(err)
	}
	return v
}

func (s *store) create(mounts ...api.Mount) (api.Machine, error) {
	one := 1
	return s.Client.CreateMachine(context.Background(), "store", api.CreateMachineRequest{Config: &api.MachineConfig{
		Image: s.image, Mounts: mounts, Init: &api.Init{Exec: []string{"/bin/busybox", "sleep", "100000"}}, StopConfig: &api.StopConfig{Signal: "SIGKILL"}, Guest: &api.Guest{CPUs: one, MemoryMB: 256},
	}})
}

func (s *store) machineOn(volume string) api.Machine {
	s.t.Helper()
	m, err := s.create(api.Mount{Volume: volume, Path: "/data"})
	if err != nil {
		s.t.Fatal(err)
	}
	return m
}

// sh runs a line of shell in a machine and returns what it said.
func (s *store) sh(machine, line string) (string, int) {
	s.t.Helper()
	r, err := s.Client.Exec(context.Background(), "store", machine, api.ExecRequest{Command: []string{"/bin/busybox", "sh", "-c", line}})
	if err != nil {
		s.t.Fatalf("%s: %v", line, err)
	}
	return strings.TrimSpace(r.Stdout + r.Stderr), r.ExitCode
}

func (s *store) says(machine, line, want string) {
	s.t.Helper()
	if got, code := s.sh(machine, line); code != 0 || got != want {
		s.t.Errorf("%s: %q, code %d; want %q", line, got, code, want)
	}
}

func (s *store) get(id string) api.Volume {
	s.t.Helper()
	v, err := s.Client.GetVolume(context.Background(), "store", id)
	if err != nil {
		s.t.Fatal(err)
	}
	return v
}

func (s *store) snapshot(id string) api.VolumeSnapshot {
	s.t.Helper()
	snap, err := s.Client.CreateSnapshot(context.Background(), "store", id)
	if err != nil {
		s.t.Fatal(err)
	}
	return s.awaitSnapshot(id, snap.ID)
}

// awaitSnapshot returns a snapshot once it is stored.
func (s *store) awaitSnapshot(volume, id string) api.VolumeSnapshot {
	s.t.Helper()
	for range 600 {
		all, err := s.Client.ListSnapshots(context.Background(), "store", volume)
		if err != nil {
			s.t.Fatal(err)
		}
		if i := slices.IndexFunc(all, func(o api.VolumeSnapshot) bool { return o.ID == id }); i >= 0 && all[i].Status != api.SnapshotCreating {
			return all[i]
		}
		time.Sleep(50 * time.Millisecond)
	}
	s.t.Fatalf("snapshot %s is not stored after 30 s; volume: %+v", id, s.get(volume))
	return api.VolumeSnapshot{}
}

func refused(t *testing.T, err error, code, what string) {
	t.Helper()
	if !api.IsCode(err, code) {
		t.Errorf("%s: %v; want %s", what, err, code)
	}
}

func (s *store) imageFile(id string) string { return filepath.Join(s.Data(), "volumes", id, "image") }

// mountsLeft is how many volumes of the node are mounted.
func (s *store) mountsLeft() int {
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		s.t.Fatal(err)
	}
	return strings.Count(string(b), filepath.Join(s.Data(), "volumes")+"/")
}

// TestVolumes walks through a volume's life on one node.
func TestVolumes(t *testing.T) {
	s, ctx := mounted(t), context.Background()
	v := s.volume(api.CreateVolumeRequest{Name: "data"})
	if v.SizeGB != 1 || v.State != api.VolumeCreated || !v.Encrypted || v.Fstype != "ext4" || v.Region != "lab" || v.Zone != "node1" || !strings.HasPrefix(v.ID, "vol_") {
		t.Errorf("new volume: %+v", v)
	}
	m := s.machineOn(v.ID)
	s.says(m.ID, "echo a-very-well-known-sentence > /data/f && sync && cat /data/f", "a-very-well-known-sentence")
	if got := s.get(v.ID); got.AttachedMachineID == nil || *got.AttachedMachineID != m.ID || got.BytesTotal == 0 {
		t.Errorf("attached: %+v", got)
	}
	t.Run("one machine each", func(t *testing.T) {
		_, err := s.create(api.Mount{Volume: v.ID, Path: "/data"})
		refused(t, err, api.CodeConflict, "a second machine")
		_, err = s.create(api.Mount{Volume: "vol_00000000000000000", Path: "/data"})
		refused(t, err, api.CodeNotFound, "a volume that is not there")
		_, err = s.create(api.Mount{Name: "data", Path: "/data"})
		refused(t, err, api.CodePrecondition, "by name, with none free")
		_, err = s.Client.DestroyVolume(ctx, "store", v.ID, false)
		refused(t, err, api.CodePrecondition, "to destroy one that is used")
		if list, _ := s.Client.ListMachines(ctx, "store"); len(list) != 1 {
			t.Errorf("%d machines", len(list))
		}
	})
	t.Run("by name, at once", func(t *testing.T) {
		var all sync.WaitGroup
		for range 3 {
			s.volume(api.CreateVolumeRequest{Name: "race"})
		}
		for range 3 {
			all.Go(func() {
				m, err := s.create(api.Mount{Name: "race", Path: "/data"})
				if err == nil {
					err = s.Client.DestroyMachine(ctx, "store", m.ID, true)
				}
				if err != nil {
					t.Errorf("one of three machines for three volumes: %v", err)
				}
			})
		}
		all.Wait()
	})
	t.Run("size is enforced", func(t *testing.T) {
		out, code := s.sh(m.ID, "dd if=/dev/zero of=/data/big bs=1M count=1100")
		if code == 0 || !strings.Contains(out, "No space left") {
			t.Errorf("1100 MiB into 1 GiB: code %d, %s", code, out)
		}
		s.says(m.ID, "rm /data/big && sync && cat /data/f", "a-very-well-known-sentence")
	})
	t.Run("encrypted at rest", func(t *testing.T) {
		if b, err := os.ReadFile(s.imageFile(v.ID)); err != nil || bytes.Contains(b, []byte("a-very-well-known-sentence")) {
			t.Errorf("what was written can be read in the image, or not even that: %v", err)
		}
		if fi, err := os.Stat(filepath.Join(s.Data(), "volumes.key")); err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("the key's file: %v, %v", fi, err)
		}
	})
	t.Run("stays", func(t *testing.T) {
		if err := s.Client.RestartMachine(ctx, "store", m.ID); err != nil {
			t.Fatal(err)
		}
		s.says(m.ID, "cat /data/f", "a-very-well-known-sentence")
		s.Kill()
		s.Run()
		s.says(m.ID, "cat /data/f", "a-very-well-known-sentence")
		if got := s.get(v.ID); got.AttachedMachineID == nil || *got.AttachedMachineID != m.ID {
			t.Errorf("after a crash: %+v", got)
		}
	})
	t.Run("pause and suspend", func(t *testing.T) {
		if err := s.Client.PauseMachine(ctx, "store", m.ID); err != nil {
			t.Fatal(err)
		}
		if err := s.Client.StartMachine(ctx, "store", m.ID); err != nil {
			t.Fatal(err)
		}
		s.says(m.ID, "echo x > /data/g && sync && cat /data/f", "a-very-well-known-sentence")
		if err := s.Client.SuspendMachine(ctx, "store", m.ID); err != nil {
			t.Fatal(err)
		}
		if got, _ := s.Client.GetMachine(ctx, "store", m.ID); got.State != api.StateSuspended {
			t.Errorf("suspended: %s, %s", got.State, got.Standing)
		}
		if n := s.mountsLeft(); n != 0 {
			t.Errorf("%d volumes are mounted while no machine runs", n)
		}
		if err := s.Client.StartMachine(ctx, "store", m.ID); err != nil {
			t.Fatal(err)
		}
		s.says(m.ID, "cat /data/f /data/g", "a-very-well-known-sentence\nx")
		if got, _ := s.Client.GetMachine(ctx, "store", m.ID); got.Events[0].Type != "resume" || got.Events[0].Detail["how"] != "snapshot" {
			t.Errorf("it did not go on: %+v", got.Events[0])
		}
		s.says(m.ID, "echo y > /data/g && sync && cat /data/g", "y")
	})
	var snap api.VolumeSnapshot
	t.Run("snapshot, restore, fork", func(t *testing.T) {
		snap = s.snapshot(v.ID)
		if snap.Status != api.SnapshotCreated || snap.Size == 0 || snap.Digest == "" || *snap.RetentionDays != 5 {
			t.Fatalf("snapshot: %+v", snap)
		}
		s.sh(m.ID, "echo changed > /data/f; sync")
		old := s.volume(api.CreateVolumeRequest{SnapshotID: snap.ID})
		fork := s.volume(api.CreateVolumeRequest{SourceVolumeID: v.ID, Name: "copy"})
		if old.Name != "data" || fork.Name != "copy" || old.SizeGB != 1 {
			t.Errorf("restored %+v, forked %+v", old, fork)
		}
		s.says(s.machineOn(old.ID).ID, "cat /data/f", "a-very-well-known-sentence")
		s.says(s.machineOn(fork.ID).ID, "cat /data/f", "changed")
		_, err := s.Client.CreateVolume(ctx, "store", api.CreateVolumeRequest{SnapshotID: "vs_none"})
		refused(t, err, api.CodeNotFound, "a snapshot that is not there")
		if _, err := s.Client.CreateApp(ctx, api.CreateAppRequest{AppName: "other"}); err != nil {
			t.Fatal(err)
		}
		_, err = s.Client.CreateVolume(ctx, "other", api.CreateVolumeRequest{SnapshotID: snap.ID})
		refused(t, err, api.CodeNotFound, "another app's snapshot")
		_, err = s.Client.GetVolume(ctx, "other", v.ID)
		refused(t, err, api.CodeNotFound, "another app's volume")
	})
	t.Run("extend", func(t *testing.T) {
		_, err := s.Client.ExtendVolume(ctx, "store", v.ID, 20000)
		refused(t, err, api.CodeInvalid, "too large")
		r, err := s.Client.ExtendVolume(ctx, "store", v.ID, 2)
		if err != nil || r.Volume.SizeGB != 2 {
			t.Fatalf("%+v, %v", r, err)
		}
		_, err = s.Client.ExtendVolume(ctx, "store", v.ID, 1)
		refused(t, err, api.CodeInvalid, "to shrink")
		if r.NeedsRestart {
			s.Kill() // the wish is kept
			s.Run()
			if err := s.Client.RestartMachine(ctx, "store", m.ID); err != nil {
				t.Fatal(err)
			}
		}
		s.says(m.ID, "dd if=/dev/zero of=/data/big bs=1M count=1100 2>/dev/null && rm /data/big && cat /data/f", "changed")
		if got := s.get(v.ID); got.NeedsRestart || got.BytesTotal < 19<<26 {
			t.Errorf("after it grew: %+v", got)
		}
		t.Logf("needs a restart here: %v", r.NeedsRestart)
	})
	t.Run("destroy", func(t *testing.T) {
		if err := s.Client.DestroyMachine(ctx, "store", m.ID, true); err != nil {
			t.Fatal(err)
		}
		if got := s.get(v.ID); got.AttachedMachineID != nil {
			t.Errorf("a destroyed machine has it still: %+v", got)
		}
		gone, err := s.Client.DestroyVolume(ctx, "store", v.ID, false)
		if err != nil || gone.State != api.VolumePendingDestroy || gone.DestroyAt == nil || time.Until(*gone.DestroyAt) < 23*time.Hour {
			t.Errorf("%+v, %v", gone, err)
		}
		_, err = s.create(api.Mount{Volume: v.ID, Path: "/data"})
		refused(t, err, api.CodePrecondition, "a machine with a destroyed volume")
		if kept, err := s.Client.KeepVolume(ctx, "store", v.ID); err != nil || kept.State != api.VolumeCreated {
			t.Errorf("kept: %+v, %v", kept, err)
		}
		s.says(s.machineOn(v.ID).ID, "cat /data/f", "changed")
		list, _ := s.Client.ListMachines(ctx, "store")
		for _, m := range list {
			s.Client.DestroyMachine(ctx, "store", m.ID, true)
		}
		if _, err := s.Client.DestroyVolume(ctx, "store", v.ID, true); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(s.imageFile(v.ID)); !os.IsNotExist(err) {
			t.Errorf("the files of a destroyed volume: %v", err)
		}
		_, err = s.Client.GetVolume(ctx, "store", v.ID)
		refused(t, err, api.CodeNotFound, "a destroyed volume")
		back := s.volume(api.CreateVolumeRequest{SnapshotID: snap.ID, Name: "back"})
		s.says(s.machineOn(back.ID).ID, "cat /data/f", "a-very-well-known-sentence")
	})
	t.Run("commands", func(t *testing.T) {
		out := s.Must("volumes", "create", "more", "--size", "1", "--app", "store", "--json")
		if !strings.Contains(out, `"name": "more"`) {
			t.Errorf("create: %s", out)
		}
		if out := s.Must("volumes", "list", "-a", "store"); !strings.Contains(out, "more") || !strings.Contains(out, "1 GB") {
			t.Errorf("list:\n%s", out)
		}
		if out := s.Must("volumes", "snapshots", "create", "more", "-a", "store"); !strings.Contains(out, "vs_") {
			t.Errorf("snapshot: %s", out)
		}
		if _, errs, code := s.Perigee("volumes", "destroy", "more", "-a", "store"); code == 0 || !strings.Contains(errs, "--yes") {
			t.Errorf("destroy without --yes: %d %s", code, errs)
		}
		s.Must("volumes", "destroy", "more", "-a", "store", "--yes")
		if out := s.Must("volumes", "list", "-a", "store"); strings.Contains(out, "more") {
			t.Errorf("a destroyed volume is listed:\n%s", out)
		}
	})
	t.Run("with the app", func(t *testing.T) {
		if err := s.Client.DeleteApp(ctx, "store"); err != nil {
			t.Fatal(err)
		}
		if n := s.mountsLeft(); n != 0 {
			t.Errorf("%d volumes are mounted", n)
		}
		s.importImage("store", Tiny(t)) // another app of the same name
		if list, err := s.Client.ListVolumes(ctx, "store"); err != nil || len(list) != 0 {
			t.Errorf("the volumes of another app that had the name: %v, %v", list, err)
		}
		_, err := s.Client.CreateVolume(ctx, "store", api.CreateVolumeRequest{SnapshotID: snap.ID})
		refused(t, err, api.CodeNotFound, "a snapshot of another app that had the name")
	})
	t.Run("from an app that is gone", func(t *testing.T) {
		if out := s.Must("volumes", "list", "--org", "personal"); strings.Contains(out, "vol_") {
			t.Errorf("volumes of a destroyed app are listed unasked:\n%s", out)
		}
		all, err := s.Client.ListOrgVolumes(ctx, "personal", api.VolumePendingDestroy, api.VolumeDestroyed)
		back := slices.IndexFunc(all, func(o api.Volume) bool { return o.Name == "back" && o.State == api.VolumePendingDestroy })
		if err != nil || back < 0 || !slices.ContainsFunc(all, func(o api.Volume) bool { return o.ID == v.ID && o.State == api.VolumeDestroyed }) {
			t.Fatalf("the volumes of a destroyed app: %+v, %v", all, err)
		}
		made, err := s.Client.CreateToken(ctx, "personal", api.CreateTokenRequest{Kind: api.TokenDeploy, App: "store"})
		if err != nil {
			t.Fatal(err)
		}
		narrow, err := api.NewClient(api.ClientConfig{Addr: "http://" + s.API, Token: made.Token})
		if err != nil {
			t.Fatal(err)
		}
		_, err = narrow.KeepVolume(ctx, "store", all[back].ID)
		refused(t, err, api.CodeNotFound, "to keep another app's, with the token of one app")
		s.Must("volumes", "keep", all[back].ID, "-a", "store")
		s.says(s.machineOn(all[back].ID).ID, "cat /data/f", "a-very-well-known-sentence")
		if _, err := s.Client.KeepVolume(ctx, "store", v.ID); err != nil {
			t.Fatal(err)
		}
		old := s.volume(api.CreateVolumeRequest{SnapshotID: snap.ID})
		s.says(s.machineOn(old.ID).ID, "cat /data/f", "a-very-well-known-sentence")
	})
}

// TestVolumesSurviveCrashes kills the daemon in the middle of operations. After
// each the volume is as it was acknowledged, and nothing half made is left. Its
// snapshots are kept in a bucket of a real S3 server.
func TestVolumesSurviveCrashes(t *testing.T) {
	bucket := ownBucket(t)
	s, ctx := mounted(t, bucket.Flags...), context.Background()
	v := s.volume(api.CreateVolumeRequest{Name: "data"})
	m := s.machineOn(v.ID)
	s.says(m.ID, "dd if=/dev/urandom of=/data/r bs=1M count=40 2>/dev/null; md5sum /data/r > /data/sum; sync", "")
	cut := func(after time.Duration, op func()) {
		t.Helper()
		done := make(chan struct{})
		go func() { defer close(done); op() }()
		time.Sleep(after)
		s.Kill()
		<-done
		s.Run()
		s.says(m.ID, "md5sum -c /data/sum", "/data/r: OK")
	}
	var acked []string
	for i := range 4 {
		cut(time.Duration(10+40*i)*time.Millisecond, func() {
			if v, err := s.Client.CreateVolume(ctx, "store", api.CreateVolumeRequest{Name: fmt.Sprint("n", i)}); err == nil {
				acked = append(acked, v.ID)
			}
		})
	}
	list, err := s.Client.ListVolumes(ctx, "store")
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range acked {
		if s.get(id).State != api.VolumeCreated {
			t.Errorf("an acknowledged volume: %+v", s.get(id))
		}
	}
	dirs, _ := filepath.Glob(filepath.Join(s.Data(), "volumes", "vol_*"))
	if len(dirs) != len(list) {
		t.Errorf("%d volumes, but files %q", len(list), dirs)
	}
	for i := range 4 {
		want := s.get(v.ID).SizeGB + 1
		ok := false
		cut(time.Duration(5+15*i)*time.Millisecond, func() {
			_, err := s.Client.ExtendVolume(ctx, "store", v.ID, want)
			ok = err == nil
		})
		if got := s.get(v.ID).SizeGB; ok && got != want || got < want-1 {
			t.Errorf("extended to %d: acknowledged %v, is %d", want, ok, got)
		}
	}
	if err := s.Client.RestartMachine(ctx, "store", m.ID); err != nil {
		t.Fatal(err)
	}
	s.says(m.ID, "md5sum -c /data/sum", "/data/r: OK")
	if got := s.get(v.ID); got.NeedsRestart || got.BytesTotal < int64(got.SizeGB)*disk.GiB*9/10 {
		t.Errorf("after the restart: %+v", got)
	}
	for i := range 5 {
		id := ""
		cut(time.Duration(10+60*i)*time.Millisecond, func() {
			if snap, err := s.Client.CreateSnapshot(ctx, "store", v.ID); err == nil {
				id = snap.ID
			}
		})
		if id != "" {
			if got := s.awaitSnapshot(v.ID, id); got.Status != api.SnapshotCreated {
				t.Errorf("an acknowledged snapshot: %+v", got)
			}
		}
	}
	last := s.snapshot(v.ID)
	if n := bucket.Manifests(last.ID + ".*"); n != 1 {
		t.Errorf("the bucket has %d manifests of snapshot %s", n, last.ID)
	}
	old := s.volume(api.CreateVolumeRequest{SnapshotID: last.ID})
	s.says(s.machineOn(old.ID).ID, "md5sum -c /data/sum", "/data/r: OK")
	if copies, _ := os.ReadDir(filepath.Join(s.Data(), "volumes", "copies")); len(copies) != 0 {
		t.Errorf("copies are left: %v", copies)
	}
}

// TestMountsInDeploys: a deploy makes the volumes that its machines lack, updates
// machines that have one in place, and gives them their former release back when
// the new one fails.
func TestMountsInDeploys(t *testing.T) {
	s, ctx := mounted(t), context.Background()
	dir := app(t, "shop", 8080, "[[mounts]]\n  source = \"data\"\n  destination = \"/data\"\n  snapshot_retention = 7\n[env]\n  RELEASE = \"1\"\n")
	s.deploy(dir, "--image", Tiny(t))
	one := s.machine("shop")
	vols, err := s.Client.ListVolumes(ctx, "shop")
	if err != nil || len(vols) != 1 || vols[0].Name != "data" || vols[0].SnapshotRetention != 7 || vols[0].AttachedMachineID == nil || *vols[0].AttachedMachineID != one.ID {
		t.Fatalf("volumes: %+v, %v", vols, err)
	}
	sh := func(id, line string) string {
		r, err := s.Client.Exec(ctx, "shop", id, api.ExecRequest{Command: []string{"/bin/busybox", "sh", "-c", line}})
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(r.Stdout + r.Stderr)
	}
	sh(one.ID, "echo kept > /data/f; sync")
	edit := func(from, to string) {
		b, err := os.ReadFile(filepath.Join(dir, "perigee.toml"))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "perigee.toml"), []byte(strings.Replace(string(b), from, to, 1)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	edit(`RELEASE = "1"`, `RELEASE = "2"`)
	s.deploy(dir, "--image", one.Config.Image)
	if two := s.machine("shop"); two.ID != one.ID || two.Release != 2 || two.Cordoned || sh(two.ID, "echo $RELEASE; cat /data/f") != "2\nkept" {
		t.Errorf("the second release: machine %s of release %d says %q", two.ID, two.Release, sh(two.ID, "echo $RELEASE; cat /data/f"))
	}
	edit("[env]", "[processes]\n  app = \"/bin/busybox false\"\n[env]")
	if out, errs, code := s.PerigeeIn(dir, "deploy", "--image", one.Config.Image); code == 0 {
		t.Errorf("a release that exits stands: %s%s", out, errs)
	}
	if back := s.machine("shop"); back.ID != one.ID || back.Release != 2 || back.State != api.StateStarted || back.Cordoned || sh(back.ID, "echo $RELEASE; cat /data/f") != "2\nkept" {
		t.Errorf("after a release that failed: %+v", back)
	}
	if _, err := s.Client.ExtendVolume(ctx, "shop", vols[0].ID, 2); err != nil {
		t.Fatal(err)
	}
	as := s.machine("shop").InstanceID
	for _, n := range []string{"2", "1", "2"} {
		if _, errs, code := s.PerigeeIn(dir, "scale", "count", n); code != 0 {
			t.Fatalf("scale to %s: %s", n, errs)
		}
		list, _ := s.Client.ListMachines(ctx, "shop")
		if vols, _ = s.Client.ListVolumes(ctx, "shop"); len(vols) != 2 || fmt.Sprint(len(list)) != n {
			t.Errorf("with %s machines: %d volumes, %d machines", n, len(vols), len(list))
		}
		if slices.ContainsFunc(list, func(m api.Machine) bool { return m.ID == one.ID && m.InstanceID != as }) {
			t.Errorf("scale to %s: the machine that was there has another version", n)
		}
	}
}
