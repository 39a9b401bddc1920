package volume

import (
	"context"
	"errors"
	"os"
	"slices"
	"syscall"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/volume/snapshot"
)

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

// send brings the copy into the store in the background, unless that is under way.
func (s *Store) send(v *volume, id string) {
	ctx, cancel := context.WithCancel(s.ctx)
	if _, busy := v.sending.LoadOrStore(id, cancel); busy {
		cancel()
		return
	}
	ok := s.spawn(func() {
		defer cancel()
		defer v.sending.Delete(id)
		v.storing.Lock()
		defer v.storing.Unlock()
		err := s.sendNow(ctx, v, id)
		switch {
		case ctx.Err() != nil:
		case noRoom(err):
			s.warn("a snapshot is given up", v, err)
			s.warn("cannot give up a snapshot yet", v, s.giveUp(ctx, v, id, err.Error()))
		case err != nil: // Run tries again
			s.warn("cannot send a snapshot yet", v, err)
			s.delayed(ctx, v, id, err)
		default:
			s.solve(ctx, v, snapshotProblem)
		}
	})
	if !ok {
		cancel()
		v.sending.Delete(id)
	}
}

// noRoom says that the disk of the store is full: there is no use in trying again, for
// it is the copy, and what is stored of it already, that fills it.
func noRoom(err error) bool {
	return api.IsCode(err, api.CodeCapacity) || errors.Is(err, syscall.ENOSPC)
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
	if err := s.cfg.Snapshots.Write(ctx, m, s.copyOf(id)); err != nil {
		return err
	}
	err = s.save(ctx, v, func(r *Record) {
		if one := r.snapshot(id); one != nil {
			one.Status, one.Size, one.Digest, one.Reason = api.SnapshotCreated, m.Size(), m.Digest(), ""
		}
	})
	return errors.Join(err, removeFile(s.copyOf(id)))
}

// delayed notes why a snapshot is not stored yet, once: the next try may fail at another
// chunk, or under another number of the bucket's, and the log has those.
func (s *Store) delayed(ctx context.Context, v *volume, id string, cause error) {
	r := v.now()
	if one := r.snapshot(id); one == nil || one.Reason != "" {
		return
	}
	s.complain(ctx, v, snapshotProblem+"snapshot "+id+" cannot be stored yet: "+cause.Error())
	s.warn("cannot note why a snapshot is not stored", v, s.save(ctx, v, func(r *Record) {
		if one := r.snapshot(id); one != nil {
			one.Reason = cause.Error()
		}
	}))
}

// giveUp ends a snapshot that is not to be stored any more: what is stored of it goes,
// then the copy. It stays in the list, in place of one that failed before, to say why.
// A crash before that is written down leaves one to be sent, which ends here again.
// v.storing is locked.
func (s *Store) giveUp(ctx context.Context, v *volume, id, reason string) error {
	within, cancel := context.WithTimeout(ctx, s.cfg.patience) // the store may be away
	defer cancel()
	s.warn("a snapshot that is given up leaves chunks; its deletion removes them", v, s.cfg.Snapshots.Delete(within, v.id, id))
	s.complain(ctx, v, snapshotProblem+"snapshot "+id+" is given up: "+reason)
	err := s.save(ctx, v, func(r *Record) {
		r.Snapshots = slices.DeleteFunc(r.Snapshots, func(o Snapshot) bool { return o.Status == api.SnapshotFailed })
		if one := r.snapshot(id); one != nil {
			one.Status, one.Reason = api.SnapshotFailed, reason
		}
	})
	if err != nil {
		return err
	}
	return removeFile(s.copyOf(id))
}

// abandon gives up what of a volume that is to go at once could not be stored so far,
// and may never be. One that is on its way is not given up: somebody may wait for it.
// The turn is held.
func (s *Store) abandon(ctx context.Context, v *volume) error {
	r := v.now()
	for _, id := range s.unsent(v) {
		if r.snapshot(id).Reason == "" {
			return api.Errorf(api.CodeConflict, "volume %q cannot be destroyed at once: a snapshot of it is not complete yet", v.id).
				WithHint("wait until it is; perigee volumes snapshots list shows that")
		}
	}
	for _, id := range s.unsent(v) {
		if cancel, busy := v.sending.Load(id); busy {
			cancel.(context.CancelFunc)()
		}
		v.storing.Lock()
		err := s.giveUp(ctx, v, id, "its volume was destroyed before it could be stored")
		v.storing.Unlock()
		if err != nil {
			return err
		}
	}
	return nil
}
