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

// liveness remembers since when each node is up, or down.
type liveness struct {
	mu    sync.Mutex // guards what follows
	nodes map[string]life
}

type life struct {
	up    bool
	since time.Time
}

// note takes what is known of a node now and returns since when it is so. A node
// of which nothing was known counts from now on: who has just started does not
// take the others for long dead.
func (l *liveness) note(name string, up bool) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.nodes == nil {
		l.nodes = map[string]life{}
	}
	now := l.nodes[name]
	if now.since.IsZero() || now.up != up {
		now = life{up, time.Now()}
		l.nodes[name] = now
	}
	return now.since
}

// alive reports whether anything is heard of a node: over the mesh, or through
// those who keep the state. up is about the way there, this about the node.
func (n *Node) alive(name string) bool {
	if n.up(name) {
		return true
	}
	at, ok := n.seen.Load(name)
	return ok && time.Since(at.(time.Time)) < statusLate
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
		memory[s.Node] += guestMB(s.Config)
	}
	var out []placement.Node
	for _, o := range n.cluster.Nodes() {
		said, _ := n.heard(o.Name)
		if o.Name == n.cfg.Name {
			said.MemoryMB, said.CPUs = memoryMB(), runtime.NumCPU()
		}
		up := n.alive(o.Name)
		out = append(out, placement.Node{
			Name: o.Name, Region: o.Region, Host: o.Has(cluster.RoleHost), Up: up, Since: n.lives.note(o.Name, up),
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

// place chooses the node of a new machine. A request without a region stays here
// if this node takes machines: whoever asks is near.
func (n *Node) place(_ context.Context, app string, req api.CreateMachineRequest) (string, error) {
	want := placement.Want{App: app, Near: n.cfg.Region}
	if req.Config != nil {
		want.Group, want.MemoryMB = machine.Group(req.Config), guestMB(req.Config)
	}
	if req.Region != "" {
		want.Regions = []string{req.Region}
	}
	return placement.Choose(n.hosts(), want)
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
			r.Capacity += max(0, o.FreeMemoryMB/256)
		}
	}
	for _, o := range n.cluster.Nodes() {
		if o.Has(cluster.RoleEdge) && n.alive(o.Name) && !o.Draining {
			by[o.Region].Gateway = true
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
