package machine

import (
	"encoding/json"
	"testing"

	"github.com/perigee-run/perigee/api"
)

// TestMarks: what a machine stands for is out of its users' reach. It outlives
// changes and crashes, and does not come along with a copied configuration.
func TestMarks(t *testing.T) {
	w := newWorld(t)
	d, ctx := w.run(), t.Context()
	made, err := d.Create(ctx, "shop", api.CreateMachineRequest{Config: config("sleep"), Replaces: "old", HomeRegion: "syd"})
	ok(t, err)
	marks := func(d *daemon, id string) [2]string {
		s, _ := d.Summary(id)
		return [2]string{s.Replaces, s.Home}
	}
	check := func(after string) {
		t.Helper()
		if got := marks(d, made.ID); got != [2]string{"old", "syd"} {
			t.Errorf("after %s: %q", after, got)
		}
	}
	check("creation")
	if made.Home() != "syd" {
		t.Errorf("home is %q", made.Home())
	}
	ok(t, d.SetMetadata(ctx, made.ID, map[string]string{"perigee_replaces": "other", "perigee_home_region": "iad"}, ""))
	check("metadata")
	_, err = d.Update(ctx, made.ID, api.CreateMachineRequest{Config: config("sleep", "more"), Replaces: "other"}, "")
	ok(t, err)
	check("update")
	d.crash()
	d = w.run()
	d.reaches(t, made.ID, api.StateStarted)
	check("a crash")

	shown, err := d.Get(ctx, made.ID)
	ok(t, err)
	shown.Config.Metadata = map[string]string{"perigee_replaces": "old"}
	body, err := json.Marshal(map[string]any{"config": shown.Config, "replaces": "old", "Replaces": "old"})
	ok(t, err)
	var req api.CreateMachineRequest
	ok(t, json.Unmarshal(body, &req))
	copied, err := d.Create(ctx, "shop", req)
	ok(t, err)
	if got := marks(d, copied.ID); got != [2]string{} {
		t.Errorf("the copy has marks %q", got)
	}
}
