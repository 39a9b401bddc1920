package rules

import (
	"encoding/json"
	"testing"

	"github.com/perigee-run/perigee/api"
)

func TestFold(t *testing.T) {
	c := new(api.MachineConfig)
	ok(t, json.Unmarshal([]byte(`{"size":"performance-2x","disable_machine_autostart":true,"services":[{"internal_port":80},{"internal_port":81,"autostart":true}],
		"containers":[{"name":"main","image":"inner","restart":{"policy":"always"},"stop":{"signal":"SIGTERM"}}]}`), c))
	ok(t, Fold(c))
	ok(t, Fold(c)) // what was folded folds to the same
	if c.Guest.CPUs != 2 || c.Guest.MemoryMB != 4096 || c.Guest.CPUKind != "performance" {
		t.Errorf("guest %+v", c.Guest)
	}
	if *c.Services[0].Autostart || !*c.Services[1].Autostart {
		t.Error("a service's own autostart comes first")
	}
	if c.Image != "inner" || c.Restart.Policy != "always" || c.StopConfig.Signal != "SIGTERM" {
		t.Errorf("container: %+v", c)
	}
	own := &api.MachineConfig{Size: "shared-cpu-8x", Guest: &api.Guest{CPUs: 1}}
	ok(t, Fold(own))
	if g := own.Guest; g.CPUs != 1 || g.MemoryMB != 256 || g.CPUKind != "shared" || g.PIDs != 0 {
		t.Errorf("guest comes before size, and is whole: %+v", g)
	}
	none := new(api.MachineConfig)
	ok(t, Fold(none))
	if g := none.Guest; g == nil || g.CPUs != 1 || g.MemoryMB != 256 {
		t.Errorf("a machine without a guest has %+v", g)
	}
	want(t, Fold(&api.MachineConfig{Size: "huge"}), api.CodeInvalid)
}
