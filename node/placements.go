package node

import (
	"context"
	"strings"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/placement"
)

// Placements says where machines would go, by the same choice that makes them.
func (n *Node) Placements(_ context.Context, req api.PlacementRequest) (api.PlacementResponse, error) {
	want := placement.Want{Near: n.cfg.Region, MemoryMB: guestMB(&api.MachineConfig{Guest: req.Compute})}
	for _, r := range strings.Split(req.Region, ",") {
		if r = strings.TrimSpace(r); r == "any" {
			want.Near, want.Regions = first(want.Regions, n.cfg.Region), nil
			break
		} else if r != "" {
			want.Regions = append(want.Regions, r)
		}
	}
	rooms, err := placement.Simulate(n.hosts(), want, req.Count)
	out := api.PlacementResponse{Regions: []api.RegionPlacement{}}
	for _, r := range rooms {
		out.Regions = append(out.Regions, api.RegionPlacement{Region: r.Region, Count: r.Count, Concurrency: r.Nodes})
	}
	return out, err
}

// first is the first of some, or def.
func first(some []string, def string) string {
	if len(some) == 0 {
		return def
	}
	return some[0]
}
