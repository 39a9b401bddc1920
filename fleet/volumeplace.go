package fleet

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/volume"
)

// Create makes a volume of the app: on the node of what it is made from, else on the
// one that Place chooses. A creation whose answer is lost on the way is asked for again
// under the same key, so it makes one volume, not two; the caller's own key counts
// across all nodes.
func (v *Volumes) Create(ctx context.Context, app string, req api.CreateVolumeRequest) (api.Volume, error) {
	if forwarded(ctx) {
		return v.cfg.Local.Create(ctx, app, req)
	}
	if err := volume.Check(req); err != nil {
		return api.Volume{}, err
	}
	all, err := v.of(app)
	if err != nil {
		return api.Volume{}, err
	}
	if id := madeBy(all, req.IdempotencyKey); id != "" {
		return v.Get(ctx, app, id)
	}
	if i := find(all, req.SourceVolumeID); i >= 0 {
		return v.copy(ctx, app, req, all[i])
	}
	node, err := v.nodeForNew(ctx, app, req, all)
	if err != nil {
		return api.Volume{}, err
	}
	return v.createOn(ctx, node, app, req)
}

// madeBy is the volume that was made under the key, "" if there is none.
func madeBy(all []volume.Summary, key string) string {
	for _, s := range all {
		if key != "" && s.CreateKey == key && s.Volume.State != api.VolumeCreating {
			return s.Volume.ID
		}
	}
	return ""
}

// find is the place of a volume in the list, -1 if it is not there.
func find(all []volume.Summary, id string) int {
	return slices.IndexFunc(all, func(s volume.Summary) bool { return s.Volume.ID == id })
}

// createOn makes a volume on a node. A call whose answer is lost is repeated.
func (v *Volumes) createOn(ctx context.Context, node, app string, req api.CreateVolumeRequest) (made api.Volume, err error) {
	if node == v.fleet.cfg.Self {
		return v.cfg.Local.Create(ctx, app, req)
	}
	o, err := v.cfg.Apps.Owner(app)
	if err != nil {
		return made, err
	}
	req.IdempotencyKey = cmp.Or(req.IdempotencyKey, ulid.Make().String())
	err = v.fleet.askAgain(ctx, node, "the place for a new volume of app \""+app+"\"", func(ctx context.Context, c *api.Client) (err error) {
		made, err = c.CreateVolume(ctx, app, req)
		return err
	})
	if err == nil {
		v.remember(made, o.ID)
	}
	return made, err
}

func (v *Volumes) nodeForNew(ctx context.Context, app string, req api.CreateVolumeRequest, all []volume.Summary) (string, error) {
	switch {
	case req.SourceVolumeID != "":
		return v.fleet.cfg.Self, nil // which says that there is none
	case req.SnapshotID != "" && !v.cfg.Local.Shared():
		return v.nodeOfSnapshot(all, req)
	}
	return v.cfg.Place(ctx, app, req, crowded(all, req))
}

// nodeOfSnapshot is where a snapshot is that only one node has.
func (v *Volumes) nodeOfSnapshot(all []volume.Summary, req api.CreateVolumeRequest) (string, error) {
	for _, s := range all {
		if has(s, req.SnapshotID) {
			return stays(s.Volume, req, "snapshot "+req.SnapshotID, "snapshots are on the disks of their nodes; keep them in a bucket to restore them anywhere")
		}
	}
	return v.fleet.cfg.Self, nil
}

// stays refuses another region than that of what a volume is made from.
func stays(from api.Volume, req api.CreateVolumeRequest, what, hint string) (string, error) {
	if req.Region != "" && req.Region != from.Region {
		return "", api.Errorf(api.CodeInvalid, "region is %q; %s is in %q", req.Region, what, from.Region).WithField("region").WithHint(hint)
	}
	return from.Node, nil
}

// crowded are the nodes that have a volume which the new one is not to be beside.
func crowded(all []volume.Summary, req api.CreateVolumeRequest) (nodes []string) {
	everywhere := req.UniqueZoneAppWide != nil && *req.UniqueZoneAppWide
	if !everywhere && (req.RequireUniqueZone == nil || !*req.RequireUniqueZone) {
		return nil
	}
	for _, s := range all {
		if s.Volume.State == api.VolumeCreated && (everywhere || s.Volume.Name == cmp.Or(req.Name, "data")) {
			nodes = append(nodes, s.Volume.Node)
		}
	}
	return nodes
}

// NodeFor returns the node that has the volumes of a new machine's mounts; "" if it
// has none.
func (v *Volumes) NodeFor(app, region string, mounts []api.Mount) (string, error) {
	if len(mounts) == 0 {
		return "", nil
	}
	all, err := v.of(app)
	if err != nil {
		return "", err
	}
	var nodes []string
	for i, m := range mounts {
		fit := slices.DeleteFunc(slices.Clone(all), func(s volume.Summary) bool { return !fits(s.Volume, m, region) })
		here := func(s volume.Summary) string { return s.Volume.Node }
		if i == 0 {
			nodes = each(fit, here)
		} else {
			there := each(fit, here)
			nodes = slices.DeleteFunc(nodes, func(n string) bool { return !slices.Contains(there, n) })
		}
		if len(nodes) == 0 {
			return "", v.nowhere(app, region, m, all, i)
		}
	}
	if i := slices.IndexFunc(nodes, v.fleet.cfg.Nodes.Up); i >= 0 {
		return nodes[i], nil
	}
	return nodes[0], nil
}

func each[T, U any](in []T, f func(T) U) (out []U) {
	for _, x := range in {
		out = append(out, f(x))
	}
	return out
}

// fits reports whether a mount may mean the volume. Whose it is, its node decides.
func fits(v api.Volume, m api.Mount, region string) bool {
	switch {
	case region != "" && v.Region != region, v.State == api.VolumeDestroyed:
		return false
	case m.Volume != "":
		return v.ID == m.Volume
	}
	return v.Name == m.Name && v.State == api.VolumeCreated && v.AttachedMachineID == nil
}

// nowhere says why no node has the volumes of a machine.
func (v *Volumes) nowhere(app, region string, m api.Mount, all []volume.Summary, i int) error {
	field := "config.mounts"
	if m.Volume == "" {
		where := ""
		if region != "" {
			where = " in region " + region
		}
		return api.Errorf(api.CodePrecondition, "app %q has no free volume named %q%s", app, m.Name, where).WithField(field).
			WithHint("make one with perigee volumes create")
	}
	for _, s := range all {
		if s.Volume.ID != m.Volume || s.Volume.State == api.VolumeDestroyed {
			continue
		}
		if region != "" && s.Volume.Region != region {
			return api.Errorf(api.CodeInvalid, "volume %q is in region %q, the machine is to be in %q", m.Volume, s.Volume.Region, region).WithField("region")
		}
		return api.Errorf(api.CodePrecondition, "volume %q is on another node than the machine's other volumes", m.Volume).WithField(field)
	}
	return api.Errorf(api.CodeNotFound, "app %q has no volume %q", app, m.Volume).WithField(field).WithHint("perigee volumes list shows those that it has")
}

// promiseFor is how long a volume that Provide gave away is nobody else's, though its
// machine is not made yet.
const promiseFor = 2 * time.Minute

// Provide names a volume for each of a machine's mounts: one that no machine has, in
// the region, else a new one. With a node the volumes are there. It says in words what
// it has made. For one app it must be called by one deploy at a time, of this node.
func (v *Volumes) Provide(ctx context.Context, app, region, node string, mounts []api.Mount) (out []api.Mount, words []string, err error) {
	leave, err := v.turnOf(ctx, app)
	if err != nil {
		return nil, nil, err
	}
	defer leave()
	all, err := v.of(app)
	if err != nil {
		return nil, nil, err
	}
	out = slices.Clone(mounts)
	for i := range out {
		m := &out[i]
		if !v.choose(all, m, region, node) {
			made, err := v.provideNew(ctx, app, region, node, *m, all)
			if err != nil {
				v.unpromise(out[:i]) // who tries again is to find them, not get empty ones
				return nil, words, err
			}
			words = append(words, made.Name+": volume "+made.ID+" made in "+made.Region+" on "+made.Node)
			all = append(all, volume.Summary{Volume: made})
			m.Volume = made.ID
			v.choose(all, m, region, node)
		}
		if j := find(all, m.Volume); j >= 0 {
			node = all[j].Volume.Node // the others of the machine are beside it
		}
	}
	return out, words, nil
}

// turnOf waits until the app's other machines have been given their volumes, so that a
// new one is put beside none of the same name. A node that is slow holds up its app alone.
func (v *Volumes) turnOf(ctx context.Context, app string) (leave func(), err error) {
	for {
		v.mu.Lock()
		before := v.placing[app]
		if before == nil {
			mine := make(chan struct{})
			v.placing[app] = mine
			v.mu.Unlock()
			return func() { v.leave(app); close(mine) }, nil
		}
		v.mu.Unlock()
		select {
		case <-before:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (v *Volumes) leave(app string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.placing, app)
}

// choose finds a mount without a volume one that no machine has nor is to have, the
// oldest first, and promises it; false if there is none.
func (v *Volumes) choose(all []volume.Summary, m *api.Mount, region, node string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if m.Volume == "" {
		i := slices.IndexFunc(all, func(s volume.Summary) bool {
			return fits(s.Volume, *m, region) && (node == "" || s.Volume.Node == node) && s.Volume.HostStatus == "ok" && time.Now().After(v.promised[s.Volume.ID])
		})
		if i < 0 {
			return false
		}
		m.Volume = all[i].Volume.ID
	}
	v.promise(m.Volume)
	return true
}

// promise keeps a volume for a machine. v.mu is held.
func (v *Volumes) promise(id string) {
	for other, until := range v.promised {
		if time.Now().After(until) {
			delete(v.promised, other)
		}
	}
	v.promised[id] = time.Now().Add(promiseFor)
}

// unpromise takes back what was promised to a machine that is not made.
func (v *Volumes) unpromise(mounts []api.Mount) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, m := range mounts {
		delete(v.promised, m.Volume)
	}
}

// trip is how long what a node says of its volumes takes to get here, at most.
const trip = 3 * time.Second

// Provided ends what Provide began: the machine has the volumes, or is not made. What
// is known of them counts again.
func (v *Volumes) Provided(mounts []api.Mount) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, m := range mounts {
		if _, here := v.cfg.Local.Summary(m.Volume); here {
			delete(v.promised, m.Volume)
		} else if _, promised := v.promised[m.Volume]; promised {
			v.promised[m.Volume] = time.Now().Add(trip)
		}
	}
}

// provideNew makes a volume for a mount, on a node without one of the name if there
// is such a node.
func (v *Volumes) provideNew(ctx context.Context, app, region, node string, m api.Mount, all []volume.Summary) (api.Volume, error) {
	yes := true
	req := api.CreateVolumeRequest{Name: m.Name, Region: region, RequireUniqueZone: &yes, AutoBackupEnabled: m.ScheduledSnapshots, SnapshotRetention: m.SnapshotRetention}
	if m.SizeGB > 0 {
		req.SizeGB = &m.SizeGB
	}
	if err := volume.Check(req); err != nil {
		return api.Volume{}, err
	}
	if node == "" {
		var err error
		if node, err = v.cfg.Place(ctx, app, req, crowded(all, req)); err != nil {
			return api.Volume{}, err
		}
	}
	return v.createOn(ctx, node, app, req)
}
