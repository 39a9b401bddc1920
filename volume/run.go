package volume

import (
	"context"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/volume/disk"
)

// Run does what is due by itself until ctx ends: what a crash cut off, volumes that
// grow, daily snapshots, and the end of what is not kept any longer. Volumes stay
// mounted when it returns. It is called once.
func (s *Store) Run(ctx context.Context) error {
	defer s.close()
	defer context.AfterFunc(ctx, s.stop)() // what is under way in the background may hold the end up
	select {
	case <-s.settled:
	case <-ctx.Done():
		return nil
	}
	tick := time.NewTicker(s.cfg.Every)
	defer tick.Stop()
	for {
		for _, v := range s.all() {
			s.keep(ctx, v)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// keep has ensure done beside other volumes', unless that of before is not done yet.
func (s *Store) keep(ctx context.Context, v *volume) {
	if ctx.Err() != nil || !v.keeping.TryLock() {
		return
	}
	ok := s.spawn(func() {
		defer v.keeping.Unlock()
		s.ensure(ctx, v, time.Now())
	})
	if !ok {
		v.keeping.Unlock()
	}
}

func (s *Store) close() {
	s.mu.Lock()
	s.closing = true
	s.mu.Unlock()
	s.stop()
	s.wg.Wait()
}

// ensure does for one volume what is due now. What fails is tried again.
func (s *Store) ensure(ctx context.Context, v *volume, now time.Time) {
	for _, id := range s.unsent(v) {
		s.send(v, id)
	}
	s.orphan(ctx, v)
	s.leave(ctx, v)
	s.noteUsage(ctx, v)
	r := v.now()
	switch r.State {
	case api.VolumeCreated:
		s.growOn(ctx, v)
		s.growByItself(ctx, v)
		if r.AutoBackup && now.Sub(later(r.BackedUp, r.CreatedAt)) >= s.cfg.Day {
			s.backUp(ctx, v, now)
		}
	case api.VolumePendingDestroy:
		if r.DestroyAt != nil && now.After(*r.DestroyAt) {
			s.warn("cannot destroy a volume yet", v, s.endDue(ctx, v, now))
		}
	case api.VolumeDestroying:
		s.warn("cannot destroy a volume yet", v, s.destroyNow(ctx, v))
	}
	s.warn("cannot delete old snapshots yet", v, s.expire(ctx, v, now))
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// endDue destroys a volume, unless it was kept meanwhile.
func (s *Store) endDue(ctx context.Context, v *volume, now time.Time) error {
	return s.onTurn(ctx, v, func(ctx context.Context) error {
		if r := v.now(); r.State != api.VolumePendingDestroy || r.DestroyAt == nil || now.Before(*r.DestroyAt) || len(s.unsent(v)) > 0 {
			return nil // a snapshot under way needs the key
		}
		return s.end(ctx, v)
	})
}

// orphan marks a volume whose app was destroyed while this node was away.
func (s *Store) orphan(ctx context.Context, v *volume) {
	r := v.now()
	if r.State != api.VolumeCreated || r.Machine != "" || !s.ownerless(r) {
		return
	}
	s.log.Info("a volume's app is gone", "volume", v.id, "app", r.App)
	s.warn("cannot destroy a volume yet", v, s.onTurn(ctx, v, func(ctx context.Context) error { return s.mark(ctx, v) }))
}

// noteUsage shows all nodes how full the volume is, when that has changed by a
// hundredth.
func (s *Store) noteUsage(ctx context.Context, v *volume) {
	u, ok := v.disk.Usage()
	if was := v.now().Usage; !ok || u.Blocks == was.Blocks && abs(u.Free-was.Free) <= u.Blocks/100 {
		return
	}
	s.warn("cannot note how full a volume is", v, s.save(ctx, v, func(r *Record) { r.Usage = u }))
}

func abs(n int64) int64 { return max(n, -n) }

// growByItself extends a volume that is fuller than its machine's mount allows.
func (s *Store) growByItself(ctx context.Context, v *volume) {
	u, ok := v.disk.Usage()
	r := v.now()
	if !ok || r.Extend == nil {
		return
	}
	if _, more := r.outgrown(u); !more {
		return
	}
	err := s.onTurn(ctx, v, func(ctx context.Context) error {
		r := v.now()
		gb, more := r.outgrown(u)
		if !more {
			return nil
		}
		s.log.Info("a volume grows by itself", "volume", v.id, "size_gb", gb, "was", r.SizeGB)
		return s.grow(ctx, v, gb)
	})
	if err != nil {
		s.warn("a volume cannot grow by itself", v, err)
		s.complain(ctx, v, growthProblem+"it cannot grow by itself: "+err.Error())
	}
}

// backUp takes the daily snapshot, or waits for its turn: the disk is slow enough with
// one copy.
func (s *Store) backUp(ctx context.Context, v *volume, now time.Time) {
	if !s.daily.TryLock() {
		return
	}
	defer s.daily.Unlock()
	err := s.onTurn(ctx, v, func(ctx context.Context) error {
		if _, err := s.take(ctx, v, true); err != nil {
			return err
		}
		return s.save(ctx, v, func(r *Record) { r.BackedUp = now.UTC() })
	})
	if err != nil && !api.IsCode(err, api.CodeConflict) {
		s.warn("cannot take the daily snapshot yet", v, err)
		s.complain(ctx, v, snapshotProblem+"the daily one cannot be taken: "+err.Error())
	}
}

// Check reports what this server lacks for volumes.
func (s *Store) Check() error { return disk.Check() }

// Leave unmounts all volumes: the node is being shut down, and its machines have
// ended. It works after Run has returned too.
func (s *Store) Leave(ctx context.Context) {
	for _, v := range s.all() {
		s.warn("a volume stays mounted", v, v.disk.Unmount(ctx))
	}
	for _, dir := range s.layers() {
		if err := disk.At(dir).Unmount(ctx); err != nil {
			s.log.Warn("the writable layer of a machine stays mounted", "dir", dir, "error", err)
		}
	}
	if err := disk.Unshare(s.cfg.Dir); err != nil {
		s.log.Warn("the folder of volumes stays mounted", "dir", s.cfg.Dir, "error", err)
	}
}
