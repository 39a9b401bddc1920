package httpapi

import (
	"context"
	"slices"
	"strings"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/token"
)

// Volumes is the volumes of all nodes; *fleet.Volumes is them.
type Volumes interface {
	// List returns the app's volumes, those among them whose files are gone.
	List(app string) ([]api.Volume, error)
	// Orphans returns the volumes of an org whose apps were destroyed.
	Orphans(org string) []api.Volume
	Get(ctx context.Context, app, id string) (api.Volume, error)
	Create(ctx context.Context, app string, req api.CreateVolumeRequest) (api.Volume, error)
	Update(ctx context.Context, app, id string, req api.UpdateVolumeRequest) (api.Volume, error)
	Extend(ctx context.Context, app, id string, req api.ExtendVolumeRequest) (api.ExtendVolumeResponse, error)
	Destroy(ctx context.Context, app, id string, now bool) (api.Volume, error)
	// Keep takes Destroy back. With orphans the volume may be one of an app of the same
	// org that was destroyed, and is this app's then.
	Keep(ctx context.Context, app, id string, orphans bool) (api.Volume, error)
	Snapshots(ctx context.Context, app, id string) ([]api.VolumeSnapshot, error)
	Snapshot(ctx context.Context, app, id string) (api.VolumeSnapshot, error)
}

const pVolume = pApp + "/volumes/{volume_id}"

func (s *Server) volumeRoutes() []route {
	list := []param{
		{"region", "string", "Only volumes here"}, {"state", "string", "Only volumes in one of these states, with commas between; destroyed are those of which there are but snapshots"},
		{"summary", "boolean", "Taken for Fly's clients and not looked at"},
	}
	return []route{
		{rGet, pApp + "/volumes", reads, "Volumes_list", "List the app's volumes, oldest first", list, get(s.listVolumes)},
		{rPost, pApp + "/volumes", changes, "Volumes_create", "Make a volume: empty, from a snapshot, or as a copy", nil, take(s.createVolume)},
		{rGet, pVolume, reads, "Volumes_get_by_id", "Show a volume", nil, get(s.showVolume)},
		{rPut, pVolume, changes, "Volumes_update", "Change a volume's settings", nil, take(s.updateVolume)},
		{rDelete, pVolume, changes, "Volume_delete", "Destroy a volume that no machine has; it can be had back for a day", []param{{"now", "boolean", "At once, for good (Perigee)"}}, get(s.deleteVolume)},
		{rPost, pVolume + "/keep", changes, "Volumes_keep", "Take the destruction of a volume back; an owner of the org gives the app one of an app that was destroyed", nil, get(s.keepVolume)},
		{rPut, pVolume + "/extend", changes, "Volumes_extend", "Make a volume larger", nil, take(s.extendVolume)},
		{rGet, pVolume + "/snapshots", reads, "Volumes_list_snapshots", "List a volume's snapshots, newest first", nil, get(s.listSnapshots)},
		{rPost, pVolume + "/snapshots", changes, "createVolumeSnapshot", "Take a snapshot", nil, get(s.createSnapshot)},
		{rGet, "/v1/orgs/{org_slug}/volumes", reads, "Volumes_org_list", "List the volumes of an org's apps", list, get(s.listOrgVolumes)},
	}
}

// volumes returns the volumes, and the app of the path, which must be there.
func (s *Server) volumes(c *call) (Volumes, string, error) {
	if s.cfg.Volumes == nil {
		return nil, "", api.Errorf(api.CodeUnsupported, "this node has no volumes")
	}
	name, err := s.app(c)
	return s.cfg.Volumes, name, err
}

func (s *Server) listVolumes(c *call) ([]api.Volume, error) {
	v, name, err := s.volumes(c)
	if err != nil {
		return nil, err
	}
	all, err := v.List(name)
	return selected(c, all), err
}

// selected are the volumes that the query asks for. Those whose files are gone are
// left out unless they are asked for.
func selected(c *call, all []api.Volume) []api.Volume {
	region, states := c.text("region"), c.list("state")
	return slices.DeleteFunc(orEmpty(all), func(v api.Volume) bool {
		return region != "" && v.Region != region || len(states) > 0 && !slices.Contains(states, v.State) || len(states) == 0 && v.State == api.VolumeDestroyed
	})
}

func (s *Server) listOrgVolumes(c *call) ([]api.Volume, error) {
	if s.cfg.Volumes == nil {
		return []api.Volume{}, nil
	}
	out := []api.Volume{}
	for _, a := range s.cfg.Apps.List() {
		if a.Org != c.path("org_slug") || !c.sees(a.Org, a.Name) {
			continue
		}
		all, err := s.cfg.Volumes.List(a.Name)
		if err != nil && !api.IsCode(err, api.CodeNotFound) { // it went meanwhile
			return nil, err
		}
		out = append(out, selected(c, all)...)
	}
	if org := c.path("org_slug"); c.may(token.Want{Class: owns, Org: org}) == nil {
		out = append(out, selected(c, s.cfg.Volumes.Orphans(org))...)
	}
	return out, nil
}

func (s *Server) createVolume(c *call, in api.CreateVolumeRequest) (out api.Volume, err error) {
	v, name, err := s.volumes(c)
	if err != nil {
		return out, err
	}
	if in.IdempotencyKey, err = c.idempotencyKey(); err != nil {
		return out, err
	}
	return v.Create(c.r.Context(), name, in)
}

func (s *Server) showVolume(c *call) (out api.Volume, err error) {
	v, name, err := s.volumes(c)
	if err != nil {
		return out, err
	}
	return v.Get(c.r.Context(), name, c.path("volume_id"))
}

func (s *Server) updateVolume(c *call, in api.UpdateVolumeRequest) (out api.Volume, err error) {
	v, name, err := s.volumes(c)
	if err != nil {
		return out, err
	}
	return v.Update(c.r.Context(), name, c.path("volume_id"), in)
}

func (s *Server) extendVolume(c *call, in api.ExtendVolumeRequest) (out api.ExtendVolumeResponse, err error) {
	v, name, err := s.volumes(c)
	if err != nil {
		return out, err
	}
	return v.Extend(c.r.Context(), name, c.path("volume_id"), in)
}

func (s *Server) deleteVolume(c *call) (out api.Volume, err error) {
	now, err := c.bool("now")
	if err != nil {
		return out, err
	}
	v, name, err := s.volumes(c)
	if err != nil {
		return out, err
	}
	return v.Destroy(c.r.Context(), name, c.path("volume_id"), now)
}

func (s *Server) keepVolume(c *call) (out api.Volume, err error) {
	v, name, err := s.volumes(c)
	if err != nil {
		return out, err
	}
	orphans := c.may(token.Want{Class: owns, Org: s.orgOf(name)}) == nil
	return v.Keep(c.r.Context(), name, c.path("volume_id"), orphans)
}

func (s *Server) listSnapshots(c *call) ([]api.VolumeSnapshot, error) {
	v, name, err := s.volumes(c)
	if err != nil {
		return nil, err
	}
	all, err := v.Snapshots(c.r.Context(), name, c.path("volume_id"))
	return orEmpty(all), err
}

func (s *Server) createSnapshot(c *call) (out api.VolumeSnapshot, err error) {
	v, name, err := s.volumes(c)
	if err != nil {
		return out, err
	}
	return v.Snapshot(c.r.Context(), name, c.path("volume_id"))
}

// list is a query parameter of words with commas between.
func (c *call) list(name string) []string {
	var out []string
	for _, v := range c.query(name) {
		out = append(out, strings.Split(v, ",")...)
	}
	return out
}
