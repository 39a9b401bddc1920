package fleet

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/catalog"
	"github.com/perigee-run/perigee/volume"
)

// Volumes is the volumes of all nodes. Like a machine, a volume has one owner, its
// node; lists are what every node says of its own.
type Volumes struct {
	fleet *Fleet
	cfg   VolumesConfig

	mu       sync.Mutex // guards what follows
	recent   map[string]recentVolume
	promised map[string]time.Time     // volumes that machines under way are to have
	placing  map[string]chan struct{} // by app: one of its machines is being given volumes; closed when that ends
}

// recentVolume is a volume of another node as it answered it, until its summary
// has had the time to arrive.
type recentVolume struct {
	volume api.Volume
	appID  string
	until  time.Time
}

// VolumesConfig joins Volumes with its neighbours. All but Place are required.
type VolumesConfig struct {
	// Local is this node's own volumes; *volume.Store is one.
	Local LocalVolumes
	// Said is what all nodes published; *catalog.Published is one.
	Said interface {
		List() []catalog.PublishedEntry[volume.Summary]
	}
	Apps volume.Apps
	// Place chooses the node of a new volume, not among those of not. Default: this
	// node.
	Place func(ctx context.Context, app string, req api.CreateVolumeRequest, not []string) (node string, err error)
}

// LocalVolumes is one node's volumes.
type LocalVolumes interface {
	Summary(id string) (volume.Summary, bool)
	Summaries() map[string]volume.Summary
	Shared() bool
	Get(ctx context.Context, app, id string) (api.Volume, error)
	Create(ctx context.Context, app string, req api.CreateVolumeRequest) (api.Volume, error)
	Update(ctx context.Context, app, id string, req api.UpdateVolumeRequest) (api.Volume, error)
	Extend(ctx context.Context, app, id string, req api.ExtendVolumeRequest) (api.ExtendVolumeResponse, error)
	Destroy(ctx context.Context, app, id string, now bool) (api.Volume, error)
	DestroyAll(ctx context.Context, app string) error
	Keep(ctx context.Context, app, id string, orphans bool) (api.Volume, error)
	Snapshots(ctx context.Context, app, id string) ([]api.VolumeSnapshot, error)
	Snapshot(ctx context.Context, app, id string) (api.VolumeSnapshot, error)
}

var _ LocalVolumes = (*volume.Store)(nil)

// NewVolumes checks the configuration.
func (f *Fleet) NewVolumes(cfg VolumesConfig) (*Volumes, error) {
	if cfg.Local == nil || cfg.Said == nil || cfg.Apps == nil {
		return nil, errors.New("cannot make the fleet's volumes: local, said and apps are all needed")
	}
	if cfg.Place == nil {
		cfg.Place = func(context.Context, string, api.CreateVolumeRequest, []string) (string, error) {
			return f.cfg.Self, nil
		}
	}
	return &Volumes{fleet: f, cfg: cfg, recent: map[string]recentVolume{}, promised: map[string]time.Time{}, placing: map[string]chan struct{}{}}, nil
}

// summaries are what is known of all volumes, this node's as they are.
func (v *Volumes) summaries() []volume.Summary {
	var out []volume.Summary
	seen := map[string]bool{}
	for id, s := range v.cfg.Local.Summaries() {
		seen[id] = true
		out = append(out, s)
	}
	for _, e := range v.cfg.Said.List() {
		if e.Node == v.fleet.cfg.Self || seen[e.Key] {
			continue
		}
		s := e.Value
		seen[e.Key] = true
		if !v.fleet.cfg.Nodes.Up(e.Node) {
			s.Volume.HostStatus = "unreachable"
		}
		out = append(out, s)
	}
	return v.addRecent(out, seen)
}

func (v *Volumes) addRecent(out []volume.Summary, seen map[string]bool) []volume.Summary {
	v.mu.Lock()
	defer v.mu.Unlock()
	for id, r := range v.recent {
		switch {
		case seen[id] || time.Now().After(r.until):
			delete(v.recent, id)
		default:
			out = append(out, volume.Summary{Volume: r.volume, AppID: r.appID})
		}
	}
	return out
}

func (v *Volumes) remember(made api.Volume, appID string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.recent[made.ID] = recentVolume{made, appID, time.Now().Add(fresh)}
}

// of are the summaries of an app's volumes, oldest first, those that were destroyed
// among them.
func (v *Volumes) of(app string) ([]volume.Summary, error) {
	o, err := v.cfg.Apps.Owner(app)
	if err != nil {
		return nil, err
	}
	out := slices.DeleteFunc(v.summaries(), func(s volume.Summary) bool { return s.Volume.App != app || s.AppID != o.ID })
	slices.SortFunc(out, func(a, b volume.Summary) int {
		return cmp.Or(a.Volume.CreatedAt.Compare(b.Volume.CreatedAt), cmp.Compare(a.Volume.ID, b.Volume.ID))
	})
	return out, nil
}

// List returns an app's volumes, oldest first; also those whose files are gone, as long
// as there are snapshots of them. It never waits: those of other nodes are as their
// summaries tell.
func (v *Volumes) List(app string) ([]api.Volume, error) {
	all, err := v.of(app)
	out := []api.Volume{}
	for _, s := range all {
		out = append(out, s.Volume)
	}
	return out, err
}

// Lists reports whether a volume of the app has the snapshot in its list.
func (v *Volumes) Lists(app, snapshot string) bool {
	all, _ := v.of(app)
	return slices.ContainsFunc(all, func(s volume.Summary) bool { return has(s, snapshot) })
}

// at finds the node of an app's volume if that is another one. Everything else is
// the local volumes' to answer, also that there is no such volume.
func (v *Volumes) at(ctx context.Context, app, id string) (node string, remote bool) {
	if _, here := v.cfg.Local.Summary(id); here || forwarded(ctx) {
		return "", false
	}
	all, err := v.of(app)
	if err != nil {
		return "", false
	}
	for _, s := range all {
		if s.Volume.ID == id {
			return s.Volume.Node, s.Volume.Node != v.fleet.cfg.Self
		}
	}
	return "", false
}

// onVolume does something to a volume: here if it is here, by its owner if not.
func onVolume[T any](ctx context.Context, v *Volumes, app, id string, again bool, here func() (T, error), there func(context.Context, *api.Client) (T, error)) (out T, err error) {
	node, remote := v.at(ctx, app, id)
	return onNode(ctx, v, node, remote, id, again, here, there)
}

// onNode is onVolume once it is known where that is.
func onNode[T any](ctx context.Context, v *Volumes, node string, remote bool, id string, again bool, here func() (T, error), there func(context.Context, *api.Client) (T, error)) (out T, err error) {
	if !remote {
		return here()
	}
	ask := v.fleet.ask
	if again {
		ask = v.fleet.askAgain
	}
	err = ask(ctx, node, "volume \""+id+"\"", func(ctx context.Context, c *api.Client) (err error) {
		out, err = there(ctx, c)
		return err
	})
	return out, err
}

// Get returns a volume as its owner has it, or as it was last known if that does
// not answer.
func (v *Volumes) Get(ctx context.Context, app, id string) (api.Volume, error) {
	got, err := onVolume(ctx, v, app, id, true, func() (api.Volume, error) { return v.cfg.Local.Get(ctx, app, id) },
		func(ctx context.Context, c *api.Client) (api.Volume, error) { return c.GetVolume(ctx, app, id) })
	if !api.IsCode(err, api.CodeUnreachable) {
		return got, err
	}
	all, _ := v.List(app)
	for _, known := range all {
		if known.ID == id && known.State != api.VolumeDestroyed {
			known.HostStatus = "unreachable"
			return known, nil
		}
	}
	return got, err
}

// Update changes a volume's settings.
func (v *Volumes) Update(ctx context.Context, app, id string, req api.UpdateVolumeRequest) (api.Volume, error) {
	return onVolume(ctx, v, app, id, true, func() (api.Volume, error) { return v.cfg.Local.Update(ctx, app, id, req) },
		func(ctx context.Context, c *api.Client) (api.Volume, error) { return c.UpdateVolume(ctx, app, id, req) })
}

// Extend makes a volume larger.
func (v *Volumes) Extend(ctx context.Context, app, id string, req api.ExtendVolumeRequest) (api.ExtendVolumeResponse, error) {
	return onVolume(ctx, v, app, id, true, func() (api.ExtendVolumeResponse, error) { return v.cfg.Local.Extend(ctx, app, id, req) },
		func(ctx context.Context, c *api.Client) (api.ExtendVolumeResponse, error) {
			return c.ExtendVolume(ctx, app, id, req.SizeGB)
		})
}

// Destroy marks a volume that no machine has; it is gone a day later, or with now at
// once.
func (v *Volumes) Destroy(ctx context.Context, app, id string, now bool) (api.Volume, error) {
	return onVolume(ctx, v, app, id, !now, func() (api.Volume, error) { return v.cfg.Local.Destroy(ctx, app, id, now) },
		func(ctx context.Context, c *api.Client) (api.Volume, error) {
			return c.DestroyVolume(ctx, app, id, now)
		})
}

// Keep takes Destroy back. With orphans the volume may be one of an app of the same org
// that was destroyed, and is this app's then.
func (v *Volumes) Keep(ctx context.Context, app, id string, orphans bool) (api.Volume, error) {
	node, remote := v.at(ctx, app, id)
	if !remote && orphans {
		node, remote = v.orphanAt(ctx, id)
	}
	return onNode(ctx, v, node, remote, id, true, func() (api.Volume, error) { return v.cfg.Local.Keep(ctx, app, id, orphans) },
		func(ctx context.Context, c *api.Client) (api.Volume, error) { return c.KeepVolume(ctx, app, id) })
}

// Snapshots returns a volume's snapshots, newest first; those last known if its node
// does not answer.
func (v *Volumes) Snapshots(ctx context.Context, app, id string) ([]api.VolumeSnapshot, error) {
	got, err := onVolume(ctx, v, app, id, true, func() ([]api.VolumeSnapshot, error) { return v.cfg.Local.Snapshots(ctx, app, id) },
		func(ctx context.Context, c *api.Client) ([]api.VolumeSnapshot, error) {
			return c.ListSnapshots(ctx, app, id)
		})
	if !api.IsCode(err, api.CodeUnreachable) {
		return got, err
	}
	all, _ := v.of(app)
	for _, s := range all {
		if s.Volume.ID == id {
			return s.Snapshots, nil
		}
	}
	return got, err
}

// Snapshot takes a snapshot of a volume.
func (v *Volumes) Snapshot(ctx context.Context, app, id string) (api.VolumeSnapshot, error) {
	return onVolume(ctx, v, app, id, false, func() (api.VolumeSnapshot, error) { return v.cfg.Local.Snapshot(ctx, app, id) },
		func(ctx context.Context, c *api.Client) (api.VolumeSnapshot, error) {
			return c.CreateSnapshot(ctx, app, id)
		})
}

// DestroyAll marks all volumes of an app whose machines are gone. Those of nodes that
// do not answer are marked by these when they see that there is no such app.
func (v *Volumes) DestroyAll(ctx context.Context, app string) error {
	if err := v.cfg.Local.DestroyAll(ctx, app); err != nil {
		return err
	}
	all, err := v.of(app)
	if err != nil {
		return err
	}
	for _, s := range all {
		if s.Volume.Node == v.fleet.cfg.Self || s.Volume.State != api.VolumeCreated {
			continue
		}
		_, err := v.Destroy(ctx, app, s.Volume.ID, false)
		switch {
		case err == nil, api.IsCode(err, api.CodeNotFound):
		case api.IsCode(err, api.CodeUnreachable), api.IsCode(err, api.CodePrecondition): // fenced with its machine
			v.fleet.cfg.Logger.Warn("a volume of a destroyed app stays until its node sees that", "volume", s.Volume.ID, "node", s.Volume.Node, "error", err)
		default:
			return err
		}
	}
	return nil
}
