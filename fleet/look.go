package fleet

import (
	"context"
	"maps"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/machine"
)

// Get returns a machine as its owner has it. If the owner does not answer it is
// as it was last known, without events, and its host status is "unreachable".
func (f *Fleet) Get(ctx context.Context, id string) (api.Machine, error) {
	p, remote := f.find(ctx, id)
	if !remote {
		return f.cfg.Local.Get(ctx, id)
	}
	if !f.cfg.Nodes.Up(p.node) {
		return unreachable(p.known), nil
	}
	m, err := fetch(ctx, f, p, func(ctx context.Context, c *api.Client) (api.Machine, error) { return c.GetMachine(ctx, p.app, id) })
	if api.IsCode(err, api.CodeUnreachable) {
		return unreachable(p.known), nil
	}
	return m, err
}

func unreachable(m api.Machine) api.Machine {
	m.HostStatus = "unreachable"
	return m
}

// fetch asks the owner of a machine for something that may be asked again.
func fetch[T any](ctx context.Context, f *Fleet, p place, get func(context.Context, *api.Client) (T, error)) (out T, err error) {
	err = f.askAgain(ctx, p.node, "machine \""+p.id+"\"", func(ctx context.Context, c *api.Client) (err error) {
		out, err = get(ctx, c)
		return err
	})
	return out, err
}

// Events returns what happened to the machine, newest first.
func (f *Fleet) Events(ctx context.Context, id string) ([]api.Event, error) {
	p, remote := f.find(ctx, id)
	if !remote {
		return f.cfg.Local.Events(ctx, id)
	}
	return fetch(ctx, f, p, func(ctx context.Context, c *api.Client) ([]api.Event, error) { return c.Events(ctx, p.app, id) })
}

// Versions returns the machine's configurations, newest first.
func (f *Fleet) Versions(ctx context.Context, id string) ([]machine.Version, error) {
	p, remote := f.find(ctx, id)
	if !remote {
		return f.cfg.Local.Versions(ctx, id)
	}
	all, err := fetch(ctx, f, p, func(ctx context.Context, c *api.Client) ([]api.MachineVersion, error) {
		return c.Versions(ctx, p.app, id)
	})
	var out []machine.Version
	for _, v := range all {
		own := machine.Version{ID: v.Version, Release: v.Release, CreatedAt: v.CreatedAt}
		if v.UserConfig != nil {
			own.Config = *v.UserConfig
		}
		out = append(out, own)
	}
	return out, err
}

// Processes lists what runs in a started machine.
func (f *Fleet) Processes(ctx context.Context, id string) ([]api.ProcessStat, error) {
	p, remote := f.find(ctx, id)
	if !remote {
		return f.cfg.Local.Processes(ctx, id)
	}
	return fetch(ctx, f, p, func(ctx context.Context, c *api.Client) ([]api.ProcessStat, error) {
		return c.Processes(ctx, p.app, id)
	})
}

// Wait returns when the machine is, or since q.FromEvent has been, in one of the
// states. api.CodeTimeout if that did not happen in time.
func (f *Fleet) Wait(ctx context.Context, id string, q machine.WaitQuery) (api.WaitResponse, error) {
	p, remote := f.find(ctx, id)
	if !remote {
		return f.cfg.Local.Wait(ctx, id, q)
	}
	o := api.WaitOptions{States: q.States, Version: q.Version, FromEvent: q.FromEvent, Timeout: q.Timeout}
	return fetch(ctx, f, p, func(ctx context.Context, c *api.Client) (api.WaitResponse, error) {
		return c.WaitMachine(ctx, p.app, id, o)
	})
}

// Metadata returns a copy of the machine's metadata; the last known if its owner
// does not answer.
func (f *Fleet) Metadata(ctx context.Context, id string) (map[string]string, error) {
	p, remote := f.find(ctx, id)
	if !remote {
		return f.cfg.Local.Metadata(ctx, id)
	}
	all, err := fetch(ctx, f, p, func(ctx context.Context, c *api.Client) (map[string]string, error) { return c.Metadata(ctx, p.app, id) })
	if api.IsCode(err, api.CodeUnreachable) && p.known.Config != nil {
		all = map[string]string{}
		maps.Copy(all, p.known.Config.Metadata)
		return all, nil
	}
	return all, err
}

// GetLease returns the lease that is held; api.CodeNotFound if none is.
func (f *Fleet) GetLease(ctx context.Context, id string) (api.Lease, error) {
	p, remote := f.find(ctx, id)
	if !remote {
		return f.cfg.Local.GetLease(ctx, id)
	}
	return fetch(ctx, f, p, func(ctx context.Context, c *api.Client) (api.Lease, error) { return c.GetLease(ctx, p.app, id) })
}
