package placement

import (
	"cmp"
	"maps"
	"slices"
)

// Room is how many machines a region takes.
type Room struct {
	Region string
	Count  int
	// Nodes is how many nodes they spread over.
	Nodes int
}

// maxSimulated bounds the work of one question.
const maxSimulated = 10_000

// Simulate says where n more machines would go, region by region, without making any;
// with n of 0, how many each region that will do has room for. Where not all find a
// place, those that do are told.
func Simulate(nodes []Node, want Want, n int) ([]Room, error) {
	if n == 0 {
		return capacity(nodes, want)
	}
	nodes = slices.Clone(nodes)
	rooms, regions, used := map[string]*Room{}, map[string]string{}, map[string]bool{}
	for _, o := range nodes {
		regions[o.Name] = o.Region
	}
	for i := range min(n, maxSimulated) {
		name, err := Choose(nodes, want)
		if err != nil && i == 0 {
			return nil, err
		}
		if err != nil {
			break
		}
		r := rooms[regions[name]]
		if r == nil {
			r = &Room{Region: regions[name]}
			rooms[r.Region] = r
		}
		r.Count++
		if !used[name] {
			used[name] = true
			r.Nodes++
		}
		take(nodes, name, want)
	}
	return sorted(rooms), nil
}

// capacity is how much each region that will do takes by itself.
func capacity(nodes []Node, want Want) ([]Room, error) {
	regions := want.Regions
	if len(regions) == 0 {
		regions = regionsOf(nodes)
	} else if err := exist(nodes, regions); err != nil {
		return nil, err
	}
	rooms := map[string]*Room{}
	for _, o := range nodes {
		if !slices.Contains(regions, o.Region) || o.lacks(want) != "" {
			continue
		}
		if rooms[o.Region] == nil {
			rooms[o.Region] = &Room{Region: o.Region}
		}
		rooms[o.Region].Count += o.room(want)
		rooms[o.Region].Nodes++
	}
	return sorted(rooms), nil
}

// room is how many such machines the node takes.
func (n Node) room(want Want) int {
	most := maxSimulated
	if want.MemoryMB > 0 {
		most = min(most, n.FreeMemoryMB/want.MemoryMB)
	}
	if want.CPUs > 0 {
		most = min(most, int(n.FreeCPUs/want.CPUs))
	}
	return most
}

func sorted(rooms map[string]*Room) []Room {
	out := []Room{}
	for _, r := range slices.SortedFunc(maps.Values(rooms), func(a, b *Room) int { return cmp.Compare(a.Region, b.Region) }) {
		out = append(out, *r)
	}
	return out
}
