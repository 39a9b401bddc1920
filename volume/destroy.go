package volume

import (
	"context"
	"time"

	"github.com/perigee-run/perigee/api"
)

// Destroy marks a volume that no machine has: a day later it is gone, with now at
// once. Its snapshots stay for as long as they are kept, but with now none that could
// not be stored so far. One that is marked already stays so.
func (s *Store) Destroy(ctx context.Context, app, id string, now bool) (out api.Volume, err error) {
	v, err := s.there(app, id)
	if err != nil {
		return out, err
	}
	return onTurn(ctx, s, v, func(ctx context.Context) (out api.Volume, err error) {
		r := v.now()
		if r.Machine != "" {
			return out, api.Errorf(api.CodePrecondition, "volume %q is attached to machine %s", id, r.Machine).WithHint("destroy the machine first")
		}
		if now {
			if err := s.abandon(ctx, v); err != nil {
				return out, err
			}
		}
		if err := s.mark(ctx, v); err != nil {
			return out, err
		}
		out = s.look(v)
		if !now {
			return out, nil
		}
		out.State = api.VolumeDestroyed
		return out, s.end(ctx, v)
	})
}

// mark lets a volume end in a day.
func (s *Store) mark(ctx context.Context, v *volume) error {
	if v.now().State != api.VolumeCreated {
		return nil
	}
	at := time.Now().UTC().Add(s.cfg.Day)
	return s.save(ctx, v, func(r *Record) { r.State, r.DestroyAt = api.VolumePendingDestroy, &at })
}

// DestroyAll marks all of the app's volumes, also those that a machine had: the app
// is being destroyed, its machines are gone.
func (s *Store) DestroyAll(ctx context.Context, app string) error {
	for _, v := range s.all() {
		if v.now().App != app {
			continue
		}
		err := s.onTurn(ctx, v, func(ctx context.Context) error {
			if err := s.release(ctx, v); err != nil {
				return err
			}
			return s.mark(ctx, v)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Keep takes Destroy back, while the volume is there. With orphans it may be one of an
// app of the same org that was destroyed, and is this app's then.
func (s *Store) Keep(ctx context.Context, app, id string, orphans bool) (out api.Volume, err error) {
	v, err := s.there(app, id)
	if orphans && api.IsCode(err, api.CodeNotFound) {
		return s.bequeath(ctx, app, id)
	}
	if err != nil {
		return out, err
	}
	return onTurn(ctx, s, v, func(ctx context.Context) (out api.Volume, err error) {
		switch r := v.now(); r.State {
		case api.VolumeCreated:
		case api.VolumePendingDestroy:
			if err := s.save(ctx, v, func(r *Record) { r.State, r.DestroyAt = api.VolumeCreated, nil }); err != nil {
				return out, err
			}
		default:
			return out, noKeeping(r)
		}
		return s.look(v), nil
	})
}

// destroyNow is end for a volume whose turn is free.
func (s *Store) destroyNow(ctx context.Context, v *volume) error {
	if err := v.take(ctx); err != nil {
		return err
	}
	defer v.give()
	return s.end(ctx, v)
}

// end removes the volume's files, then its record, or what only they needed of it:
// as long as there are snapshots it says which. The turn is held. Once the wish is
// on disk, a crash only delays it.
func (s *Store) end(ctx context.Context, v *volume) error {
	if err := s.save(ctx, v, func(r *Record) { r.State, r.DestroyAt = api.VolumeDestroying, nil }); err != nil {
		return err
	}
	if err := v.disk.Remove(); err != nil {
		return err
	}
	if len(v.now().Snapshots) == 0 {
		return s.forget(ctx, v)
	}
	return s.save(ctx, v, func(r *Record) {
		r.State, r.Key, r.Growing, r.Problem, r.AutoBackup = api.VolumeDestroyed, nil, false, "", false
	})
}
