package node

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/app"
	"github.com/perigee-run/perigee/router"
)

// keepTable gives the router a new table whenever an app or a machine of any
// node changes. Changes that come together become one table, and a table that
// takes long to make leaves as much time to everything else.
func (n *Node) keepTable(ctx context.Context) error {
	machines, apps, others := n.machines.Changes(ctx), n.apps.Changes(ctx), n.index.Changes(ctx)
	for {
		select {
		case <-ctx.Done():
			return nil
		case _, ok := <-machines:
			if !ok {
				return nil
			}
		case <-others:
		case <-apps:
		case <-n.poke:
		}
		settle(machines)
		settle(others)
		began := time.Now()
		if err := n.refresh(); err != nil {
			n.log.Error("cannot give the router its table", "err", err)
		}
		rest(ctx, time.Since(began))
	}
}

// pokeTable has a new table made soon.
func (n *Node) pokeTable() {
	select {
	case n.poke <- struct{}{}:
	default:
	}
}

func rest(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// refresh gives the router a table of how things are now. One at a time, so
// that an older table never follows a newer one.
func (n *Node) refresh() error {
	n.tables.Lock()
	defer n.tables.Unlock()
	return n.router.SetTable(n.table())
}

// settle takes what has come already.
func settle(c <-chan string) {
	for {
		select {
		case _, ok := <-c:
			if !ok {
				return
			}
		default:
			return
		}
	}
}

// table says who offers what.
func (n *Node) table() router.Table {
	var t router.Table
	by := map[string][]offer{}
	for _, o := range n.offers() {
		by[o.App] = append(by[o.App], o)
	}
	addrs := n.apps.AllAddresses()
	for _, a := range oldest(n.apps.List()) {
		entry := router.App{Name: a.Name, Org: a.Org, Hosts: append([]string{a.Name + "." + n.cfg.Domain}, n.apps.Hosts(a.Name)...)}
		entry.Services = services(by[a.Name])
		entry.Addrs, entry.Private = addrs[a.Name], n.network.ServiceAddr(a.Org, a.Name)
		t.Apps = append(t.Apps, entry)
	}
	return t
}

// oldest sorts apps so that the oldest comes first: of two that ask for one port
// or name, and of which none has it, every edge gives it to the same.
func oldest(apps []app.App) []app.App {
	slices.SortFunc(apps, func(a, b app.App) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), strings.Compare(a.Name, b.Name))
	})
	return apps
}

// appServices is what one app offers.
func (n *Node) appServices(name string) []router.Service { return services(n.offersOf(name)) }

// offer is a machine as the table needs it.
type offer struct {
	router.Machine
	App, Group string
	Release    int
	Config     *api.MachineConfig
}

// offers are the machines of all nodes: this node's as they are, the others' as
// their nodes say.
func (n *Node) offers() []offer {
	var out []offer
	yielding := n.yielding()
	for _, m := range n.machines.Statuses() {
		out = append(out, offer{
			router.Machine{ID: m.ID, Region: n.cfg.Region, Addr: m.Addr, State: m.State, Healthy: m.Healthy, Cordoned: m.Cordoned || yielding[m.ID]},
			m.App, m.Group, m.Release, m.Config,
		})
	}
	via := map[string]netip.AddrPort{}
	for _, o := range n.others() {
		via[o.Name] = n.meshAddr(o.Number)
	}
	for _, s := range n.index.List("") {
		if at, ok := via[s.Node]; ok {
			out = append(out, offer{
				router.Machine{ID: s.ID, Region: s.Region, Node: s.Node, Via: at, State: s.State, Healthy: s.Healthy, Cordoned: s.Cordoned},
				s.App, s.Group, s.Release, s.Config,
			})
		}
	}
	slices.SortFunc(out, func(a, b offer) int { return strings.Compare(a.ID, b.ID) })
	return slices.CompactFunc(out, func(a, b offer) bool { return a.ID == b.ID }) // one that moves is two for a moment
}

// services gathers the machines' service lists: machines of one process group
// that offer the same internal port serve the same service, and its settings
// are those of the newest healthy release among them.
func services(machines []offer) []router.Service {
	var out []router.Service
	index, newest := map[string]int{}, map[int]int{}
	for _, m := range machines {
		if m.Config == nil {
			continue
		}
		for _, s := range byPort(m.Config.Services) {
			key := fmt.Sprintf("%s/%d", m.Group, s.InternalPort)
			i, ok := index[key]
			if !ok {
				i = len(out)
				index[key] = i
				out = append(out, service(s))
				newest[i] = m.Release
			} else if m.Release > newest[i] && m.Healthy {
				kept := out[i].Machines
				out[i], newest[i] = service(s), m.Release
				out[i].Machines = kept
			}
			out[i].Machines = append(out[i].Machines, m.Machine)
		}
	}
	return out
}

// byPort joins the services of one machine that lead to the same internal port:
// together they are one, with the ports of all.
func byPort(services []api.Service) []api.Service {
	var out []api.Service
	index := map[int]int{}
	for _, s := range services {
		if s.Protocol == "udp" {
			continue
		}
		if i, ok := index[s.InternalPort]; ok {
			out[i].Ports = append(slices.Clone(out[i].Ports), s.Ports...)
			continue
		}
		index[s.InternalPort] = len(out)
		out = append(out, s)
	}
	return out
}

func service(s api.Service) router.Service {
	out := router.Service{Protocol: "tcp", InternalPort: s.InternalPort, AutoStart: s.Autostart == nil || *s.Autostart}
	if c := s.Concurrency; c != nil {
		out.Concurrency = router.Concurrency{Type: c.Type, Soft: c.SoftLimit, Hard: c.HardLimit}
	}
	for _, p := range s.Ports {
		out.Ports = append(out.Ports, port(p))
	}
	return out
}

func port(p api.Port) router.Port {
	out := router.Port{Start: p.Port, Handlers: p.Handlers, ForceHTTPS: p.ForceHTTPS}
	if p.Port == 0 {
		out.Start, out.End = p.StartPort, p.EndPort
	}
	if o := p.HTTPOptions; o != nil {
		out.H2Backend = o.H2Backend != nil && *o.H2Backend
		out.Sticky = o.Sticky != nil && *o.Sticky
		if o.IdleTimeout != nil {
			out.IdleTimeout = time.Duration(*o.IdleTimeout) * time.Second
		}
	}
	if o := p.ProxyProtoOptions; o != nil && o.Version == "v2" {
		out.ProxyProtoVersion = 2
	}
	return out
}
