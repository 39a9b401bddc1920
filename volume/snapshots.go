package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/volume/snapshot"
)

// Snapshots returns the snapshots of a volume of the app, newest first, also of one
// that was destroyed.
func (s *Store) Snapshots(_ context.Context, app, id string) ([]api.VolumeSnapshot, error) {
	v, err := s.find(app, id)
	if err != nil {
		return nil, err
	}
	r := v.now()
	return r.summary().Snapshots, nil
}

// Snapshot takes a snapshot. When it returns, the volume as it was is on disk; the
// rest is done in the background, also after a crash.
func (s *Store) Snapshot(ctx context.Context, app, id string) (out api.VolumeSnapshot, err error) {
	v, err := s.there(app, id)
	if err != nil {
		return out, err
	}
	return onTurn(ctx, s, v, func(ctx context.Context) (api.VolumeSnapshot, error) {
		one, err := s.take(ctx, v, false)
		return one.shown(v.id), err
	})
}

// take copies the volume as it is now, and has the copy sent. The turn is held.
func (s *Store) take(ctx context.Context, v *volume, scheduled bool) (Snapshot, error) {
	r := v.now()
	if r.State != api.VolumeCreated && r.State != api.VolumePendingDestroy {
		return Snapshot{}, api.Errorf(api.CodePrecondition, "volume %q cannot be snapshotted: it is %s", v.id, r.State)
	}
	if i := slices.IndexFunc(r.Snapshots, func(o Snapshot) bool { return o.Status == api.SnapshotCreating }); i >= 0 {
		return Snapshot{}, api.Errorf(api.CodeConflict, "snapshot %s of volume %q is not complete yet", r.Snapshots[i].ID, v.id).
			WithHint("wait until it is; perigee volumes snapshots list shows that")
	}
	if n := onDemand(r.Snapshots); !scheduled && n >= maxSnapshots {
		return Snapshot{}, api.Errorf(api.CodeInvalid, "volume %q has %d snapshots that were asked for; it cannot have more", v.id, n).
			WithHint("they go when their time is over; snapshot_retention makes that of new ones shorter")
	}
	size, err := v.disk.Size()
	if err != nil {
		return Snapshot{}, err
	}
	one := Snapshot{ID: newSnapshotID(), Status: api.SnapshotCreating, VolumeSize: size, CreatedAt: time.Now().UTC(), Retention: r.Retention, Scheduled: scheduled}
	done, err := s.lendCopy(v, one.ID)
	if err != nil {
		return Snapshot{}, err
	}
	defer done()
	if err := s.save(ctx, v, func(r *Record) { r.Snapshots = slices.Insert(r.Snapshots, 0, one) }); err != nil {
		return Snapshot{}, err
	}
	if err := v.copy(ctx, s.copyOf(one.ID)); err != nil {
		after, cancel := quiet(ctx)
		defer cancel()
		return Snapshot{}, errors.Join(err, s.save(after, v, func(r *Record) { r.drop(one.ID) }))
	}
	s.send(v, one.ID)
	return one, nil
}

// lendCopy keeps room for a copy of all that the volume uses; where blocks are shared
// a copy takes none.
func (s *Store) lendCopy(v *volume, id string) (done func(), err error) {
	if s.shares {
		return func() {}, nil
	}
	done, err = s.lend(s.copyOf(id)+".part", v.disk.Allocated())
	if err != nil {
		return nil, fmt.Errorf("volume %q cannot be copied for a snapshot: %w", v.id, err)
	}
	return done, nil
}

func onDemand(all []Snapshot) (n int) {
	for _, one := range all {
		if !one.Scheduled {
			n++
		}
	}
	return n
}

// copy copies the volume as it is. The turn is held; meanwhile its machine may be
// started anew, if the volume was mounted before.
func (v *volume) copy(ctx context.Context, to string) error {
	v.setCopying(true)
	defer v.setCopying(false)
	return v.disk.Copy(ctx, to)
}

func (v *volume) setCopying(on bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.copying = on
}

func (s *Store) copyOf(id string) string { return filepath.Join(s.copies(), id) }

// drop forgets a snapshot.
func (r *Record) drop(id string) {
	r.Snapshots = slices.DeleteFunc(r.Snapshots, func(o Snapshot) bool { return o.ID == id })
}

// send brings the copy into the store in the background, unless that is under way.
func (s *Store) send(v *volume, id string) {
	if _, busy := v.sending.LoadOrStore(id, true); busy {
		return
	}
	ok := s.spawn(func() {
		defer v.sending.Delete(id)
		v.storing.Lock()
		defer v.storing.Unlock()
		err := s.sendNow(s.ctx, v, id)
		switch {
		case s.ctx.Err() != nil:
		case err != nil: // Run tries again
			s.warn("cannot send a snapshot yet", v, err)
			s.complain(s.ctx, v, snapshotProblem+"snapshot "+id+" cannot be stored yet: "+err.Error())
		default:
			s.solve(s.ctx, v, snapshotProblem)
		}
	})
	if !ok {
		v.sending.Delete(id)
	}
}

func (s *Store) sendNow(ctx context.Context, v *volume, id string) error {
	r := v.now()
	one := r.snapshot(id)
	if one == nil || one.Status != api.SnapshotCreating {
		return nil
	}
	m := &snapshot.Manifest{ID: id, Volume: v.id, Name: r.Name, App: r.AppID, Org: r.Org, SizeGB: r.SizeGB, CreatedAt: one.CreatedAt}
	key, err := s.sealer.open(r.ID, r.Key)
	if err != nil {
		return err
	}
	m.Key = key[:]
	if err := s.cfg.Snapshots.Write(ctx, m, s.copyOf(id), nil); err != nil {
		return err
	}
	err = s.save(ctx, v, func(r *Record) {
		if one := r.snapshot(id); one != nil {
			one.Status, one.Size, one.Digest, one.Reason = api.SnapshotCreated, m.Size(), m.Digest(), ""
		}
	})
	return errors.Join(err, removeFile(s.copyOf(id)))
}

// expire deletes the volume's snapshots that are older than they are to be kept.
func (s *Store) expire(ctx context.Context, v *volume, now time.Time) error {
	r := v.now()
	var errs []error
	for _, one := range r.Snapshots {
		if one.Status == api.SnapshotCreating || now.Sub(one.CreatedAt) < time.Duration(one.Retention)*s.cfg.Day {
			continue
		}
		errs = append(errs, s.deleteSnapshot(ctx, v, one.ID))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if r := v.now(); r.State == api.VolumeDestroyed && len(r.Snapshots) == 0 {
		return s.forget(ctx, v)
	}
	return nil
}

// deleteSnapshot deletes a snapshot, unless one is being sent, which may take hours:
// then it is time enough later. Chunks that cannot be swept now are at the next
// deletion.
func (s *Store) deleteSnapshot(ctx context.Context, v *volume, id string) error {
	if !v.storing.TryLock() {
		return nil
	}
	defer v.storing.Unlock()
	err := s.cfg.Snapshots.Delete(ctx, v.id, id)
	if err != nil && !errors.Is(err, snapshot.ErrUnswept) {
		return fmt.Errorf("volume %q: %w", v.id, err)
	}
	if err != nil && ctx.Err() == nil {
		s.warn("snapshots that are deleted leave chunks", v, err)
		s.complain(ctx, v, snapshotProblem+err.Error())
	}
	return s.save(ctx, v, func(r *Record) { r.drop(id) })
}

// unsent are the snapshots whose copies are on disk and not in the store.
func (s *Store) unsent(v *volume) (ids []string) {
	r := v.now()
	for _, one := range r.Snapshots {
		if _, err := os.Stat(s.copyOf(one.ID)); one.Status == api.SnapshotCreating && err == nil {
			ids = append(ids, one.ID)
		}
	}
	return ids
}
