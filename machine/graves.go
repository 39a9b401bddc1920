package machine

import (
	"context"

	"github.com/perigee-run/perigee/api"
)

// Deleted returns the machines of an app, or of all with "", that were destroyed
// lately, in no order; not those of an app whose name another org has by now. The latest thousand are remembered until the daemon ends.
func (h *Host) Deleted(ctx context.Context, app string) []api.Machine {
	var out []api.Machine
	orgs := map[string]string{} // by app
	same := func(r *Record) bool {
		if _, known := orgs[r.App]; !known {
			orgs[r.App], _ = h.cfg.Apps.Org(ctx, r.App) // "" where there is none
		}
		return orgs[r.App] == r.Org
	}
	for _, m := range h.all() {
		if v := m.now(); v.gone && v.rec.State == api.StateDestroyed && (app == "" || v.rec.App == app) && same(&v.rec) {
			out = append(out, v.shown())
		}
	}
	return out
}
