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
