package fleet

import (
	"context"
	"net/http"
	"net/url"
	"sync"

	"github.com/perigee-run/perigee/api"
)

// Deleted returns the machines of an app, or of all with "", that were destroyed
// lately, as far as their nodes answer and remember them.
func (f *Fleet) Deleted(ctx context.Context, app string) []api.Machine {
	out := f.cfg.Local.Deleted(ctx, app)
	if forwarded(ctx) {
		return out
	}
	var all sync.WaitGroup
	var mu sync.Mutex // guards out
	for _, n := range f.cfg.Nodes.Nodes() {
		if n.Name == f.cfg.Self || !n.Up {
			continue
		}
		all.Go(func() {
			there := f.deletedThere(ctx, n.Name, app)
			mu.Lock()
			defer mu.Unlock()
			out = append(out, there...)
		})
	}
	all.Wait()
	return out
}

// deletedThere asks one node; one that does not answer adds nothing.
func (f *Fleet) deletedThere(ctx context.Context, node, app string) (out []api.Machine) {
	err := f.ask(ctx, node, "what was destroyed", func(ctx context.Context, c *api.Client) error {
		return c.Do(ctx, http.MethodGet, gravesPath, url.Values{"app": {app}}, nil, &out)
	})
	if err != nil {
		f.cfg.Logger.Debug("a node does not say what was destroyed on it", "node", node, "error", err)
	}
	return out
}

// serveGraves answers deletedThere.
func (f *Fleet) serveGraves(w http.ResponseWriter, r *http.Request) {
	out := f.cfg.Local.Deleted(r.Context(), r.URL.Query().Get("app"))
	answer(w, append([]api.Machine{}, out...))
}
