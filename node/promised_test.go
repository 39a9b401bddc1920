package node

import (
	"testing"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/machine"
)

// TestRaisedMemoryCounts: a machine counts for what it may hold now.
func TestRaisedMemoryCounts(t *testing.T) {
	small := &api.MachineConfig{Guest: &api.Guest{MemoryMB: 64}}
	for _, c := range []struct {
		s    machine.Summary
		want int
	}{
		{machine.Summary{State: api.StateStarted, Config: small}, 64},
		{machine.Summary{State: api.StateStarted, Config: small, MemoryMB: 32768}, 32768},
		{machine.Summary{State: api.StateStarted, Config: small, MemoryMB: 32}, 64},
		{machine.Summary{State: api.StateStopped, Config: small, MemoryMB: 32768}, 16},
	} {
		if got := promised(c.s); got != c.want {
			t.Errorf("%+v counts for %d, not %d", c.s, got, c.want)
		}
	}
}
