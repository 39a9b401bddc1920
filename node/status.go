package node

import (
	"context"
	"runtime"
	"time"

	"github.com/perigee-run/perigee/cluster"
)

// statusEvery is how often a node says how it is; statusLate is when one that
// says nothing counts as lost, if it does not answer over the mesh either.
const (
	statusEvery = 5 * time.Second
	statusLate  = 3 * statusEvery
)

// report is what a node says of itself to all others.
type report struct {
	At       time.Time `json:"at"`
	CPUs     int       `json:"cpus"`
	MemoryMB int       `json:"memory_mb"`
	Load     float64   `json:"load,omitempty"`
	HTTP     string    `json:"http,omitempty"` // where it answers public port 80
	HTTPS    string    `json:"https,omitempty"`
	Machines int       `json:"machines"`
	Requests int       `json:"requests"`         // in flight at its router
	Public   []string  `json:"public,omitempty"` // addresses at which clients reach its router
	Zone     bool      `json:"zone,omitempty"`   // it is a DNS server of the domain
	BGP      bool      `json:"bgp,omitempty"`    // it announces addresses
	Left     bool      `json:"left,omitempty"`   // it drains, and as an edge it is done
	Ill      string    `json:"ill,omitempty"`    // why no clients should be led to it
	Synced   bool      `json:"synced,omitempty"` // with the replicated state
	Started  time.Time `json:"started,omitzero"`
	Fault    string    `json:"fault,omitempty"` // why its last upgrade failed
}

// keepStatus says how the node is until ctx ends, oftener while somebody waits
// for it to be empty.
func (n *Node) keepStatus(ctx context.Context) error {
	for {
		n.sayStatus()
		next := statusEvery
		synced := n.synced()
		if n.self().Draining || !synced {
			next = time.Second
		}
		if !synced {
			n.cluster.Doubt() // it may be that the others do not let this node in any more
		}
		select {
		case <-ctx.Done():
			return nil
		case <-n.sayNow:
		case <-time.After(next):
		}
	}
}

// sayStatusSoon is for what others wait for.
func (n *Node) sayStatusSoon() {
	select {
	case n.sayNow <- struct{}{}:
	default:
	}
}

func (n *Node) sayStatus() {
	n.statuses.Set("node", report{
		At: time.Now().UTC(), CPUs: runtime.NumCPU(), MemoryMB: memoryMB(), Load: cpuLoad(), HTTP: n.answersAt(80), HTTPS: n.answersAt(443), Machines: len(n.machines.Statuses()), Requests: n.router.Requests(),
		Public: n.publicAddrs(), Zone: n.zone != nil, BGP: n.anycast != nil, Left: n.left.Load(), Ill: n.illness(), Synced: n.synced(), Started: n.since, Fault: n.upgradeFault(),
	})
}

// synced reports whether the state is as it should be, as far as this node sees:
// another one may go away for a moment.
func (n *Node) synced() bool {
	st := n.catalog.StateStatus()
	return st.Connected && st.Quorum && st.Current
}

// upgradeFault is why the last upgrade failed.
func (n *Node) upgradeFault() string {
	if n.next.Busy() {
		return ""
	}
	return n.cfg.fault
}

// heard is what a node said last.
func (n *Node) heard(name string) (report, bool) {
	e, ok := n.statuses.Get(name, "node")
	return e.Value, ok
}

// up reports whether a node can be reached: it answers over the mesh or, while
// that is not known, what it said is not old. The clocks of two nodes may differ,
// so that the time is ours: when a word of its came.
func (n *Node) up(name string) bool {
	if name == n.cfg.Name {
		return true
	}
	if d, ok := n.distances()[name]; ok {
		return d.Up
	}
	at, ok := n.seen.Load(name)
	return ok && time.Since(at.(time.Time)) < statusLate
}

// keepSeen notes when each node was heard of.
func (n *Node) keepSeen(ctx context.Context) error {
	for c := range n.statuses.Watch(ctx) {
		if c.Deleted {
			n.seen.Delete(c.Node)
			continue
		}
		n.seen.Store(c.Node, time.Now())
	}
	return nil
}

// nodeStatus implements the question of the cluster room.
func (n *Node) nodeStatus(name string) cluster.Status {
	if n.statuses == nil {
		return cluster.Status{}
	}
	s, _ := n.heard(name)
	out := cluster.Status{Up: n.up(name), CPUs: s.CPUs, MemoryMB: s.MemoryMB, HTTP: s.HTTP, HTTPS: s.HTTPS, Machines: s.Machines, Requests: s.Requests,
		Synced: s.Synced, StartedAt: s.Started, Fault: s.Fault}
	if o, ok := n.cluster.Node(name); ok {
		out.Leaving = o.Draining && o.Has(cluster.RoleEdge) && !s.Left
	}
	if at, ok := n.seen.Load(name); ok {
		out.SeenAt = at.(time.Time)
	}
	if name == n.cfg.Name {
		out.SeenAt = time.Now()
	}
	return out
}

// publicAddrs are the addresses at which clients reach this node's router.
func (n *Node) publicAddrs() []string {
	if !n.self().Has(cluster.RoleEdge) {
		return nil
	}
	if len(n.cfg.Public) > 0 {
		return n.cfg.Public
	}
	return []string{n.self().Address}
}
