package node

import (
	"net/netip"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/dns"
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

// Has implements dns.Source.
func (s names) Has(org, app string) bool {
	a, err := s.n.apps.Get(app)
	return err == nil && a.Org == org
}

// Machines implements dns.Source.
func (s names) Machines(org, name string) []dns.Machine {
	if !s.Has(org, name) {
		return nil
	}
	var out []dns.Machine
	distances := s.n.distances()
	for _, m := range s.n.machinesOf(name) {
		d := dns.Machine{ID: m.ID, App: name, Region: m.Region, Group: m.Group, Started: m.State == api.StateStarted, RTT: distances[m.Node].RTT}
		d.IPv6, _ = netip.ParseAddr(m.PrivateIP)
		if here, ok := s.n.machines.Status(m.ID); ok {
			d.IPv4 = here.Addr
		}
		if m.Config != nil {
			d.Metadata = m.Config.Metadata
		}
		out = append(out, d)
	}
	return out
}

// MachineAt implements dns.Source.
func (s names) MachineAt(org string, a netip.Addr) (dns.Machine, bool) {
	found := dns.Machine{}
	if m, ok := s.n.index.At(a.String()); ok {
		found = dns.Machine{ID: m.ID, App: m.App}
	}
	for id, m := range s.n.machines.Summaries() {
		if m.PrivateIP == a.String() {
			found = dns.Machine{ID: id, App: m.App}
		}
	}
	for _, m := range s.n.machines.Statuses() {
		if m.Addr == a {
			found = dns.Machine{ID: m.ID, App: m.App}
		}
	}
	return found, found.ID != "" && s.Has(org, found.App)
}

// Service implements dns.Source.
func (s names) Service(org, app string) netip.Addr { return s.n.network.ServiceAddr(org, app) }

// peerNames are the org's laptops.
func (n *Node) peerNames(org string) []dns.Peer {
	if n.peers == nil {
		return nil
	}
	return n.peers.Names(org)
}
