package fleet

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/perigee-run/perigee/api"
)

// Create makes a machine of the app on the node that Place chooses. A creation
// whose answer is lost on the way is asked for again under the same key, so it
// makes one machine, not two; the caller's own key counts across all nodes.
func (f *Fleet) Create(ctx context.Context, app string, req api.CreateMachineRequest) (api.Machine, error) {
	// What was made here, or is being made, under the key, Local finds again.
	if forwarded(ctx) || f.cfg.Local.MadeBy(app, req.IdempotencyKey) != "" {
		return f.cfg.Local.Create(ctx, app, req)
	}
	if p, ok := f.madeBy(app, req.IdempotencyKey); ok {
		return f.Get(ctx, p)
	}
	if id := f.Named(app, req.Name); id != "" {
		return api.Machine{}, api.Errorf(api.CodeNameTaken, "app %q has a machine named %q already: %s", app, req.Name, id).WithField("name")
	}
	node, err := f.cfg.Place(ctx, app, req)
	if err != nil {
		return api.Machine{}, err
	}
	m, err := f.createOn(ctx, node, app, req)
	if !lostVolume(req, err) {
		return m, err
	}
	if node, err = f.placeElsewhere(ctx, app, req, node); err != nil {
		return api.Machine{}, err
	}
	return f.createOn(ctx, node, app, req)
}

func (f *Fleet) createOn(ctx context.Context, node, app string, req api.CreateMachineRequest) (api.Machine, error) {
	if node == f.cfg.Self {
		return f.cfg.Local.Create(ctx, app, req)
	}
	return f.createThere(ctx, node, app, req)
}

// lostVolume reports whether the chosen node has no free volume of a name that is
// mounted: another machine was faster.
func lostVolume(req api.CreateMachineRequest, err error) bool {
	if !api.IsCode(err, api.CodePrecondition) || req.Config == nil {
		return false
	}
	for i, m := range req.Config.Mounts {
		if m.Volume == "" && api.AsError(err).Field == fmt.Sprintf("config.mounts[%d].name", i) {
			return true
		}
	}
	return false
}

// placeElsewhere chooses anew once it is known here that the node has no volume left.
func (f *Fleet) placeElsewhere(ctx context.Context, app string, req api.CreateMachineRequest, not string) (node string, err error) {
	for end := time.Now().Add(trip); ; {
		node, err = f.cfg.Place(ctx, app, req)
		if err != nil || node != not || time.Now().After(end) {
			return node, err
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

func (f *Fleet) createThere(ctx context.Context, node, app string, req api.CreateMachineRequest) (m api.Machine, err error) {
	if req.IdempotencyKey == "" {
		req.IdempotencyKey = ulid.Make().String()
	}
	err = f.askAgain(ctx, node, "the place for a new machine of app \""+app+"\"", func(ctx context.Context, c *api.Client) (err error) {
		m, err = c.CreateMachine(ctx, app, req)
		return err
	})
	var e *api.Error
	if errors.As(err, &e) && e.Code == api.CodeUnreachable {
		return api.Machine{}, e.WithHint("try again: in a few seconds a node that does not answer gets nothing new")
	}
	if err != nil {
		return api.Machine{}, err
	}
	known := m
	known.Nonce = ""
	f.remember(known, false)
	return m, nil
}

// madeBy finds the app's machine on another node that was made under the key.
func (f *Fleet) madeBy(app, key string) (id string, ok bool) {
	if key == "" {
		return "", false
	}
	for _, s := range f.cfg.Summaries.List(app) {
		if s.CreateKey == key && s.Node != f.cfg.Self {
			return s.ID, true
		}
	}
	return "", false
}

// Named finds a machine of the app on another node by its name, "" if there is
// none: for machine.Config.Named. Two nodes that give the same name within one
// trip of a summary do not see each other.
func (f *Fleet) Named(app, name string) string {
	if name == "" {
		return ""
	}
	for _, s := range f.cfg.Summaries.List(app) {
		if s.Name == name && s.Node != f.cfg.Self {
			return s.ID
		}
	}
	return ""
}
