package volume

import (
	"testing"

	"github.com/perigee-run/perigee/api"
)

// TestSettleKeepsAutoExtend: a machine whose record was written, and the volume's was
// not when the daemon ended, has the volume as its mount says.
func TestSettleKeepsAutoExtend(t *testing.T) {
	k := newFakes(t)
	v := k.volume(1)
	mount := api.Mount{Volume: v.id, ExtendThresholdPercent: 80, AddSizeGB: 5, SizeGBLimit: 18}
	k.cfg.Holder = func(string) (string, api.Mount, bool) { return "m2", mount, false }
	if err := k.settle(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	if r := v.now(); r.Machine != "m2" || r.Extend == nil || *r.Extend != (Extend{80, 5, 18}) {
		t.Errorf("machine %q, extend %+v", r.Machine, r.Extend)
	}
}
