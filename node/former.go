package node

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/app"
	"github.com/perigee-run/perigee/catalog"
	"github.com/perigee-run/perigee/machine"
)

// lookForFormer is how often all that this node keeps is compared with the apps.
const lookForFormer = 30 * time.Second

// heirs sees to it that an app finds nothing of an earlier one of its name: what that
// has said, and the images that were pushed for it. The node that destroys an app tells
// those that are up; one that was down finds out here. For that each node remembers
// which app it last knew by a name.
type heirs struct {
	known  *catalog.Table[heir]
	app    func(name string) (app.App, error)
	synced func() bool // whether app tells of all apps there are
	forget func(ctx context.Context, name string) error
	log    *slog.Logger

	mu sync.Mutex // held while something is forgotten, or remembered
}

// heir is what is remembered by the name of an app.
type heir struct {
	ID string `json:"id"`
}

func (n *Node) openHeirs(context.Context) error {
	known, err := catalog.NewLocal[heir](n.catalog, "heirs")
	n.heirs = &heirs{known: known, app: n.apps.Get, synced: n.synced, forget: n.forgetApp, log: n.log}
	return err
}

// settle forgets what an earlier app of the name has left. Who is about to keep or to
// show something of an app calls it; where there is nothing to do it costs no more
// than two looks into memory.
func (h *heirs) settle(ctx context.Context, name string) {
	if _, _, same := h.look(name); same || !h.synced() {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	was, is, same := h.look(name)
	if same {
		return
	}
	var err error
	if was != "" {
		h.log.Info("dropping what an app has left that is gone", "app", name)
		err = h.forget(ctx, name)
	}
	switch {
	case err != nil: // it is tried again
	case is == "":
		err = h.known.Delete(ctx, name)
	default:
		_, err = h.known.Put(ctx, name, heir{is})
	}
	if err != nil && ctx.Err() == nil {
		h.log.Error("cannot drop all that an app has left", "app", name, "err", err)
	}
}

// look is the id of the app that this node last knew by the name, and that of the one
// there is now; "" for none.
func (h *heirs) look(name string) (was, is string, same bool) {
	if e, ok := h.known.Get(name); ok {
		was = e.Value.ID
	}
	a, err := h.app(name)
	if err != nil && !api.IsCode(err, api.CodeNotFound) {
		return was, was, true // nobody knows
	}
	return was, a.ID, was == a.ID
}

// run settles each app that changes, and all from time to time: those that were
// destroyed while the node was down change no more.
func (h *heirs) run(ctx context.Context, changes <-chan string) error {
	tick := time.NewTicker(lookForFormer)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case name, ok := <-changes:
			if !ok {
				return nil
			}
			if name != "" {
				h.settle(ctx, name)
			}
		case <-tick.C:
			h.settleAll(ctx)
		}
	}
}

func (h *heirs) settleAll(ctx context.Context) {
	for _, e := range h.known.List("") {
		h.settle(ctx, e.Key)
	}
}

// keepHeirs is run over the apps there are.
func (n *Node) keepHeirs(ctx context.Context) error {
	n.heirs.settleAll(ctx)
	return n.heirs.run(ctx, n.apps.Changes(ctx))
}

// settled says whose an app is when nothing of an earlier one is left here.
type settled struct{ n *Node }

// Org implements machine.Apps.
func (s settled) Org(ctx context.Context, name string) (string, error) {
	s.n.heirs.settle(ctx, name)
	return owners{s.n.apps}.Org(ctx, name)
}

var _ machine.Apps = settled{}
