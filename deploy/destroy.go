package deploy

import (
	"context"
	"slices"

	"github.com/perigee-run/perigee/api"
	"golang.org/x/sync/errgroup"
)

// DestroyApp removes an app for good: its machines, then its records. Once it
// has begun it is carried to its end, also across a crash of the daemon.
// api.CodeConflict while the app is being deployed.
func (d *Deployer) DestroyApp(ctx context.Context, name string) error {
	if err := d.cfg.CatchUp(ctx); err != nil {
		return err
	}
	if _, err := d.cfg.Apps.Get(name); err != nil {
		return err
	}
	_, err := d.run(ctx, name, "being destroyed", nil, func(ctx context.Context, w *work) (api.Release, error) {
		return api.Release{}, d.destroyApp(ctx, w)
	})
	return err
}

func (d *Deployer) destroyApp(ctx context.Context, w *work) error {
	// Without an owner the app gets no new machines, so the list below is all.
	if err := d.cfg.Apps.Doom(ctx, w.app); err != nil {
		return err
	}
	all := d.cfg.Machines.List(w.app)
	if d.cfg.Fence != nil {
		reached := slices.DeleteFunc(slices.Clone(all), away)
		if err := d.fenceAll(ctx, w.app, slices.DeleteFunc(all, func(m api.Machine) bool { return !away(m) })); err != nil {
			return err
		}
		all = reached
	}
	g, run := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, m := range all {
		g.Go(func() error {
			return wrap(unlessGone(d.cfg.Machines.Destroy(run, m.ID, true, "")), "cannot destroy machine %s", m.ID)
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if d.cfg.Volumes != nil {
		if err := d.cfg.Volumes.DestroyAll(ctx, w.app); err != nil {
			return err
		}
	}
	if err := d.cfg.Forget(ctx, w.app); err != nil {
		return err
	}
	return d.cfg.Apps.Delete(ctx, w.app)
}

// away reports whether the machine's node is out of reach.
func away(m api.Machine) bool { return m.HostStatus == "unreachable" }

// fenceAll lets the nodes of the machines destroy them when they come back.
func (d *Deployer) fenceAll(ctx context.Context, name string, machines []api.Machine) error {
	if len(machines) == 0 {
		return nil
	}
	return wrap(d.cfg.Fence(ctx, name, machines), "cannot note that machines %s, whose nodes are out of reach, are destroyed", idsOf(machines))
}
