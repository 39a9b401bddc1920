package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/cluster"
)

// An edge is looked at each second. It is ill after as many bad looks in a row,
// and well again after as many good ones: more, so that one that comes and goes
// stays away.
const (
	healthEvery = time.Second
	badLooks    = 2
	goodLooks   = 5
)

// health is what came of the looks at an edge.
type health struct {
	why       string // it is ill; "" if it is not
	known     bool   // there was a verdict
	bad, good int    // looks in a row
}

// note takes the outcome of a look, "" for a good one, and reports whether the
// verdict is new.
func (h *health) note(fault string) (changed bool) {
	if fault == "" {
		h.bad, h.good = 0, h.good+1
		if h.known && (h.why == "" || h.good < goodLooks) {
			return false
		}
	} else {
		h.bad, h.good = h.bad+1, 0
		if h.bad < badLooks || h.known && h.why != "" {
			return false
		}
	}
	h.known, h.why = true, fault
	return true
}

// keepHealth tells those who lead clients here whether they should: BGP, and by
// the report all DNS servers. One that drains is on its way out and left alone.
func (n *Node) keepHealth(ctx context.Context) error {
	select {
	case <-n.router.Ready():
	case <-ctx.Done():
		return nil
	}
	var h health
	for ctx.Err() == nil {
		if !n.self().Draining && !n.next.Leaving() {
			fault := n.edgeFault(ctx)
			if !n.self().Draining && !n.next.Leaving() && ctx.Err() == nil && h.note(fault) {
				n.setHealth(h.why)
			}
		}
		rest(ctx, healthEvery)
	}
	return nil
}

func (n *Node) setHealth(ill string) {
	if n.anycast != nil {
		n.anycast.SetHealthy(ill == "", or(ill, "it answers"))
	}
	if was := n.illness(); ill != "" {
		n.log.Warn("this edge cannot serve visitors, and is left out of DNS and BGP", "why", ill)
	} else if was != "" {
		n.log.Info("this edge serves visitors again")
	}
	n.ill.Store(&ill)
	n.sayStatusSoon()
}

// illness is why no clients are led to this edge, "" if they are.
func (n *Node) illness() string {
	if p := n.ill.Load(); p != nil {
		return *p
	}
	return ""
}

// isIll reports whether a node said so of itself.
func (n *Node) isIll(name string) bool {
	said, _ := n.heard(name)
	return said.Ill != ""
}

// edgeFault looks for what keeps this edge from serving visitors.
func (n *Node) edgeFault(ctx context.Context) string {
	if !n.self().Has(cluster.RoleEdge) {
		return ""
	}
	for _, port := range []int{80, 443} {
		if n.cfg.listenMap()[port] == "off" {
			continue
		}
		if err := n.portFault(ctx, port); err != nil {
			return fmt.Sprintf("port %d does not serve: %v", port, err)
		}
	}
	others := slices.DeleteFunc(n.others(), func(o cluster.Node) bool { return n.lives.isNew(o.Name) })
	if len(others) > 0 && len(n.machines.Statuses()) == 0 && !slices.ContainsFunc(others, func(o cluster.Node) bool { return n.up(o.Name) }) {
		return "no other node answers, and there are no machines here"
	}
	return ""
}

// portFault says why a port of the router's own is not served.
func (n *Node) portFault(ctx context.Context, port int) error {
	for _, p := range n.router.Problems() {
		if p.App == "" && p.Port == port {
			return p.Err
		}
	}
	at := n.router.Addr(port)
	if at == nil {
		return errors.New("it is not open")
	}
	return answers(ctx, at.String())
}

// answers fails unless a server takes a connection and, told that nothing
// follows, ends it. Of an address that stands for all, the loopback one is asked.
func answers(ctx context.Context, at string) error {
	dial := net.Dialer{Timeout: healthEvery}
	c, err := dial.DialContext(ctx, "tcp", at)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	_ = c.SetReadDeadline(time.Now().Add(3 * healthEvery)) // it is open
	if _, err := c.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
		return errors.New("it takes connections and does nothing with them")
	}
	return nil
}

// faultRest is how long what has failed waits before it is tried again.
const faultRest = 5 * time.Second

// persist runs what leads clients here until ctx ends, again and again if it
// fails: the node serves those who find it anyway.
func (n *Node) persist(ctx context.Context, name string, run func(context.Context) error) {
	for ctx.Err() == nil {
		n.faults.Delete(name)
		err := run(ctx)
		if err == nil || ctx.Err() != nil {
			return
		}
		n.faults.Store(name, err)
		n.log.Error("what leads clients here has failed, and is tried again", "what", name, "in", faultRest, "err", err)
		rest(ctx, faultRest)
	}
}

// edgeProblems are what keeps clients away.
func (n *Node) edgeProblems() (out []api.Problem) {
	if why := n.illness(); why != "" {
		out = append(out, api.Problem{Name: "edge", Fault: "clients are led to other edges: " + why, Cure: "it comes back by itself when that is over"})
	}
	for _, name := range []string{"bgp", "dns"} {
		if err, ok := n.faults.Load(name); ok {
			out = append(out, api.Problem{Name: name, Fault: err.(error).Error(), Cure: "it is tried again every few seconds"})
		}
	}
	return out
}
