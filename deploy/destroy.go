package deploy

import (
	"context"

	"github.com/perigee-run/perigee/api"
	"golang.org/x/sync/errgroup"
)

// DestroyApp removes an app for good: its machines, then its records. Once it
// has begun it is carried to its end, also across a crash of the daemon.
// api.CodeConflict while the app is being deployed.
func (d *Deployer) DestroyApp(ctx context.Context, name string) error {
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
	g, run := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, m := range d.cfg.Machines.List(w.app) {
		g.Go(func() error {
			return wrap(unlessGone(d.cfg.Machines.Destroy(run, m.ID, true, "")), "cannot destroy machine %s", m.ID)
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if err := d.cfg.Forget(ctx, w.app); err != nil {
		return err
	}
	return d.cfg.Apps.Delete(ctx, w.app)
}
