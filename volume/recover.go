package volume

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/volume/disk"
)

// recover removes what earlier runs have left half made, and lets writers go on
// that were held. Volumes whose end was begun come to it in Run.
func (s *Store) recover(ctx context.Context) error {
	for _, v := range s.all() {
		if v.disk.Thaw() {
			s.log.Info("the writers to a volume were held when the daemon ended; they go on", "volume", v.id)
		}
		r := v.now()
		switch {
		case r.State == api.VolumeCreating:
			if err := errors.Join(v.disk.Remove(), s.forget(ctx, v)); err != nil {
				return err
			}
		case r.State == api.VolumeCreated && !v.disk.Exists():
			s.log.Error("the files of a volume are gone", "volume", v.id, "dir", s.cfg.Dir)
			s.complain(ctx, v, "its files are gone from the node")
		default:
			s.dropUncopied(ctx, v)
		}
	}
	s.sweep()
	return nil
}

// dropUncopied forgets snapshots whose copy was not finished: nobody was told of
// them.
func (s *Store) dropUncopied(ctx context.Context, v *volume) {
	r := v.now()
	for _, one := range r.Snapshots {
		if _, err := os.Stat(s.copyOf(one.ID)); one.Status == api.SnapshotCreating && errors.Is(err, os.ErrNotExist) {
			s.warn("cannot forget a snapshot that was cut off", v, s.save(ctx, v, func(r *Record) { r.drop(one.ID) }))
		}
	}
}

// sweep removes files that have the form of what is being made. A folder without
// a record is left: it may be somebody's data.
func (s *Store) sweep() {
	for _, dir := range []string{s.cfg.Dir, s.copies()} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			s.log.Error("cannot read the volume directory", "error", err)
			continue
		}
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			switch {
			case halfForm.MatchString(e.Name()) && e.IsDir():
				err = disk.At(path).Remove()
			case halfForm.MatchString(e.Name()), dir == s.copies() && !s.wanted(e.Name()):
				err = os.Remove(path)
			case idForm.MatchString(e.Name()) && s.lookup(e.Name()) == nil:
				s.log.Warn("a volume has files here and no record; they are left alone", "dir", path)
			}
			if err != nil {
				s.log.Error("cannot remove what was half made", "path", path, "error", err)
			}
		}
	}
}

// wanted reports whether the copy of a snapshot is still to be sent.
func (s *Store) wanted(id string) bool {
	for _, v := range s.all() {
		r := v.now()
		if one := r.snapshot(id); one != nil && one.Status == api.SnapshotCreating {
			return true
		}
	}
	return false
}
