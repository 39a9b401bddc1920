package node

import (
	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/dns"
	"github.com/perigee-run/perigee/mesh"
)

// names answers the machines' resolver from what the node knows.
type names struct{ n *Node }

// Apps implements dns.Source.
func (s names) Apps(org string) []string {
	var out []string
	for _, a := range s.n.apps.List() {
		if a.Org == org {
			out = append(out, a.Name)
		}
	}
	return out
}

// Machines implements dns.Source.
func (s names) Machines(org, name string) []dns.Machine {
	a, err := s.n.apps.Get(name)
	if err != nil || a.Org != org {
		return nil
	}
	var out []dns.Machine
	for _, m := range s.n.machines.Statuses() {
		if m.App != name {
			continue
		}
		d := dns.Machine{ID: m.ID, App: name, Region: s.n.cfg.Region, Group: m.Group, Started: m.State == api.StateStarted,
			IPv6: s.n.network.PrivateIPv6(mesh.Identity{Org: org, App: name, Machine: m.ID}), IPv4: m.Addr}
		if m.Config != nil {
			d.Metadata = m.Config.Metadata
		}
		out = append(out, d)
	}
	return out
}
