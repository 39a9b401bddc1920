package fleet

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/machine"
)

// Fleet is the machines of all nodes. All methods may be called from any
// goroutine.
type Fleet struct {
	cfg Config

	mu     sync.Mutex        // guards what follows
	recent map[string]recent // changes of other nodes' machines made through this node, by machine
}

// recent is a machine as its owner answered it, or its end, until the owner's
// summary has had the time to arrive: who makes a machine sees it at once.
type recent struct {
	machine api.Machine
	gone    bool
	until   time.Time
}

// fresh is how long what an owner answered counts for more than a summary that
// is not there yet.
const fresh = 15 * time.Second

// New checks the configuration.
func New(cfg Config) (*Fleet, error) {
	cfg, err := cfg.check()
	if err != nil {
		return nil, err
	}
	return &Fleet{cfg: cfg, recent: map[string]recent{}}, nil
}

// place is where a machine is.
type place struct {
	id, app, node string
	known         api.Machine // as it was last heard of
}

// find returns where the machine is if that is on another node. Everything else
// is the local machines' to answer, also that there is no such machine.
func (f *Fleet) find(ctx context.Context, id string) (place, bool) {
	if _, err := f.cfg.Local.Get(ctx, id); err == nil || forwarded(ctx) {
		return place{}, false
	}
	if s, ok := f.cfg.Summaries.Find(id); ok && s.Node != f.cfg.Self {
		f.arrived(id)
		return place{id, s.App, s.Node, s.Machine()}, true
	}
	if r, ok := f.remembered(id); ok && !r.gone {
		return place{id, r.machine.App, r.machine.Node, r.machine}, true
	}
	return place{}, false
}

// AppOf returns the app that a machine belongs to, as far as is known here;
// false for a machine that is not.
func (f *Fleet) AppOf(ctx context.Context, id string) (string, bool) {
	if p, remote := f.find(ctx, id); remote {
		return p.app, true
	}
	m, err := f.cfg.Local.Get(ctx, id)
	return m.App, err == nil
}

// remember keeps what an owner answered for a while.
func (f *Fleet) remember(m api.Machine, gone bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	for id, r := range f.recent {
		if now.After(r.until) {
			delete(f.recent, id)
		}
	}
	f.recent[m.ID] = recent{m, gone, now.Add(fresh)}
}

// arrived lets the summary of a machine, which has come, count from now on. It
// reports whether the machine is gone all the same.
func (f *Fleet) arrived(id string) (gone bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r, ok := f.recent[id]
	if ok && r.gone && time.Now().Before(r.until) {
		return true
	}
	delete(f.recent, id)
	return false
}

func (f *Fleet) remembered(id string) (recent, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r, ok := f.recent[id]
	return r, ok && time.Now().Before(r.until)
}

// List returns the machines of an app, or all with "", oldest first. It never
// waits: those of other nodes are as their summaries tell. Their Configs are
// shared and must not be changed.
func (f *Fleet) List(app string) []api.Machine {
	out, seen := f.cfg.Local.List(app), map[string]bool{}
	for _, m := range out {
		seen[m.ID] = true
	}
	for _, s := range f.cfg.Summaries.List(app) {
		if s.Node == f.cfg.Self || seen[s.ID] {
			continue
		}
		seen[s.ID] = true
		if !f.arrived(s.ID) {
			out = append(out, f.marked(s.Machine()))
		}
	}
	out = f.addRecent(out, app, seen)
	slices.SortFunc(out, func(a, b api.Machine) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ID, b.ID))
	})
	return out
}

// addRecent adds the machines whose summaries have not come yet.
func (f *Fleet) addRecent(out []api.Machine, app string, seen map[string]bool) []api.Machine {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	for id, r := range f.recent {
		if !r.gone && !seen[id] && now.Before(r.until) && (app == "" || r.machine.App == app) {
			out = append(out, r.machine)
		}
	}
	return out
}

// marked says of a machine whether its node is there.
func (f *Fleet) marked(m api.Machine) api.Machine {
	if !f.cfg.Nodes.Up(m.Node) {
		m.HostStatus = "unreachable"
	}
	return m
}

// Ready is closed when this node has found what an earlier run left.
func (f *Fleet) Ready() <-chan struct{} { return f.cfg.Local.Ready() }

// Validate reports what this node would refuse in a configuration by itself. What
// is only too large for this node is not refused: another one may have room.
func (f *Fleet) Validate(c *api.MachineConfig) error {
	err := f.cfg.Local.Validate(c)
	if api.IsCode(err, api.CodeCapacity) && len(f.cfg.Nodes.Nodes()) > 1 {
		return nil
	}
	return err
}

// Status returns a machine in short; false if there is none.
func (f *Fleet) Status(id string) (machine.Status, bool) {
	if s, ok := f.cfg.Local.Status(id); ok {
		return s, true
	}
	s, ok := f.cfg.Summaries.Find(id)
	return s.Status(), ok && s.Node != f.cfg.Self
}

// Statuses returns the machines of all nodes in short, in no order. Those of
// other nodes have no Addr.
func (f *Fleet) Statuses() []machine.Status {
	out := f.cfg.Local.Statuses()
	for _, s := range f.cfg.Summaries.List("") {
		if s.Node != f.cfg.Self {
			out = append(out, s.Status())
		}
	}
	return out
}

// Changes sends the id of every machine that there is on any node, and then of
// each that changes. The channel is closed when ctx ends or one of the sources
// does.
func (f *Fleet) Changes(ctx context.Context) <-chan string {
	ctx, cancel := context.WithCancel(ctx)
	here, there, out := f.cfg.Local.Changes(ctx), f.cfg.Summaries.Changes(ctx), make(chan string)
	go func() {
		defer close(out)
		defer drain(here, there)
		defer cancel()
		for {
			id, ok := either(ctx, here, there)
			if !ok {
				return
			}
			select {
			case out <- id:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

func either(ctx context.Context, a, b <-chan string) (id string, ok bool) {
	select {
	case id, ok = <-a:
	case id, ok = <-b:
	case <-ctx.Done():
	}
	return id, ok
}

// drain waits for the ends of channels.
func drain(all ...<-chan string) {
	for _, c := range all {
		for range c {
		}
	}
}
