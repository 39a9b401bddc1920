package volume

import (
	"context"
	"errors"
	"fmt"
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
// a copy takes none. A snapshot whose chunks would find no room is not begun.
func (s *Store) lendCopy(v *volume, id string) (done func(), err error) {
	bytes, err := s.chunksOf(v)
	if !s.shares {
		bytes += v.disk.Allocated()
	}
	if err == nil {
		done, err = s.lend(s.copyOf(id)+".part", bytes)
	}
	if err != nil {
		return nil, fmt.Errorf("volume %q cannot be copied for a snapshot: %w", v.id, err)
	}
	return done, nil
}

// chunksOf is about how much of this disk the store takes for one more snapshot:
// nothing, if it is elsewhere, else what has come since the one before. Encrypted files
// do not get smaller.
func (s *Store) chunksOf(v *volume) (int64, error) {
	if beside, err := s.beside(s.cfg.SnapshotDir); err != nil || !beside {
		return 0, err
	}
	r := v.now()
	before := int64(0)
	if i := slices.IndexFunc(r.Snapshots, func(o Snapshot) bool { return o.Status == api.SnapshotCreated }); i >= 0 {
		before = r.Snapshots[i].Size
	}
	return max(0, v.disk.Allocated()-before), nil
}

func onDemand(all []Snapshot) (n int) {
	for _, one := range all {
		if !one.Scheduled && one.Status != api.SnapshotFailed {
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

// expire deletes the volume's snapshots that are older than they are to be kept.
func (s *Store) expire(ctx context.Context, v *volume, now time.Time) error {
	r := v.now()
	var errs []error
	for _, one := range r.Snapshots {
		if one.due(r.State, now, s.cfg.Day) {
			errs = append(errs, s.deleteSnapshot(ctx, v, one.ID))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if r := v.now(); r.State == api.VolumeDestroyed && len(r.Snapshots) == 0 {
		return s.forget(ctx, v)
	}
	return nil
}

// due says that a snapshot is to be deleted. One that failed shows why; of a volume
// that is destroyed nobody asks.
func (s *Snapshot) due(state string, now time.Time, day time.Duration) bool {
	switch {
	case s.Status == api.SnapshotCreating:
		return false
	case s.Status == api.SnapshotFailed && state == api.VolumeDestroyed:
		return true
	}
	return now.Sub(s.CreatedAt) >= time.Duration(s.Retention)*day
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
