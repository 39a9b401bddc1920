package node

import (
	"fmt"
	"net"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/machine"
)

// checkPorts refuses raw public ports that another app or another program has.
// Ports with an http or tls handler are shared: names tell the apps apart. An app
// with an address of its own has all of its ports there.
func (n *Node) checkPorts(app string, groups map[string]api.MachineConfig) error {
	if len(n.apps.Addresses(app)) > 0 {
		return nil
	}
	taken := rawPorts(n.everyMachine(), app)
	for _, c := range groups {
		for _, p := range raw(c.Services) {
			if other, ok := taken[p]; ok {
				return api.Errorf(api.CodeConflict, "port %d is app %q's", p, other).WithField("services.ports.port").
					WithHint("a port without an http or tls handler belongs to one app; choose another, give the app an address of its own with perigee ips allocate-v4, or leave the service's ports out: then your other apps alone reach it, at <app>.flycast")
			}
			if err := n.listenable(p); err != nil {
				return api.Errorf(api.CodeConflict, "port %d cannot be opened on this server: %v", p, err).WithField("services.ports.port").WithHint("choose another port, or stop the program that has it")
			}
		}
	}
	return nil
}

// rawPorts are the raw ports of all apps but one, on whatever node, with their
// owners.
func rawPorts(machines []machine.Summary, but string) map[int]string {
	taken := map[int]string{}
	for _, m := range machines {
		if m.App == but || m.Config == nil {
			continue
		}
		for _, p := range raw(m.Config.Services) {
			taken[p] = m.App
		}
	}
	return taken
}

// raw lists the ports that carry bytes as they are.
func raw(services []api.Service) (ports []int) {
	for _, s := range services {
		for _, p := range s.Ports {
			if has(p.Handlers, "http") || has(p.Handlers, "tls") || has(p.Handlers, "pg_tls") {
				continue
			}
			first, last := p.Port, p.Port
			if p.Port == 0 {
				first, last = p.StartPort, p.EndPort
			}
			for port := first; port <= last; port++ {
				ports = append(ports, port)
			}
		}
	}
	return ports
}

// listenable reports why a port cannot be opened; one that the router has open
// already can.
func (n *Node) listenable(port int) error {
	if n.router.Addr(port) != nil {
		return nil
	}
	l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
	if err != nil {
		return err
	}
	return l.Close()
}
