package fleet

import (
	"context"
	"slices"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/volume"
)

// Orphans returns the volumes of an org whose apps were destroyed, those among them of
// which there are but snapshots.
func (v *Volumes) Orphans(org string) []api.Volume {
	var out []api.Volume
	for _, s := range v.summaries() {
		if s.Org == org && v.ownerless(s) {
			out = append(out, s.Volume)
		}
	}
	return out
}

func (v *Volumes) ownerless(s volume.Summary) bool {
	o, err := v.cfg.Apps.Owner(s.Volume.App)
	return api.IsCode(err, api.CodeNotFound) || err == nil && o.ID != s.AppID
}

// orphanAt is at for a volume whose app was destroyed.
func (v *Volumes) orphanAt(ctx context.Context, id string) (node string, remote bool) {
	if _, here := v.cfg.Local.Summary(id); here || forwarded(ctx) {
		return "", false
	}
	all := v.summaries()
	i := slices.IndexFunc(all, func(s volume.Summary) bool { return s.Volume.ID == id && v.ownerless(s) })
	if i < 0 {
		return "", false
	}
	return all[i].Volume.Node, all[i].Volume.Node != v.fleet.cfg.Self
}

// has reports whether a volume has the snapshot in its list.
func has(s volume.Summary, snapshot string) bool {
	return slices.ContainsFunc(s.Snapshots, func(o api.VolumeSnapshot) bool { return o.ID == snapshot })
}
