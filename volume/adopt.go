package volume

import (
	"context"
	"slices"

	"github.com/perigee-run/perigee/api"
)

// Adopt takes over the snapshots of a volume whose node is gone for good, from what
// that said of it last: they are listed, can be restored, and end when their time is
// over. Those that only that node had are gone with it. It may be repeated.
func (s *Store) Adopt(ctx context.Context, said Summary) error {
	r := said.inherited(s.cfg.Node)
	if !s.Shared() || len(r.Snapshots) == 0 {
		return nil
	}
	v := s.known(r)
	s.mu.Lock()
	if _, here := s.volumes[r.ID]; here {
		s.mu.Unlock()
		return nil
	}
	s.volumes[r.ID] = v
	s.mu.Unlock()
	err := s.save(ctx, v, func(*Record) {})
	if err != nil {
		s.mu.Lock()
		delete(s.volumes, r.ID)
		s.mu.Unlock()
	}
	return err
}

// inherited is the record of a volume whose files are gone with their node.
func (s *Summary) inherited(node string) Record {
	v := s.Volume
	r := Record{
		ID: v.ID, Name: v.Name, App: v.App, AppID: s.AppID, Org: s.Org, Node: node, Region: v.Region, SizeGB: v.SizeGB,
		State: api.VolumeDestroyed, CreatedAt: v.CreatedAt, Retention: v.SnapshotRetention,
	}
	for _, o := range s.Snapshots {
		if o.Status != api.SnapshotCreated {
			continue
		}
		one := Snapshot{ID: o.ID, Status: o.Status, Size: o.Size, VolumeSize: o.VolumeSize, Digest: o.Digest, CreatedAt: o.CreatedAt, Retention: r.Retention, Scheduled: o.Scheduled}
		if o.RetentionDays != nil {
			one.Retention = *o.RetentionDays
		}
		r.Snapshots = append(r.Snapshots, one)
	}
	return r
}

// ownerless reports whether the app of a volume was destroyed, as far as this node
// knows all apps.
func (s *Store) ownerless(r Record) bool {
	if !s.cfg.Synced() {
		return false
	}
	o, err := s.cfg.Apps.Owner(r.App)
	return api.IsCode(err, api.CodeNotFound) || err == nil && o.ID != r.AppID
}

// bequeath gives the app a volume of an app of its org that was destroyed. One whose
// files are gone has but its snapshots to give.
func (s *Store) bequeath(ctx context.Context, app, id string) (out api.Volume, err error) {
	o, err := s.cfg.Apps.Owner(app)
	if err != nil {
		return out, err
	}
	v := s.lookup(id)
	if v == nil {
		return out, notFound(app, id)
	}
	return onTurn(ctx, s, v, func(ctx context.Context) (out api.Volume, err error) {
		r := v.now()
		switch {
		case !s.ownerless(r) || r.Org != o.Org:
			return out, notFound(app, id)
		case o.Deleting:
			return out, api.Errorf(api.CodeConflict, "app %q is being destroyed", app)
		case r.Machine != "":
			return out, api.Errorf(api.CodePrecondition, "volume %q is still attached to machine %s of the app that was destroyed", id, r.Machine).WithHint("try again in a minute")
		case !slices.Contains([]string{api.VolumeCreated, api.VolumePendingDestroy, api.VolumeDestroyed}, r.State):
			return out, noKeeping(r)
		}
		err = s.save(ctx, v, func(r *Record) {
			r.App, r.AppID, r.DestroyAt = app, o.ID, nil
			if r.State == api.VolumePendingDestroy {
				r.State = api.VolumeCreated
			}
		})
		return s.look(v), err
	})
}

func noKeeping(r Record) error {
	return api.Errorf(api.CodePrecondition, "volume %q cannot be kept: it is %s", r.ID, r.State).WithHint("make a new one from a snapshot")
}
