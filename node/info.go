package node

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/catalog"
	"github.com/perigee-run/perigee/internal/version"
	"github.com/perigee-run/perigee/machine"
	"github.com/perigee-run/perigee/mesh"
	"github.com/perigee-run/perigee/router"
)

// Info says what the node is and has.
func (n *Node) Info(ctx context.Context) (api.NodeInfo, error) {
	return api.NodeInfo{
		Name: n.cfg.Name, Region: n.cfg.Region, Version: version.Version, Domain: n.cfg.Domain, Registry: n.cfg.registryHosts()[0],
		HTTP: n.answersAt(80), HTTPS: n.answersAt(443), CACert: n.caPEM(ctx),
		CPUs: runtime.NumCPU(), MemoryMB: memoryMB(), Machines: len(n.machines.List("")), StartedAt: n.since, Problems: n.problems(ctx),
	}, nil
}

func (n *Node) answersAt(port int) string {
	if a := n.router.Addr(port); a != nil {
		return a.String()
	}
	return ""
}

// problems are what the server lacks and what the router cannot do.
func (n *Node) problems(ctx context.Context) []api.Problem {
	var out []api.Problem
	for _, p := range mesh.Check(ctx, n.cfg.NetworkPrefix) {
		out = append(out, api.Problem{Name: p.Name, Fault: p.Detail, Cure: p.Cure, Fatal: p.Fatal})
	}
	if err := n.catalog.Room(catalog.Reserve); err != nil {
		out = append(out, api.Problem{Name: "disk", Fault: "nothing new can be made: " + err.Error()})
	}
	if err := n.store.Problem(ctx); err != nil {
		out = append(out, api.Problem{Name: "logs", Fault: "logs are not stored for now: " + err.Error()})
	}
	out = append(append(out, n.edgeProblems()...), n.bgpProblems()...)
	for _, p := range n.router.Problems() {
		out = append(out, api.Problem{Name: "router", Fault: p.Err.Error()})
	}
	return out
}

// address is the app's own name, and where a browser finds it.
func (n *Node) address(app string) (hostname, url string) {
	hostname = app + "." + n.cfg.Domain
	return hostname, n.url(app, hostname)
}

// url is the address to open in a browser, by the first HTTP port that the
// app's machines offer; TLS wins.
func (n *Node) url(app, host string) string {
	best := ""
	for _, s := range n.appServices(app) {
		for _, p := range s.Ports {
			switch {
			case p.Start == 443 && has(p.Handlers, "tls"):
				return "https://" + host + suffix(n.cfg.publicPort(443), "443")
			case p.Start == 80 && has(p.Handlers, "http"):
				best = "http://" + host + suffix(n.cfg.publicPort(80), "80")
			}
		}
	}
	return best
}

// offersOf are an app's machines without the ways to them: enough to tell which
// ports it has.
func (n *Node) offersOf(app string) []offer {
	all := n.machinesOf(app)
	slices.SortFunc(all, func(a, b machine.Summary) int { return strings.Compare(a.ID, b.ID) })
	out := make([]offer, len(all))
	for i, s := range all {
		out[i] = offer{router.Machine{ID: s.ID, State: s.State, Healthy: s.Healthy}, s.App, s.Group, s.Release, s.Config}
	}
	return out
}

func suffix(port, standard string) string {
	if port == standard {
		return ""
	}
	return ":" + port
}

func has(list []string, s string) bool {
	for _, v := range list {
		if v == s {
			return true
		}
	}
	return false
}

// Stop ends the node soon after it returns. With machines they end too, and
// nothing of the node is left on the server but its data.
func (n *Node) Stop(ctx context.Context, machines bool) error {
	if machines {
		n.last.Store(true) // from now on nothing is woken
		n.stopMachines(ctx)
	}
	n.stop()
	return nil
}

func (n *Node) stopMachines(ctx context.Context) {
	var wg sync.WaitGroup
	for _, m := range n.machines.List("") {
		if m.State != api.StateStarted && m.State != api.StatePaused {
			continue
		}
		wg.Go(func() {
			if err := n.machines.Stop(ctx, m.ID, api.StopRequest{}, ""); err != nil {
				n.log.Warn("cannot stop machine", "machine", m.ID, "err", err)
			}
		})
	}
	wg.Wait()
}

// leave removes what only running machines need: the supervisor and the
// network.
func (n *Node) leave(ctx context.Context) {
	if n.sandbox != nil {
		if err := n.sandbox.Shutdown(ctx); err != nil {
			n.log.Warn("cannot end the sandbox supervisor", "err", err)
		}
	}
	removeCgroups(n.cfg.NetworkPrefix)
	if n.volumes != nil {
		n.volumes.Leave(ctx)
	}
	if err := n.network.Teardown(ctx); err != nil {
		n.log.Warn("cannot remove the machines' networks", "err", err)
	}
	if err := unmountMemory(n.path("sandbox")); err != nil {
		n.log.Warn("cannot let go of the sandboxes' state", "err", err)
	}
}

// removeCgroups removes the node's control groups, which are empty now: those
// with something in them refuse, and stay.
func removeCgroups(name string) {
	tops, _ := filepath.Glob("/sys/fs/cgroup/*/" + name)
	for _, top := range append(tops, "/sys/fs/cgroup/"+name) {
		groups, _ := filepath.Glob(top + "/*/")
		for _, g := range append(groups, top) {
			os.Remove(g)
		}
	}
}

// cpuLoad is how many processes wanted a processor during the last minute, for each
// that there is.
func cpuLoad() float64 {
	b, _ := os.ReadFile("/proc/loadavg")
	first, _, _ := strings.Cut(string(b), " ")
	load, _ := strconv.ParseFloat(first, 64)
	return load / float64(runtime.NumCPU())
}

// memoryMB is the server's memory in MiB.
func memoryMB() int {
	b, _ := os.ReadFile("/proc/meminfo")
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "MemTotal:"); ok {
			kb, _ := strconv.Atoi(strings.Fields(v)[0])
			return kb / 1024
		}
	}
	return 0
}
