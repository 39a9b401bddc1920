package httpapi

import (
	"context"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/region"
)

// Regions knows the places where there are nodes. With an app, machines are
// counted of that app only.
type Regions interface {
	Regions(ctx context.Context, app string) (api.RegionList, error)
}

func (s *Server) listRegions(c *call) (api.RegionList, error) {
	name := c.text("app_name")
	if name != "" {
		if err := c.mayApp(name); err != nil {
			return api.RegionList{}, err
		}
		if _, err := s.cfg.Apps.Get(name); err != nil {
			return api.RegionList{}, err
		}
	}
	if s.cfg.Regions != nil {
		return s.cfg.Regions.Regions(c.r.Context(), name)
	}
	return s.ownRegion(c.r.Context(), name)
}

// ownRegion is the answer of a node that is alone.
func (s *Server) ownRegion(ctx context.Context, name string) (api.RegionList, error) {
	info, err := s.cfg.Node.Info(ctx)
	if err != nil {
		return api.RegionList{}, err
	}
	r := NewRegion(info.Region)
	r.Gateway, r.Nodes, r.NodesUp, r.Machines = true, 1, 1, info.Machines
	if name != "" {
		r.Machines = len(s.cfg.Machines.List(name))
	}
	return api.RegionList{Regions: []api.Region{r}, Nearest: info.Region}, nil
}

// NewRegion is a region with what is known of its city; one that is no city has
// its code for a name.
func NewRegion(code string) api.Region {
	r := api.Region{Code: code, Name: code}
	if city, ok := region.Lookup(code); ok {
		r.Name, r.Latitude, r.Longitude = city.Name, city.Lat, city.Lon
	}
	return r
}
