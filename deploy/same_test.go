package deploy

import (
	"testing"

	"github.com/perigee-run/perigee/api"
)

// TestSameSize: a machine has its size written out where its release says nothing of it.
func TestSameSize(t *testing.T) {
	none := &api.MachineConfig{Image: "app"}
	if !same(none, &api.MachineConfig{Image: "app", Guest: &api.Guest{CPUKind: "shared", CPUs: 1, MemoryMB: 256}}) {
		t.Error("the size that is used is no difference")
	}
	if same(none, &api.MachineConfig{Image: "app", Guest: &api.Guest{MemoryMB: 512}}) || none.Guest != nil {
		t.Error("another size is one")
	}
}
