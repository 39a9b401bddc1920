package volume

import (
	"cmp"
	"errors"
	"path/filepath"
	"sync"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/volume/disk"
	"golang.org/x/sys/unix"
)

// rooms is what is promised of the node's disk and is in no record.
type rooms struct {
	sync.Mutex                  // held from the look at what is free until that is promised
	copies     map[string]int64 // files that are being written, and how large they may become
}

// promise lets keep write down that so many bytes more are promised, if they are
// there. Two cannot be promised the same.
func (s *Store) promise(more int64, keep func() error) error {
	s.rooms.Lock()
	defer s.rooms.Unlock()
	if err := s.room(more); err != nil {
		return err
	}
	return keep()
}

// lend promises a file so many bytes until it is written, or not.
func (s *Store) lend(path string, bytes int64) (done func(), err error) {
	err = s.promise(bytes, func() error { s.rooms.copies[path] = bytes; return nil })
	return func() {
		s.rooms.Lock()
		defer s.rooms.Unlock()
		delete(s.rooms.copies, path)
	}, err
}

// room fails if so many more bytes cannot be promised: what all volumes, and what
// machines keep, may still grow to fits on the disk, or writes would fail in the middle of somebody's file.
func (s *Store) room(more int64) error {
	left, err := s.unpromised()
	if err != nil || more <= left {
		return err
	}
	return api.Errorf(api.CodeCapacity, "node %q has no room for %d GiB more of volumes: %d GiB are neither used nor promised", s.cfg.Node, (more+disk.GiB-1)/disk.GiB, max(0, left)/disk.GiB).
		WithField("size_gb").WithHint("choose another region, or a larger disk")
}

// unpromised is how much of the node's disk is neither used nor promised. rooms is
// locked.
func (s *Store) unpromised() (int64, error) {
	left, err := s.cfg.free(s.cfg.Dir)
	if err != nil {
		return 0, err
	}
	for _, v := range s.all() {
		left -= s.mayTake(v)
	}
	left -= s.layersMayTake()
	for path, bytes := range s.rooms.copies {
		left -= max(0, bytes-disk.Taken(path))
	}
	return left, nil
}

// mayTake is how much more of the disk a volume may come to take. Blocks that it
// shares are taken anew when they are written.
func (s *Store) mayTake(v *volume) (bytes int64) {
	r := v.now()
	if s.shares {
		for _, id := range s.unsent(v) {
			bytes += disk.Taken(s.copyOf(id))
		}
	}
	size := int64(r.SizeGB) * disk.GiB
	switch {
	case r.State == api.VolumeDestroyed:
		return bytes
	case r.Shares:
		return bytes + size
	}
	return bytes + max(0, size-v.disk.Allocated())
}

// Spare fails if a file of so many bytes in the folder would take what is promised to
// volumes. Folders of other file systems do as they like.
func (s *Store) Spare(dir string, bytes int64) error {
	if beside, err := s.beside(dir); err != nil || !beside {
		return err
	}
	s.rooms.Lock()
	defer s.rooms.Unlock()
	return s.room(bytes)
}

// beside says that a folder, which may not be made yet, is on the volumes' disk.
func (s *Store) beside(dir string) (bool, error) {
	if dir == "" {
		return false, nil
	}
	var here, there unix.Stat_t
	err := unix.Stat(dir, &there)
	for errors.Is(err, unix.ENOENT) && dir != filepath.Dir(dir) {
		dir = filepath.Dir(dir)
		err = unix.Stat(dir, &there)
	}
	err = cmp.Or(err, unix.Stat(s.cfg.Dir, &here))
	return err == nil && here.Dev == there.Dev, err
}
