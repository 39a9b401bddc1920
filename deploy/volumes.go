package deploy

import (
	"context"
	"slices"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/app"
)

// Volumes is the volumes of all nodes.
type Volumes interface {
	// Provide names a volume for each mount: one that no machine has, in the region
	// or on the node, else a new one. It says in words what it has made.
	Provide(ctx context.Context, app, region, node string, mounts []api.Mount) (out []api.Mount, said []string, err error)
	// Provided is called when the machine that Provide was for has them, or is not made.
	Provided(mounts []api.Mount)
	// DestroyAll marks all volumes of an app whose machines are gone.
	DestroyAll(ctx context.Context, app string) error
}

// provide names the volumes of a machine that is to be made, or of one on a node.
func (d *Deployer) provide(ctx context.Context, w *work, name, group, region, node string, mounts []api.Mount) ([]api.Mount, error) {
	if d.cfg.Volumes == nil || !slices.ContainsFunc(mounts, func(m api.Mount) bool { return m.Volume == "" }) {
		return mounts, nil
	}
	out, said, err := d.cfg.Volumes.Provide(ctx, name, region, node, mounts)
	for _, line := range said {
		w.step("%s", line)
	}
	return out, wrap(err, "process group %q: cannot get a volume", group)
}

// provided ends what provide began.
func (d *Deployer) provided(mounts []api.Mount) {
	if d.cfg.Volumes != nil {
		d.cfg.Volumes.Provided(mounts)
	}
}

// updated is the configuration of a machine that is updated in place: it keeps the
// volumes that it has.
func (d *Deployer) updated(ctx context.Context, w *work, r *app.Release, s Step) (*api.MachineConfig, error) {
	m, err := d.cfg.Machines.Get(ctx, s.ID)
	if err != nil {
		return nil, err
	}
	c := config(r, s.Group, r.Groups[s.Group])
	c.Mounts = kept(c.Mounts, m.Config)
	c.Mounts, err = d.provide(ctx, w, r.App, s.Group, m.Region, m.Node, c.Mounts)
	return c, err
}

// kept gives mounts without a volume that of the former configuration with the same
// name.
func kept(mounts []api.Mount, former *api.MachineConfig) []api.Mount {
	out := slices.Clone(mounts)
	for i := range out {
		for _, f := range former.Mounts {
			if out[i].Volume == "" && f.Name == out[i].Name {
				out[i].Volume = f.Volume
			}
		}
	}
	return out
}

// anyVolume is mounts that take any volume of their name, as those of a group do: no two
// machines have one.
func anyVolume(mounts []api.Mount) []api.Mount {
	out := slices.Clone(mounts)
	for i := range out {
		if out[i].Name != "" {
			out[i].Volume = ""
		}
	}
	return out
}

// wanted is mounts without what differs from machine to machine.
func wanted(mounts []api.Mount) []api.Mount {
	out := anyVolume(mounts)
	for i := range out {
		out[i].Encrypted, out[i].SizeGB = false, 0 // as the volume is: a machine takes note of it
	}
	return out
}

// tellVolumes says which volumes a machine that was removed has left.
func (d *Deployer) tellVolumes(w *work, s Step, mounts []api.Mount) {
	for _, m := range mounts {
		w.machine(s.ID, "%s: volume %s (%s) stays, and the next machine there gets it; perigee volumes destroy removes it", s.Group, m.Volume, m.Name)
	}
}
