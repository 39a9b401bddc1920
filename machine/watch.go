package machine

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/perigee-run/perigee/api"
)

// Status is what the router and placement read of a machine.
type Status struct {
	ID, App, Name, Group, State, Version string
	// Node owns the machine and is in Region.
	Node, Region string
	Release      int
	// Addr is where the node reaches the machine; invalid while it has no sandbox.
	Addr netip.Addr
	// Healthy says that it is started and all its checks pass, if it has any.
	Healthy  bool
	Cordoned bool
	// Since is when the state began, or when the daemon did.
	Since time.Time
	// Config is shared and must not be changed.
	Config *api.MachineConfig
}

// Status returns a machine in short; false if it is not on the node.
func (h *Host) Status(id string) (Status, bool) {
	m := h.lookup(id)
	if m == nil || m.now().gone {
		return Status{}, false
	}
	return m.now().status(), true
}

// Statuses returns all machines of the node in short, in no order.
func (h *Host) Statuses() []Status {
	all := h.all()
	out := make([]Status, 0, len(all))
	for _, m := range all {
		if v := m.now(); !v.gone {
			out = append(out, v.status())
		}
	}
	return out
}

func (v *view) status() Status {
	r := &v.rec
	return Status{
		ID: r.ID, App: r.App, Name: r.Name, Group: Group(&r.Config), State: r.State, Version: r.Version,
		Node: r.Node, Region: r.Region, Release: r.Release, Addr: v.addr, Healthy: v.healthy, Cordoned: r.Cordoned, Since: v.since, Config: &r.Config,
	}
}

// watchers are the readers of Changes.
type watchers struct {
	mu   sync.Mutex // guards what follows
	subs map[*watcher]struct{}
}

// watcher holds the machines that one reader has not been told of yet.
type watcher struct {
	kick chan struct{} // holds one token when there are any

	mu    sync.Mutex // guards what follows
	ids   map[string]bool
	order []string
}

// Changes sends the id of every machine that there is, and then of each that
// changes: state, health, configuration, or its end. A reader that is slow gets
// each id once. The channel is closed when ctx ends or the host closes.
func (h *Host) Changes(ctx context.Context) <-chan string {
	out := make(chan string)
	w := &watcher{kick: make(chan struct{}, 1), ids: map[string]bool{}}
	h.watchers.add(w)
	for _, m := range h.all() {
		w.offer(m.id)
	}
	ok := h.spawn(func() {
		defer close(out)
		defer h.watchers.remove(w)
		w.pump(ctx, h.ctx.Done(), out)
	})
	if !ok {
		h.watchers.remove(w)
		close(out)
	}
	return out
}

// tell lets the readers of Changes know.
func (h *Host) tell(id string) {
	h.watchers.mu.Lock()
	defer h.watchers.mu.Unlock()
	for w := range h.watchers.subs {
		w.offer(id)
	}
}

func (ws *watchers) add(w *watcher) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if ws.subs == nil {
		ws.subs = map[*watcher]struct{}{}
	}
	ws.subs[w] = struct{}{}
}

func (ws *watchers) remove(w *watcher) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	delete(ws.subs, w)
}

func (w *watcher) offer(id string) {
	w.mu.Lock()
	if !w.ids[id] {
		w.ids[id] = true
		w.order = append(w.order, id)
	}
	w.mu.Unlock()
	select {
	case w.kick <- struct{}{}:
	default:
	}
}

func (w *watcher) next() (id string, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.order) == 0 {
		w.order = nil // let go of the array that was sliced down
		return "", false
	}
	id, w.order = w.order[0], w.order[1:]
	delete(w.ids, id)
	return id, true
}

func (w *watcher) pump(ctx context.Context, closed <-chan struct{}, out chan<- string) {
	for {
		for id, ok := w.next(); ok; id, ok = w.next() {
			select {
			case out <- id:
			case <-ctx.Done():
				return
			case <-closed:
				return
			}
		}
		select {
		case <-w.kick:
		case <-ctx.Done():
			return
		case <-closed:
			return
		}
	}
}
