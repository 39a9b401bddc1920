package deploy

import (
	"testing"

	"github.com/perigee-run/perigee/api"
)

// mounted is a request for machines that each have a volume, of no size of its own.
func mounted(n int) api.DeployRequest {
	req := request(n, "ok")
	c := req.Groups["web"]
	c.Mounts = []api.Mount{{Name: "data", Path: "/data"}}
	req.Groups["web"] = c
	return req
}

// TestScaleLeavesMountedMachines: what a machine notes of its volume is no difference
// from its release, also when the volume has grown.
func TestScaleLeavesMountedMachines(t *testing.T) {
	b := newBench(t, newStore(t), newRack(), "shop")
	b.sizes = 1
	b.mustDeploy(t, "shop", mounted(1))
	was := b.List("shop")[0]
	b.machines[was.ID].Config.Mounts[0].SizeGB = 40
	for _, n := range []int{2, 3} {
		if _, err := b.d.Scale(t.Context(), "shop", api.ScaleRequest{Counts: map[string]int{"web": n}}, nil); err != nil {
			t.Fatal(err)
		}
		if now := b.List("shop")[0]; now.ID != was.ID || now.InstanceID != was.InstanceID {
			t.Errorf("scaled to %d, machine %s has version %s, not %s", n, now.ID, now.InstanceID, was.InstanceID)
		}
	}
}

// TestRecordedReleaseWithVolumes: a release that a client carried out has no machine's
// own volume, so a rollback to it leaves each its own and a scale gives others to more.
func TestRecordedReleaseWithVolumes(t *testing.T) {
	b := newBench(t, newStore(t), newRack(), "shop")
	b.sizes = 1
	if _, err := b.d.RecordRelease(t.Context(), "shop", "me", api.RecordReleaseRequest{Image: "r/a@sha256:one"}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		c := mounted(1).Groups["web"]
		c.Image, c.Metadata = "r/a@sha256:one", map[string]string{metaGroup: "web", metaPlatform: "v2", metaRelease: "1"}
		if _, err := b.Create(t.Context(), "shop", api.CreateMachineRequest{Config: &c, Release: 1}); err != nil {
			t.Fatal(err)
		}
	}
	r, err := b.d.UpdateRelease(t.Context(), "shop", 1, api.UpdateReleaseRequest{Status: api.ReleaseComplete})
	if err != nil || len(r.Groups["web"].Mounts) != 1 {
		t.Fatalf("the recorded release: %+v, %v", r, err)
	}
	b.mustDeploy(t, "shop", api.DeployRequest{Image: "two"})
	if _, err := b.d.Rollback(t.Context(), "shop", 1, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := b.d.Scale(t.Context(), "shop", api.ScaleRequest{Counts: map[string]int{"web": 3}}, nil); err != nil {
		t.Fatal(err)
	}
	of := map[string]string{}
	for _, m := range b.List("shop") {
		v := m.Config.Mounts[0].Volume
		if of[v] != "" {
			t.Errorf("machines %s and %s are both to have volume %s", of[v], m.ID, v)
		}
		of[v] = m.ID
	}
	if len(of) != 3 {
		t.Errorf("volumes %v", of)
	}
}
