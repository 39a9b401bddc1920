package image

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/perigee-run/perigee/image/blob"
	"github.com/perigee-run/perigee/image/erofs"
)

const (
	recordExt = ".json"
	rootfsExt = ".erofs"
)

// record is what the store remembers of an image, as JSON in images/<hex>.json.
// The file's time is the last use.
type record struct {
	Digest    string            `json:"digest"`
	Ref       string            `json:"ref"`  // the last one that led here
	Refs      map[string]bool   `json:"refs"` // all that lead here
	Indexes   map[string]bool   `json:"indexes,omitempty"`
	From      map[string]bool   `json:"from,omitempty"` // repositories, with registry, that were seen to have it
	Blobs     []string          `json:"blobs"`          // configuration and layers
	RootfsKey string            `json:"rootfs"`
	Size      int64             `json:"size"`
	Dropped   int               `json:"dropped_xattrs,omitempty"`
	Config    RunConfig         `json:"config"`
	Labels    map[string]string `json:"labels,omitempty"`
	Passwd    []byte            `json:"passwd,omitempty"`
	Group     []byte            `json:"group,omitempty"`
	Created   time.Time         `json:"created"`

	used time.Time
}

func (s *Store) recordPath(digest string) string {
	return s.path(imagesDir, blob.Hex(digest)+recordExt)
}

func (s *Store) rootfsPath(key string) string { return s.path(rootfsDir, key+rootfsExt) }

// loadRecords reads all records. One whose rootfs is not whole is dropped: the
// image is made again when it is next asked for.
func (s *Store) loadRecords() error {
	entries, err := os.ReadDir(s.path(imagesDir))
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := s.path(imagesDir, e.Name())
		r, err := readRecord(path)
		if err == nil {
			err = s.checkRootfs(r)
		}
		if err != nil {
			s.cfg.Logger.Warn("dropping an image that is not whole", "record", e.Name(), "error", err)
			if err := os.Remove(path); err != nil {
				return err
			}
			continue
		}
		s.images[r.Digest] = r
	}
	return nil
}

func readRecord(path string) (*record, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	r := &record{used: st.ModTime()}
	if err := json.Unmarshal(content, r); err != nil {
		return nil, err
	}
	if name := strings.TrimSuffix(filepath.Base(path), recordExt); !blob.Valid(r.Digest) || blob.Hex(r.Digest) != name {
		return nil, fmt.Errorf("the record is of %q", r.Digest)
	}
	return r, nil
}

func (s *Store) checkRootfs(r *record) error {
	st, err := os.Stat(s.rootfsPath(r.RootfsKey))
	if err == nil && (st.Size() != r.Size || r.Size%erofs.BlockSize != 0) {
		err = fmt.Errorf("the rootfs has %d bytes, not %d", st.Size(), r.Size)
	}
	return err
}

// save writes a record durably. s.mu is held, or r is not yet shared.
func (s *Store) save(r *record) error {
	content, err := json.Marshal(r)
	if err == nil {
		err = s.blobs.WriteFile(s.recordPath(r.Digest), content)
	}
	if err != nil {
		return fmt.Errorf("cannot keep the record of image %s: %w", short(r.Digest), err)
	}
	return nil
}

// adopt notes that a reference and indexes lead to an image that is here, and
// that it is used. A tag leads to one image only.
func (s *Store) adopt(digest string, ref reference, indexes []string) (Image, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.images[digest]
	if r == nil {
		return Image{}, false, nil
	}
	if err := s.note(r, ref, indexes); err != nil {
		return Image{}, true, err
	}
	s.touch(r)
	return s.image(r, ref.String()), true, nil
}

// note adds a reference and indexes to a record. s.mu is held.
func (s *Store) note(r *record, ref reference, indexes []string) error {
	next := *r
	next.Indexes, next.From = with(r.Indexes, indexes...), with(r.From, ref.home())
	if ref.tag != "" {
		next.Ref, next.Refs = ref.String(), with(r.Refs, ref.String())
	}
	if next.Ref != r.Ref || len(next.Refs) != len(r.Refs) || len(next.Indexes) != len(r.Indexes) || len(next.From) != len(r.From) {
		if err := s.save(&next); err != nil {
			return err
		}
		*r = next
	}
	return s.forget(ref.String(), r)
}

// forget takes a reference away from all images but one. s.mu is held.
func (s *Store) forget(ref string, but *record) error {
	for _, r := range s.images {
		if r == but {
			continue
		}
		if err := s.change(r, func(next *record) { delete(next.Refs, ref) }); err != nil {
			return err
		}
	}
	return nil
}

// ForgetRepository drops the built-in registry's repository of an app that was
// destroyed, with all below it: an app that takes the name finds none of its images,
// by a tag or by a digest. Machines elsewhere that run one keep it.
func (s *Store) ForgetRepository(name string) error {
	if err := s.repos.Drop(name); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	below := func(repo string) bool { return repo == name || strings.HasPrefix(repo, name+"/") }
	for _, r := range s.images {
		err := s.change(r, func(next *record) {
			maps.DeleteFunc(next.Refs, func(ref string, _ bool) bool {
				repo, ok := s.BuiltIn(ref)
				return ok && below(repo)
			})
			maps.DeleteFunc(next.From, func(home string, _ bool) bool {
				repo, ok := strings.CutPrefix(home, "/")
				return ok && below(repo)
			})
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// change takes references or homes away from a record, which is no use of it. s.mu is held.
func (s *Store) change(r *record, take func(next *record)) error {
	next := *r
	next.Refs, next.From = maps.Clone(r.Refs), maps.Clone(r.From)
	if take(&next); len(next.Refs) == len(r.Refs) && len(next.From) == len(r.From) {
		return nil
	}
	if err := s.save(&next); err != nil {
		return err
	}
	*r = next
	_ = os.Chtimes(s.recordPath(r.Digest), r.used, r.used)
	return nil
}

// has reports whether the reference's repository was seen to have the image: who knows
// a digest alone gets nothing by naming a repository of their own.
func (s *Store) has(r *record, ref reference) bool {
	if r.From[ref.home()] {
		return true
	}
	if ref.local {
		_, _, ok := s.repos.Manifest(ref.repository, ref.digest)
		return ok
	}
	for known := range with(r.Refs, r.Ref) { // records of before From was kept
		if strings.HasPrefix(known, ref.home()+":") || strings.HasPrefix(known, ref.home()+"@") {
			return true
		}
	}
	return false
}

func with(set map[string]bool, add ...string) map[string]bool {
	next := maps.Clone(set)
	if next == nil {
		next = map[string]bool{}
	}
	for _, a := range add {
		next[a] = true
	}
	return next
}

// image is a record as callers see it, under the reference they asked for.
func (s *Store) image(r *record, asked string) Image {
	img := Image{
		Ref: asked, Digest: r.Digest, Labels: r.Labels, Config: r.Config,
		Rootfs: s.rootfsPath(r.RootfsKey), Size: r.Size, DroppedXattrs: r.Dropped,
		Created: r.Created, LastUsed: r.used,
	}
	if ref, err := s.parse(asked); err == nil {
		img.Registry, img.Repository, img.Tag = ref.registry, ref.repository, ref.tag
	}
	return img
}

// runConfig takes from an image's configuration what says how to run it.
func runConfig(c v1.Config) RunConfig {
	run := RunConfig{
		Entrypoint: c.Entrypoint, Cmd: c.Cmd, Env: c.Env, User: c.User, WorkingDir: c.WorkingDir,
		StopSignal: c.StopSignal, Shell: c.Shell,
		ExposedPorts: slices.Sorted(maps.Keys(c.ExposedPorts)),
		Volumes:      slices.Sorted(maps.Keys(c.Volumes)),
	}
	if h := c.Healthcheck; h != nil {
		run.Healthcheck = &Healthcheck{Test: h.Test, Interval: h.Interval, Timeout: h.Timeout, StartPeriod: h.StartPeriod, Retries: h.Retries}
	}
	return run
}
