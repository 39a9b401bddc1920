package machine

import (
	"context"

	"github.com/perigee-run/perigee/api"
)

// Deleted returns the machines of an app, or of all with "", that were destroyed
// lately, in no order. The latest thousand are remembered until the daemon ends.
func (h *Host) Deleted(_ context.Context, app string) []api.Machine {
	var out []api.Machine
	for _, m := range h.all() {
		if v := m.now(); v.gone && v.rec.State == api.StateDestroyed && (app == "" || v.rec.App == app) {
			out = append(out, v.shown())
		}
	}
	return out
}
