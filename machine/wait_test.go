package machine

import (
	"slices"
	"testing"

	"github.com/perigee-run/perigee/api"
)

// TestWaitKnowsAllStates: what lists can be asked for can be waited for, also states of
// Fly's that no machine here has.
func TestWaitKnowsAllStates(t *testing.T) {
	w := newWorld(t)
	d := w.run()
	id := d.create(t, config("sleep"))
	for _, s := range []string{api.StateReplaced, "launch_failed", "migrated"} {
		if !slices.Contains(States(), s) {
			t.Errorf("there is no state %q", s)
		}
	}
	_, err := d.Wait(t.Context(), id, WaitQuery{States: States()})
	ok(t, err)
	_, err = d.Wait(t.Context(), id, WaitQuery{States: []string{"gone"}})
	want(t, err, api.CodeInvalid)
}
