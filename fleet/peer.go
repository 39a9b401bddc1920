package fleet

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"time"

	"github.com/perigee-run/perigee/api"
)

// The calls that nodes make to each other beside the API. They are no promise to
// anybody else.
const (
	pingPath    = "/peer/v1/ping"
	healthyPath = "/peer/v1/healthy" // ?machine
	drainedPath = "/peer/v1/drained" // ?machine
	routedPath  = "/peer/v1/routed"  // ?machine
	portsPath   = "/peer/v1/ports"   // ?machine
	gravesPath  = "/peer/v1/graves"  // ?app
	forgetPath  = "/peer/v1/forget"  // ?app
)

// hold is how long a node keeps another one waiting before it lets it ask again.
const hold = 20 * time.Second

// PeerHandler answers other nodes' internal calls, below /peer/v1/. It asks
// nobody who they are: it is to be served to nodes only.
func (f *Fleet) PeerHandler() http.Handler {
	mux := http.NewServeMux()
	serve := func(pattern string, do func(ctx context.Context, q url.Values) error) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithTimeout(r.Context(), hold)
			defer cancel()
			reply(w, do(ctx, r.URL.Query()))
		})
	}
	serve("GET "+pingPath, func(context.Context, url.Values) error { return nil })
	serve("GET "+healthyPath, func(ctx context.Context, q url.Values) error {
		return late(ctx, f.cfg.Local.WaitHealthy(ctx, q.Get("machine")))
	})
	serve("GET "+drainedPath, func(ctx context.Context, q url.Values) error { return f.drained(ctx, q.Get("machine")) })
	serve("GET "+routedPath, func(ctx context.Context, q url.Values) error { return f.routed(ctx, q.Get("machine")) })
	serve("GET "+portsPath, func(ctx context.Context, q url.Values) error {
		return late(ctx, f.cfg.Local.WaitPorts(ctx, q.Get("machine")))
	})
	serve("POST "+forgetPath, func(ctx context.Context, q url.Values) error { return f.cfg.Forget(ctx, q.Get("app")) })
	mux.HandleFunc("GET "+gravesPath, f.serveGraves)
	return mux
}

// reply says that it is done, or why not.
func reply(w http.ResponseWriter, err error) {
	w.Header().Set("Content-Type", "application/json")
	if err == nil {
		answer(w, struct{}{})
		return
	}
	e := api.AsError(err)
	if e.Status == 0 {
		e.Status = http.StatusInternalServerError
	}
	w.WriteHeader(e.Status)
	_ = json.NewEncoder(w).Encode(e)
}

// answer sends v; the caller may be gone.
func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

// WaitHealthy returns nil when the machine is started and all its checks pass.
// It fails as soon as that cannot come about by itself, or its node cannot be
// asked. ctx bounds it.
func (f *Fleet) WaitHealthy(ctx context.Context, id string) error {
	p, remote := f.find(ctx, id)
	if !remote {
		return f.cfg.Local.WaitHealthy(ctx, id)
	}
	return f.poll(ctx, p.node, "machine \""+id+"\"", healthyPath, url.Values{"machine": {id}})
}

// poll asks a node to wait for something, again and again until ctx ends.
func (f *Fleet) poll(ctx context.Context, node, what, path string, q url.Values) error {
	var last error // why it was not so yet
	for {
		err := f.askAgain(ctx, node, what, func(ctx context.Context, c *api.Client) error {
			return c.Do(ctx, http.MethodGet, path, q, nil, nil)
		})
		switch {
		case api.IsCode(err, api.CodeTimeout):
			last = err
		case last == nil || ctx.Err() == nil:
			return err
		}
		if ctx.Err() != nil {
			return last
		}
	}
}

// WaitPorts returns when the machine accepts connections on its services' ports.
// Its owner does the dialling, for it alone reaches the machine whatever the
// network between. ctx bounds it.
func (f *Fleet) WaitPorts(ctx context.Context, id string) error {
	p, remote := f.find(ctx, id)
	if !remote {
		return f.cfg.Local.WaitPorts(ctx, id)
	}
	return f.poll(ctx, p.node, "machine \""+id+"\"", portsPath, url.Values{"machine": {id}})
}

func (f *Fleet) forgetThere(ctx context.Context, node, app string) {
	err := f.askAgain(ctx, node, "the log of app \""+app+"\"", func(ctx context.Context, c *api.Client) error {
		return c.Do(ctx, http.MethodPost, forgetPath, url.Values{"app": {app}}, nil, nil)
	})
	if err != nil {
		f.cfg.Logger.Warn("a node keeps the lines of a destroyed app for now", "node", node, "app", app, "error", err)
	}
}
