package placement

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/region"
)

// Node is a node as the choice of a place sees it.
type Node struct {
	Name, Region string
	// Host says that the node has the role that takes machines.
	Host bool
	// Up says that it is heard of, and Since when that began, or when it was heard
	// of last.
	Up    bool
	Since time.Time
	// Cordoned and Draining nodes get no new machines.
	Cordoned, Draining bool
	FreeMemoryMB       int
	FreeCPUs           float64
	// Machines is how many are on it; Groups, of which app and group, by [GroupKey].
	Machines int
	Groups   map[string]int
}

// GroupKey is an app's process group as a key of [Node.Groups].
func GroupKey(app, group string) string { return app + "/" + group }

// Want is what a machine needs of a node.
type Want struct {
	App, Group string
	// Regions are those that will do, the best first. Default: all, the nearest
	// to Near first.
	Regions []string
	Near    string
	// MemoryMB and CPUs must be free; zero asks for none.
	MemoryMB int
	CPUs     float64
	// Node is the only one that will do, since it holds the machine's volumes.
	Node string
	// Not are nodes that will not do.
	Not []string
}

// Choose names the node for a machine: in the first region that has room, the
// node with the fewest machines of the same group, then the one with most free
// memory. The same nodes always give the same answer. An error says in words
// what each node lacks (api.CodeCapacity), or that no region of the name exists
// (api.CodeInvalid).
func Choose(nodes []Node, want Want) (string, error) {
	if want.Node != "" {
		nodes = slices.DeleteFunc(slices.Clone(nodes), func(n Node) bool { return n.Name != want.Node })
		if len(nodes) == 0 {
			return "", api.Errorf(api.CodeCapacity, "there is no node %q, which holds the machine's volumes", want.Node)
		}
	}
	regions := want.Regions
	if len(regions) == 0 {
		regions = Nearest(want.Near, regionsOf(nodes))
	} else if err := exist(nodes, regions); err != nil {
		return "", err
	}
	for _, r := range regions {
		if name, ok := best(nodes, r, want); ok {
			return name, nil
		}
	}
	return "", shortage(nodes, regions, want)
}

// Spread chooses nodes for n machines, one after the other.
func Spread(nodes []Node, want Want, n int) ([]string, error) {
	nodes = slices.Clone(nodes)
	var out []string
	for range n {
		name, err := Choose(nodes, want)
		if err != nil {
			return nil, err
		}
		out = append(out, name)
		take(nodes, name, want)
	}
	return out, nil
}

// take books a machine on a node.
func take(nodes []Node, name string, want Want) {
	for i := range nodes {
		n := &nodes[i]
		if n.Name != name {
			continue
		}
		groups := map[string]int{}
		for k, v := range n.Groups {
			groups[k] = v
		}
		groups[GroupKey(want.App, want.Group)]++
		n.Groups, n.Machines = groups, n.Machines+1
		n.FreeMemoryMB, n.FreeCPUs = n.FreeMemoryMB-want.MemoryMB, n.FreeCPUs-want.CPUs
	}
}

func best(nodes []Node, r string, want Want) (string, bool) {
	key := GroupKey(want.App, want.Group)
	fit := slices.DeleteFunc(slices.Clone(nodes), func(n Node) bool { return n.Region != r || n.lacks(want) != "" })
	if len(fit) == 0 {
		return "", false
	}
	first := slices.MinFunc(fit, func(a, b Node) int {
		return cmp.Or(cmp.Compare(a.Groups[key], b.Groups[key]), cmp.Compare(b.FreeMemoryMB, a.FreeMemoryMB),
			cmp.Compare(a.Machines, b.Machines), cmp.Compare(a.Name, b.Name))
	})
	return first.Name, true
}

// lacks says in words why the node will not do; "" if it will.
func (n Node) lacks(want Want) string {
	switch {
	case slices.Contains(want.Not, n.Name):
		return "is out of question"
	case !n.Host:
		return "takes no machines"
	case !n.Up:
		return "is down"
	case n.Draining:
		return "is draining"
	case n.Cordoned:
		return "is cordoned"
	case want.MemoryMB > 0 && n.FreeMemoryMB < want.MemoryMB:
		return fmt.Sprintf("has %d MiB", max(0, n.FreeMemoryMB))
	case want.CPUs > 0 && n.FreeCPUs < want.CPUs: // more are promised than there are: few work at the same time
		return fmt.Sprintf("has %s CPUs", decimal(max(0, n.FreeCPUs)))
	}
	return ""
}

func decimal(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }

// maxNamed is how many nodes an error tells about.
const maxNamed = 8

// shortage says what was wanted and what each node has.
func shortage(nodes []Node, regions []string, want Want) error {
	asked := "takes the machine"
	switch {
	case want.MemoryMB > 0 && want.CPUs > 0:
		asked = fmt.Sprintf("has %d MiB and %s CPUs free", want.MemoryMB, decimal(want.CPUs))
	case want.MemoryMB > 0:
		asked = fmt.Sprintf("has %d MiB free", want.MemoryMB)
	case want.CPUs > 0:
		asked = fmt.Sprintf("has %s CPUs free", decimal(want.CPUs))
	}
	where := ""
	if len(want.Regions) > 0 {
		where = " in region " + quoted(want.Regions, " or ")
	}
	in := slices.DeleteFunc(slices.Clone(nodes), func(n Node) bool { return !slices.Contains(regions, n.Region) })
	slices.SortFunc(in, func(a, b Node) int { return cmp.Compare(a.Name, b.Name) })
	var reasons []string
	for _, n := range in[:min(len(in), maxNamed)] {
		reasons = append(reasons, n.Name+" "+n.lacks(want))
	}
	if more := len(in) - maxNamed; more > 0 {
		reasons = append(reasons, fmt.Sprintf("and %d more", more))
	}
	if len(reasons) == 0 {
		reasons = []string{"there is none"}
	}
	return api.Errorf(api.CodeCapacity, "no node%s %s: %s", where, asked, strings.Join(reasons, ", ")).
		WithHint("ask for less, free some, name another region, or add a node")
}

// exist fails if none of the regions has a node at all.
func exist(nodes []Node, regions []string) error {
	there := regionsOf(nodes)
	for _, r := range regions {
		if slices.Contains(there, r) {
			return nil
		}
	}
	return api.Errorf(api.CodeInvalid, "there is no node in region %s", quoted(regions, " or ")).
		WithField("region").WithHint("there are nodes in " + strings.Join(there, ", "))
}

func quoted(words []string, sep string) string {
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = strconv.Quote(w)
	}
	return strings.Join(out, sep)
}

// regionsOf are the regions that nodes with the role of a host are in, sorted.
func regionsOf(nodes []Node) []string {
	var out []string
	for _, n := range nodes {
		if n.Host {
			out = append(out, n.Region)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Nearest sorts regions by their distance from one of them. Those that have no
// place on earth come last, by name.
func Nearest(from string, regions []string) []string {
	out := slices.Sorted(slices.Values(regions))
	slices.SortStableFunc(out, func(a, b string) int { return cmp.Compare(distance(from, a), distance(from, b)) })
	return out
}

const unknownDistance = time.Hour

func distance(from, to string) time.Duration {
	if from == to {
		return 0
	}
	a, ok1 := region.Lookup(from)
	b, ok2 := region.Lookup(to)
	if !ok1 || !ok2 {
		return unknownDistance
	}
	return region.RTT(a, b)
}

// Fallback are the regions for a machine that belongs in home: home itself if
// one of its nodes is up; else the nearest that the app's configuration allows
// and that has a node up; else the nearest at all.
func Fallback(nodes []Node, home string, allowed []string) []string {
	up := regionsOf(slices.DeleteFunc(slices.Clone(nodes), func(n Node) bool { return !n.Up || n.Cordoned || n.Draining }))
	if slices.Contains(up, home) {
		return []string{home}
	}
	near := Nearest(home, up)
	in := slices.DeleteFunc(slices.Clone(near), func(r string) bool { return !slices.Contains(allowed, r) })
	out := slices.DeleteFunc(near, func(r string) bool { return slices.Contains(allowed, r) })
	if all := append(in, out...); len(all) > 0 {
		return all
	}
	return []string{home}
}
