package fleet

import (
	"context"
	"errors"
	"net/url"
	"sync"

	"github.com/perigee-run/perigee/api"
)

// AllDrained returns when no edge sends the cordoned machine anything more and
// nothing is in flight to it. An edge that does not answer is not waited for: it
// cannot be told anything, and the machine's own node refuses what it sends.
func (f *Fleet) AllDrained(ctx context.Context, machine string) error {
	return f.allEdges(ctx, machine, drainedPath, f.drained)
}

// AllRouted returns when every edge that answers can send the machine requests.
func (f *Fleet) AllRouted(ctx context.Context, machine string) error {
	return f.allEdges(ctx, machine, routedPath, f.routed)
}

// allEdges asks this node and all edges that are up, at the same time.
func (f *Fleet) allEdges(ctx context.Context, machine, path string, here func(context.Context, string) error) error {
	var all sync.WaitGroup
	var mu sync.Mutex // guards errs
	var errs []error
	note := func(err error) {
		mu.Lock()
		defer mu.Unlock()
		errs = append(errs, err)
	}
	all.Go(func() { note(here(ctx, machine)) })
	for _, n := range f.cfg.Nodes.Nodes() {
		if n.Name == f.cfg.Self || !n.Up || !n.Edge {
			continue
		}
		all.Go(func() {
			err := f.poll(ctx, n.Name, "the router for machine \""+machine+"\"", path, url.Values{"machine": {machine}})
			if api.IsCode(err, api.CodeUnreachable) {
				f.cfg.Logger.Warn("an edge does not answer and is not waited for", "node", n.Name, "machine", machine)
				return
			}
			note(err)
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// drained returns when this node's router has let go of the machine. Its table
// must know of the cordon first.
func (f *Fleet) drained(ctx context.Context, id string) error {
	if err := f.await(ctx, id, func(there, cordoned bool) bool { return !there || cordoned }); err != nil {
		return err
	}
	return late(ctx, f.cfg.Router.Drained(ctx, id))
}

// routed returns when this node's router has the machine in its table.
func (f *Fleet) routed(ctx context.Context, id string) error {
	if err := f.await(ctx, id, func(there, cordoned bool) bool { return there && !cordoned }); err != nil {
		return err
	}
	return late(ctx, f.cfg.Router.Routed(ctx, id))
}

// await waits until this node knows the machine to be so.
func (f *Fleet) await(ctx context.Context, id string, so func(there, cordoned bool) bool) error {
	for {
		next := f.cfg.Summaries.Next()
		s, there := f.Status(id)
		if so(there, s.Cordoned) {
			return nil
		}
		select {
		case <-next:
		case <-ctx.Done():
			return late(ctx, ctx.Err())
		}
	}
}

// late gives the error of a wait that was too long its code.
func late(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return api.Errorf(api.CodeTimeout, "it is not so yet: %v", err)
	}
	return err
}
