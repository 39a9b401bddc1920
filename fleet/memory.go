package fleet

import (
	"context"

	"github.com/perigee-run/perigee/api"
)

// Memory tells how much memory a machine may hold and how much of it is free.
func (f *Fleet) Memory(ctx context.Context, id string) (m api.MachineMemory, err error) {
	err = f.on(ctx, id, "", func() (err error) { m, err = f.cfg.Local.Memory(ctx, id); return err },
		func(ctx context.Context, c *api.Client, app string) (err error) {
			m, err = c.Memory(ctx, app, id)
			return err
		})
	return m, err
}

// SetMemory bounds a running machine's memory anew until it starts the next time.
func (f *Fleet) SetMemory(ctx context.Context, id string, mb int, nonce string) error {
	return f.on(ctx, id, nonce, func() error { return f.cfg.Local.SetMemory(ctx, id, mb, nonce) },
		func(ctx context.Context, c *api.Client, app string) error {
			_, err := c.SetMemory(ctx, app, id, mb)
			return err
		})
}

// ReclaimMemory takes back memory that a machine can do without.
func (f *Fleet) ReclaimMemory(ctx context.Context, id string, mb int, nonce string) (freed int, err error) {
	err = f.onOnce(ctx, id, nonce, func() (err error) { freed, err = f.cfg.Local.ReclaimMemory(ctx, id, mb, nonce); return err },
		func(ctx context.Context, c *api.Client, app string) (err error) {
			freed, err = c.ReclaimMemory(ctx, app, id, mb)
			return err
		})
	return freed, err
}
