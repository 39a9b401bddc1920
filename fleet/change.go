package fleet

import (
	"context"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/machine"
)

// there acts on another node's machine.
type there func(ctx context.Context, c *api.Client, app string) error

// on does something to a machine that may be done twice: here if it is here, by
// its owner if not.
func (f *Fleet) on(ctx context.Context, id, nonce string, here func() error, there there) error {
	p, remote := f.find(ctx, id)
	if !remote {
		return here()
	}
	return f.askAgain(ctx, p.node, "machine \""+id+"\"", leased(p, nonce, there))
}

// onOnce is on for what must not be done twice.
func (f *Fleet) onOnce(ctx context.Context, id, nonce string, here func() error, there there) error {
	p, remote := f.find(ctx, id)
	if !remote {
		return here()
	}
	return f.ask(ctx, p.node, "machine \""+id+"\"", leased(p, nonce, there))
}

func leased(p place, nonce string, there there) func(context.Context, *api.Client) error {
	return func(ctx context.Context, c *api.Client) error {
		if nonce != "" {
			c = c.WithLease(nonce)
		}
		return there(ctx, c, p.app)
	}
}

// Update gives the machine a new version with another configuration.
func (f *Fleet) Update(ctx context.Context, id string, req api.CreateMachineRequest, nonce string) (m api.Machine, err error) {
	err = f.onOnce(ctx, id, nonce, func() (err error) { m, err = f.cfg.Local.Update(ctx, id, req, nonce); return err },
		func(ctx context.Context, c *api.Client, app string) (err error) {
			m, err = c.UpdateMachine(ctx, app, id, req)
			return err
		})
	return m, err
}

// Start starts a machine, or wakes it.
func (f *Fleet) Start(ctx context.Context, id, nonce string) (r api.StartResponse, err error) {
	err = f.on(ctx, id, nonce, func() (err error) { r, err = f.cfg.Local.Start(ctx, id, nonce); return err },
		func(ctx context.Context, c *api.Client, app string) (err error) {
			r, err = c.WakeMachine(ctx, app, id)
			return err
		})
	return r, err
}

// Stop asks the machine's process to end and ends it when its time is over.
func (f *Fleet) Stop(ctx context.Context, id string, req api.StopRequest, nonce string) error {
	return f.on(ctx, id, nonce, func() error { return f.cfg.Local.Stop(ctx, id, req, nonce) },
		func(ctx context.Context, c *api.Client, app string) error { return c.StopMachine(ctx, app, id, req) })
}

// Restart ends the machine's process and starts the machine anew.
func (f *Fleet) Restart(ctx context.Context, id string, o machine.RestartOptions, nonce string) error {
	return f.onOnce(ctx, id, nonce, func() error { return f.cfg.Local.Restart(ctx, id, o, nonce) },
		func(ctx context.Context, c *api.Client, app string) error {
			return c.RestartMachineWith(ctx, app, id, api.RestartOptions{Force: o.Force, Timeout: o.Timeout, Signal: o.Signal})
		})
}

// Pause freezes the machine's processes and keeps their memory.
func (f *Fleet) Pause(ctx context.Context, id, nonce string) error {
	return f.on(ctx, id, nonce, func() error { return f.cfg.Local.Pause(ctx, id, nonce) },
		func(ctx context.Context, c *api.Client, app string) error { return c.PauseMachine(ctx, app, id) })
}

// Suspend writes the machine's memory to disk and ends its sandbox.
func (f *Fleet) Suspend(ctx context.Context, id, nonce string) error {
	return f.on(ctx, id, nonce, func() error { return f.cfg.Local.Suspend(ctx, id, nonce) },
		func(ctx context.Context, c *api.Client, app string) error { return c.SuspendMachine(ctx, app, id) })
}

// Signal sends a signal to the machine's first process.
func (f *Fleet) Signal(ctx context.Context, id string, req api.SignalRequest, nonce string) error {
	return f.onOnce(ctx, id, nonce, func() error { return f.cfg.Local.Signal(ctx, id, req, nonce) },
		func(ctx context.Context, c *api.Client, app string) error {
			return c.SignalMachine(ctx, app, id, string(req.Signal))
		})
}

// Cordon keeps the routers from sending the machine anything.
func (f *Fleet) Cordon(ctx context.Context, id, nonce string) error {
	return f.on(ctx, id, nonce, func() error { return f.cfg.Local.Cordon(ctx, id, nonce) },
		func(ctx context.Context, c *api.Client, app string) error { return c.CordonMachine(ctx, app, id) })
}

// Uncordon lets the routers send the machine requests again.
func (f *Fleet) Uncordon(ctx context.Context, id, nonce string) error {
	return f.on(ctx, id, nonce, func() error { return f.cfg.Local.Uncordon(ctx, id, nonce) },
		func(ctx context.Context, c *api.Client, app string) error { return c.UncordonMachine(ctx, app, id) })
}

// Destroy removes a machine for good. One that runs, or sleeps with its memory
// kept, needs force.
func (f *Fleet) Destroy(ctx context.Context, id string, force bool, nonce string) error {
	tries := 0
	return f.on(ctx, id, nonce, func() error { return f.cfg.Local.Destroy(ctx, id, force, nonce) },
		func(ctx context.Context, c *api.Client, app string) error {
			err := c.DestroyMachine(ctx, app, id, force)
			if tries++; tries > 1 && api.IsCode(err, api.CodeNotFound) {
				err = nil // the first try did it, and its answer was lost
			}
			if err == nil {
				f.remember(api.Machine{ID: id, App: app}, true)
			}
			return err
		})
}

// SetMetadata replaces all of the machine's metadata.
func (f *Fleet) SetMetadata(ctx context.Context, id string, all map[string]string, nonce string) error {
	return f.on(ctx, id, nonce, func() error { return f.cfg.Local.SetMetadata(ctx, id, all, nonce) },
		func(ctx context.Context, c *api.Client, app string) error {
			return c.ReplaceMetadata(ctx, app, id, all)
		})
}

// PatchMetadata sets the entries that have a value and removes those that are nil.
func (f *Fleet) PatchMetadata(ctx context.Context, id string, patch map[string]*string, nonce string) error {
	return f.on(ctx, id, nonce, func() error { return f.cfg.Local.PatchMetadata(ctx, id, patch, nonce) },
		func(ctx context.Context, c *api.Client, app string) error {
			return c.PatchMetadata(ctx, app, id, patch)
		})
}

// AcquireLease gives owner the exclusive right to change the machine for a while.
func (f *Fleet) AcquireLease(ctx context.Context, id, owner string, req api.LeaseRequest, nonce string) (l api.Lease, err error) {
	err = f.onOnce(ctx, id, nonce, func() (err error) { l, err = f.cfg.Local.AcquireLease(ctx, id, owner, req, nonce); return err },
		func(ctx context.Context, c *api.Client, app string) (err error) {
			l, err = c.With(api.CallerHeader, owner).AcquireLease(ctx, app, id, req)
			return err
		})
	return l, err
}

// ReleaseLease ends the lease. One that has ended already is no error.
func (f *Fleet) ReleaseLease(ctx context.Context, id, nonce string) error {
	return f.onOnce(ctx, id, nonce, func() error { return f.cfg.Local.ReleaseLease(ctx, id, nonce) },
		func(ctx context.Context, c *api.Client, app string) error { return c.ReleaseLease(ctx, app, id) })
}
