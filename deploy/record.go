package deploy

import (
	"context"
	"maps"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/app"
)

// The keys of the metadata that other deployers leave on their machines: they say
// which release made one, and mean nothing in the next.
var markKeys = []string{metaGroup, metaPlatform, metaRelease, "fly_release_id", "fly_flyctl_version"}

// RecordRelease writes down a release that a client carries out itself.
func (d *Deployer) RecordRelease(ctx context.Context, name, user string, req api.RecordReleaseRequest) (api.Release, error) {
	if err := d.cfg.CatchUp(ctx); err != nil {
		return api.Release{}, err
	}
	if _, err := d.cfg.Apps.Get(name); err != nil {
		return api.Release{}, err
	}
	if err := checkRequest(api.DeployRequest{Strategy: req.Strategy}); err != nil {
		return api.Release{}, err
	}
	if req.Image == "" {
		return api.Release{}, invalid("image", "the release has no image")
	}
	r, err := d.cfg.Apps.RecordRelease(ctx, app.Release{Release: api.Release{
		App: name, Image: req.Image, Strategy: or(req.Strategy, Rolling), Description: req.Description, Definition: req.Definition, User: user,
		Groups: map[string]api.MachineConfig{}, // not known before it is complete; never null
	}})
	return r.Release, err
}

// UpdateRelease writes what the client says has become of a release that it
// carries out. Of a complete one it keeps the configuration of the machines, so
// that Rollback and Scale have something to go by.
func (d *Deployer) UpdateRelease(ctx context.Context, name string, version int, req api.UpdateReleaseRequest) (api.Release, error) {
	if err := d.cfg.CatchUp(ctx); err != nil {
		return api.Release{}, err
	}
	if err := app.CheckRecord(req.Status); err != nil {
		return api.Release{}, err
	}
	r, err := d.cfg.Apps.UpdateRecorded(ctx, name, version, func(r *app.Release) {
		if r.Status, r.Reason = req.Status, req.Reason; r.Status == api.ReleaseComplete {
			r.Groups = d.groupsOf(name, version)
		}
	})
	return r.Release, err
}

// groupsOf is the configuration of the machines that bear the release's number, of
// each group one. How many there are is counted when somebody asks: clients add
// and remove machines without a release.
func (d *Deployer) groupsOf(name string, version int) map[string]api.MachineConfig {
	out := map[string]api.MachineConfig{}
	for _, m := range d.managed(name) {
		if releaseOf(m) != version || m.Config == nil || m.Config.AutoDestroy {
			continue
		}
		c := *m.Config
		c.Image, c.Metadata, c.Mounts = "", maps.Clone(c.Metadata), anyVolume(c.Mounts)
		for _, k := range markKeys {
			delete(c.Metadata, k)
		}
		out[groupOf(m)] = c
	}
	return out
}
