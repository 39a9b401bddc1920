package node

import (
	"context"
	"maps"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/cluster"
	"github.com/perigee-run/perigee/machine"
	"github.com/perigee-run/perigee/placement"
	"github.com/perigee-run/perigee/region"
)

// overcommit is how many processors machines may be promised for each that there
// is: few machines use theirs at the same time.
const overcommit = 8

// liveness remembers when each node answered over the mesh, by our clock.
type liveness struct {
	mu     sync.Mutex           // guards what follows
	met    map[string]time.Time // looked at first
	answer map[string]time.Time
	since  map[string]time.Time // alive without a break; see came
}

// note takes it that a node answers now, if it does, and returns when it was last
// known to, and when it was first asked for.
func (l *liveness) note(name string, up bool) (answered, met time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.met == nil {
		l.met, l.answer = map[string]time.Time{}, map[string]time.Time{}
	}
	now := time.Now()
	if l.met[name].IsZero() {
		l.met[name] = now
	}
	if up {
		l.answer[name] = now
	}
	return l.answer[name], l.met[name]
}

// alive reports whether anything was heard of a node lately, over the mesh or
// through those who keep the state: up is about the way there, this about the
// node. last is when that was; for one that was never heard of, when we began to
// look: who has just started does not take the others for long dead.
func (n *Node) alive(name string) (alive bool, last time.Time) {
	if _, there := n.cluster.Node(name); !there {
		return false, time.Time{}
	}
	last, met := n.lives.note(name, n.up(name))
	if at, ok := n.seen.Load(name); ok && at.(time.Time).After(last) {
		last = at.(time.Time)
	}
	if last.IsZero() {
		return false, met
	}
	alive = time.Since(last) < statusLate
	n.lives.came(name, alive)
	return alive, last
}

// isNew reports whether the node is known for so short a time that it need not answer
// yet.
func (l *liveness) isNew(name string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	met, known := l.met[name]
	return !known || time.Since(met) < statusLate
}

// came is since when a node that is alive has been so, as far as anybody asked.
func (l *liveness) came(name string, alive bool) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.since == nil {
		l.since = map[string]time.Time{}
	}
	switch {
	case !alive:
		delete(l.since, name)
	case l.since[name].IsZero():
		l.since[name] = time.Now()
	}
	return l.since[name]
}

// hosts are the nodes as the choice of a place sees them.
func (n *Node) hosts() []placement.Node {
	groups, machines := map[string]map[string]int{}, map[string]int{}
	memory := map[string]int{}
	for _, s := range n.everyMachine() {
		if groups[s.Node] == nil {
			groups[s.Node] = map[string]int{}
		}
		groups[s.Node][placement.GroupKey(s.App, s.Group)]++
		machines[s.Node]++
		memory[s.Node] += promised(s)
	}
	var out []placement.Node
	for _, o := range n.cluster.Nodes() {
		said, _ := n.heard(o.Name)
		if o.Name == n.cfg.Name {
			said.MemoryMB, said.CPUs = memoryMB(), runtime.NumCPU()
		}
		up, since := n.alive(o.Name)
		came := n.lives.came(o.Name, up)
		// One that does not answer gets nothing new, long before it counts as lost.
		if up = up && (n.up(o.Name) || time.Since(since) < statusEvery); up {
			since = came
		}
		out = append(out, placement.Node{
			Name: o.Name, Region: o.Region, Host: o.Has(cluster.RoleHost), Up: up, Since: since,
			Cordoned: o.Cordoned, Draining: o.Draining,
			FreeMemoryMB: said.MemoryMB*memoryShare/100 - memory[o.Name], FreeCPUs: float64(said.CPUs*overcommit - machines[o.Name]),
			Machines: machines[o.Name], Groups: groups[o.Name],
		})
	}
	return out
}

// memoryShare is how much of a node's memory may be promised to machines, in
// percent: most sleep, and a sleeping one needs none.
const memoryShare = 400

// promised is how much of a node's memory a machine counts for: one that has none
// now, for a quarter, since few wake at the same time.
func promised(s machine.Summary) int {
	switch s.State {
	case api.StateStopped, api.StateSuspended, api.StateCreated:
		return guestMB(s.Config) / 4
	}
	return max(guestMB(s.Config), s.MemoryMB)
}

// roomForMemory refuses a machine of this node more memory than may still be promised.
func (n *Node) roomForMemory(moreMB int) error {
	for _, o := range n.hosts() {
		if o.Name == n.cfg.Name && o.FreeMemoryMB < moreMB {
			return api.Errorf(api.CodeCapacity, "node %q has %d MiB left to promise, not %d more", o.Name, max(0, o.FreeMemoryMB), moreMB).
				WithField("limit_mb").WithHint("ask for less, or move machines to another node")
		}
	}
	return nil
}

func guestMB(c *api.MachineConfig) int {
	if c == nil || c.Guest == nil || c.Guest.MemoryMB == 0 {
		return 256
	}
	return c.Guest.MemoryMB
}

// everyMachine is the machines of all nodes, this one's as they are.
func (n *Node) everyMachine() []machine.Summary {
	out := slices.DeleteFunc(n.index.List(""), func(s machine.Summary) bool { return s.Node == n.cfg.Name })
	return slices.AppendSeq(out, maps.Values(n.machines.Summaries()))
}

// machinesOf is everyMachine of one app, without the work for all others.
func (n *Node) machinesOf(app string) []machine.Summary {
	out := slices.DeleteFunc(n.index.List(app), func(s machine.Summary) bool { return s.Node == n.cfg.Name })
	return append(out, n.machines.SummariesOf(app)...)
}

// place chooses the node of a new machine. A request without a region stays in
// this node's, if one here takes machines: whoever asks is near.
func (n *Node) place(ctx context.Context, app string, req api.CreateMachineRequest) (string, error) {
	want := placement.Want{App: app, Near: n.cfg.Region}
	if req.Config != nil {
		want.Group, want.MemoryMB = machine.Group(req.Config), guestMB(req.Config)
	}
	if req.Region != "" {
		want.Regions = []string{req.Region}
	}
	if req.Config != nil {
		var err error
		if want.Node, err = n.allVolumes.NodeFor(app, req.Region, req.Config.Mounts); err != nil {
			return "", err
		}
	}
	return n.choose(ctx, want)
}

// choose waits a moment if what is missing may be a node that has joined just now
// and has not said yet what it has.
func (n *Node) choose(ctx context.Context, want placement.Want) (string, error) {
	for end := time.Now().Add(statusEvery); ; {
		name, err := placement.Choose(n.hosts(), want)
		if err == nil || ctx.Err() != nil || time.Now().After(end) || !n.unheard(want.Regions) {
			return name, err
		}
		rest(ctx, 50*time.Millisecond)
	}
}

// unheard reports whether a node of the regions, or of any, answers and has not
// said how it is.
func (n *Node) unheard(regions []string) bool {
	return slices.ContainsFunc(n.others(), func(o cluster.Node) bool {
		_, said := n.heard(o.Name)
		up, _ := n.alive(o.Name)
		return !said && up && (len(regions) == 0 || slices.Contains(regions, o.Region))
	})
}

// fits fails where a region has no room for so many more machines.
func (n *Node) fits(app, group, region string, c *api.MachineConfig, more int) error {
	want := placement.Want{App: app, Group: group, Regions: []string{region}, MemoryMB: guestMB(c)}
	if n.unheard(want.Regions) {
		return nil // it may have plenty
	}
	_, err := placement.Spread(n.hosts(), want, more)
	return err
}

// standIn is the region where machines of another one are made now: itself while
// it has a node that takes them, else the nearest that has.
func (n *Node) standIn(region string, allowed []string) string {
	return placement.Fallback(n.hosts(), region, allowed)[0]
}

// roomOn is how many more machines of 256 MiB a node takes.
func roomOn(o placement.Node) int {
	if !o.Host || o.Cordoned || o.Draining {
		return 0
	}
	return max(0, min(o.FreeMemoryMB/256, int(o.FreeCPUs)))
}

// Regions says where there are nodes.
func (n *Node) Regions(_ context.Context, app string) (api.RegionList, error) {
	by := map[string]*api.Region{}
	for _, o := range n.hosts() {
		r := by[o.Region]
		if r == nil {
			r = &api.Region{Code: o.Region, Name: o.Region}
			if c, ok := region.Lookup(o.Region); ok {
				r.Name, r.Latitude, r.Longitude = c.Name, c.Lat, c.Lon
			}
			by[o.Region] = r
		}
		r.Nodes++
		if o.Up {
			r.NodesUp++
			r.Capacity += roomOn(o)
		}
	}
	for _, o := range n.cluster.Nodes() {
		r := by[o.Region] // nil for one that has joined since
		if up, _ := n.alive(o.Name); r != nil && up && o.Has(cluster.RoleEdge) && !o.Draining {
			r.Gateway = true
		}
	}
	for _, s := range n.everyMachine() {
		if r := by[s.Region]; r != nil && (app == "" || s.App == app) {
			r.Machines++
		}
	}
	out := api.RegionList{Nearest: n.cfg.Region, Regions: []api.Region{}}
	for _, code := range slices.Sorted(maps.Keys(by)) {
		out.Regions = append(out.Regions, *by[code])
	}
	return out, nil
}
