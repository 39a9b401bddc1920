package volume

import (
	"context"
	"errors"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/volume/disk"
)

// Extend makes a volume larger. Where the kernel does not let it grow while it is
// used the answer says so: then it grows when its machine is started next.
func (s *Store) Extend(ctx context.Context, app, id string, req api.ExtendVolumeRequest) (out api.ExtendVolumeResponse, err error) {
	if err := checkSize(req.SizeGB); err != nil {
		return out, err
	}
	v, err := s.there(app, id)
	if err != nil {
		return out, err
	}
	return onTurn(ctx, s, v, func(ctx context.Context) (out api.ExtendVolumeResponse, err error) {
		r := v.now()
		switch {
		case r.State != api.VolumeCreated:
			return out, api.Errorf(api.CodePrecondition, "volume %q cannot be extended: it is %s", id, r.State)
		case req.SizeGB < r.SizeGB:
			return out, invalid("size_gb", "size_gb is %d; volume %q has %d, and a volume never shrinks", req.SizeGB, id, r.SizeGB).
				WithHint("make a smaller volume and copy the files")
		}
		if err := s.grow(ctx, v, req.SizeGB); err != nil {
			return out, err
		}
		return api.ExtendVolumeResponse{Volume: s.look(v), NeedsRestart: v.now().Growing}, nil
	})
}

// grow makes the volume gb large, now or when it is mounted next. The wish is on
// disk first. The turn is held.
func (s *Store) grow(ctx context.Context, v *volume, gb int) error {
	r := v.now()
	if gb > r.SizeGB {
		err := s.promise(int64(gb-r.SizeGB)*disk.GiB, func() error {
			return s.save(ctx, v, func(r *Record) { r.SizeGB, r.Growing = gb, true })
		})
		if err != nil {
			return err
		}
	}
	return s.catchUpMounted(ctx, v)
}

// catchUpMounted is catchUp for a volume that may be in use. Where the kernel does not
// let it grow then, that is its problem until its machine is started next.
func (s *Store) catchUpMounted(ctx context.Context, v *volume) error {
	err := s.catchUp(ctx, v)
	if errors.Is(err, disk.ErrMounted) {
		s.complain(ctx, v, growthProblem+"it has its new size when its machine is started next: "+err.Error())
		return nil
	}
	return err
}

// growOn goes on with a growth that the kernel did not allow in use: it may by now.
func (s *Store) growOn(ctx context.Context, v *volume) {
	if r := v.now(); !r.Growing || !v.isOpen() {
		return
	}
	s.warn("a volume cannot grow yet", v, s.onTurn(ctx, v, func(ctx context.Context) error {
		if !v.isOpen() {
			return nil // it does when it is mounted
		}
		return s.catchUpMounted(ctx, v)
	}))
}

// catchUp makes the files as large as the record says. The turn is held.
func (s *Store) catchUp(ctx context.Context, v *volume) error {
	r := v.now()
	if !r.Growing {
		return nil
	}
	if err := v.disk.Grow(ctx, int64(r.SizeGB)*disk.GiB); err != nil {
		return err
	}
	return s.save(ctx, v, func(r *Record) {
		r.Growing = false
		r.solved(growthProblem)
		if u, ok := v.disk.Usage(); ok {
			r.Usage = u
		}
	})
}

// Update changes a volume's settings.
func (s *Store) Update(ctx context.Context, app, id string, req api.UpdateVolumeRequest) (out api.Volume, err error) {
	if err := checkRetention(req.SnapshotRetention); err != nil {
		return out, err
	}
	v, err := s.there(app, id)
	if err != nil {
		return out, err
	}
	err = s.save(ctx, v, func(r *Record) {
		if req.SnapshotRetention != nil {
			r.Retention = *req.SnapshotRetention
		}
		if req.AutoBackupEnabled != nil {
			r.AutoBackup = *req.AutoBackupEnabled
		}
	})
	return s.look(v), err
}

// outgrown reports how large the volume should be by now, as its machine's mount
// says, and whether that is more than it is.
func (r *Record) outgrown(u disk.Usage) (gb int, more bool) {
	x := r.Extend
	if x == nil || r.Growing || r.State != api.VolumeCreated || u.Blocks == 0 || (u.Blocks-u.Available)*100 < int64(x.Threshold)*u.Blocks {
		return 0, false
	}
	gb = r.SizeGB + x.AddGB
	if x.LimitGB > 0 {
		gb = min(gb, x.LimitGB)
	}
	return min(gb, maxSizeGB), min(gb, maxSizeGB) > r.SizeGB
}
