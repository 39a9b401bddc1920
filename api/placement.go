package api

import (
	"context"
	"net/http"
)

// PlacementRequest asks where machines would go (POST /v1/platform/placements).
type PlacementRequest struct {
	Compute         *Guest           `json:"compute,omitempty" doc:"Size of each; default one shared CPU and 256 MiB"`
	Region          string           `json:"region,omitempty" doc:"Regions with commas between, the best first; any is all, the nearest first. Default any"`
	Count           int              `json:"count,omitempty" doc:"How many; 0 asks how many there is room for"`
	VolumeName      string           `json:"volume_name,omitempty" doc:"Taken for Fly's clients and not looked at"`
	VolumeSizeBytes uint64           `json:"volume_size_bytes,omitempty" doc:"Taken for Fly's clients and not looked at"`
	Weights         map[string]int64 `json:"weights,omitempty" doc:"Taken for Fly's clients and not looked at"`
	OrgSlug         string           `json:"org_slug,omitempty" doc:"Taken for Fly's clients and not looked at"`
}

// PlacementResponse says how many machines go where.
type PlacementResponse struct {
	Regions []RegionPlacement `json:"regions"`
}

// RegionPlacement is how many machines a region takes.
type RegionPlacement struct {
	Region      string `json:"region"`
	Count       int    `json:"count"`
	Concurrency int    `json:"concurrency" doc:"Nodes that they spread over"`
}

// Placements says where machines would go, without making any.
func (c *Client) Placements(ctx context.Context, req PlacementRequest) (r PlacementResponse, err error) {
	return r, c.call(ctx, http.MethodPost, pathf("/platform/placements"), nil, req, &r)
}
