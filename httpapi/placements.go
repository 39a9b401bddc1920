package httpapi

import (
	"context"

	"github.com/perigee-run/perigee/api"
)

// Placer knows where machines would go.
type Placer interface {
	Placements(ctx context.Context, req api.PlacementRequest) (api.PlacementResponse, error)
}

// maxPlaced is the most machines that one call asks about.
const maxPlaced = 10_000

func (s *Server) placementRoutes() []route {
	return []route{
		{rPost, "/v1/platform/placements", reads, "Platform_placements", "Say where machines would go, or how many there is room for", nil, take(s.placements)},
	}
}

func (s *Server) placements(c *call, in api.PlacementRequest) (api.PlacementResponse, error) {
	if in.Count < 0 || in.Count > maxPlaced {
		return api.PlacementResponse{}, invalid("count", "count is %d; it can be 0 to %d", in.Count, maxPlaced)
	}
	if g := in.Compute; g != nil && g.MemoryMB < 0 {
		return api.PlacementResponse{}, invalid("compute.memory_mb", "compute.memory_mb is %d; it cannot be negative", g.MemoryMB)
	}
	if g := in.Compute; g != nil && g.CPUs < 0 {
		return api.PlacementResponse{}, invalid("compute.cpus", "compute.cpus is %d; it cannot be negative", g.CPUs)
	}
	if s.cfg.Placer == nil {
		return api.PlacementResponse{}, api.Errorf(api.CodeUnsupported, "this node cannot say where machines would go")
	}
	return s.cfg.Placer.Placements(c.r.Context(), in)
}
