package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sort"
	"strings"
	"time"

	"github.com/perigee-run/perigee/image/manifest"
	"github.com/perigee-run/perigee/image/registry"
	"golang.org/x/sys/unix"
)

// young is how long a blob that nothing refers to is kept: a push uploads the
// blobs first and their manifest last.
const young = time.Hour

// settling is how long an image is kept after its last use, because whoever
// pulled it may not yet say that it is in use.
const settling = 10 * time.Minute

// ErrInUse means that an image cannot be removed because something runs it or
// may go back to it.
var ErrInUse = errors.New("image is in use")

// Remove removes an image with its rootfs, its tags in the built-in registry
// and the blobs that nothing else needs. The error is ErrInUse when
// Config.InUse names it.
func (s *Store) Remove(ctx context.Context, digest string) error {
	inUse := s.cfg.InUse()
	s.collecting.Lock()
	defer s.collecting.Unlock()
	rec, ok := s.snapshot(digest)
	if !ok {
		return fmt.Errorf("cannot remove image %q: it is not on this node", digest)
	}
	if used(rec, inUse) {
		return fmt.Errorf("cannot remove image %q: %w", digest, ErrInUse)
	}
	c := &collection{s: s}
	if err := c.dropImage(rec); err != nil {
		return err
	}
	return c.sweep(ctx, blobsOf(rec))
}

// snapshot returns a record as it is now; what it points at never changes.
func (s *Store) snapshot(digest string) (record, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.find(digest); r != nil {
		return *r, true
	}
	return record{}, false
}

func contains(rec record, digest string) bool {
	for _, b := range rec.Blobs {
		if b == digest {
			return true
		}
	}
	return digest == rec.Digest || rec.Indexes[digest]
}

func used(rec record, inUse map[string]bool) bool {
	if inUse[rec.Digest] {
		return true
	}
	for i := range rec.Indexes {
		if inUse[i] {
			return true
		}
	}
	return false
}

// Collect removes what nothing needs, and then the least recently used images
// that are not in inUse, until wantFree bytes are free on the file system. What
// pulls, imports and pushes under way need is spared. Running out of things to
// remove is no error: see Collected.Free.
func (s *Store) Collect(ctx context.Context, inUse map[string]bool, wantFree int64) (Collected, error) {
	s.collecting.Lock()
	defer s.collecting.Unlock()
	c := &collection{s: s}
	err := c.run(ctx, inUse, wantFree)
	free, freeErr := freeBytes(s.cfg.Dir)
	c.sum.Free = free
	if c.sum.Images > 0 || c.sum.Blobs > 0 {
		s.cfg.Logger.Info("collected images", "images", c.sum.Images, "blobs", c.sum.Blobs, "bytes", c.sum.Bytes, "free", free)
	}
	return c.sum, errors.Join(err, freeErr)
}

// EnsureSpace makes need bytes available above Config.MinFree, by collection if
// it must, or says why it cannot.
func (s *Store) EnsureSpace(ctx context.Context, need int64) error {
	want := s.cfg.MinFree + need
	free, err := freeBytes(s.cfg.Dir)
	if err != nil || free >= want {
		return err
	}
	done, err := s.Collect(ctx, s.cfg.InUse(), want)
	if err != nil {
		return err
	}
	if done.Free < want {
		return fmt.Errorf("not enough space in %q: %d MiB are needed besides the %d MiB that stay free, %d MiB are free; the images left are in use or were in the last %v",
			s.cfg.Dir, need>>20, s.cfg.MinFree>>20, done.Free>>20, settling)
	}
	return nil
}

func freeBytes(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("cannot see how much space is free in %q: %w", dir, err)
	}
	return int64(st.Bavail) * st.Bsize, nil
}

// defaultMinFree is the smaller of 2 GiB and 5% of the file system.
func defaultMinFree(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, err
	}
	return min(2<<30, int64(st.Blocks)*st.Bsize/20), nil
}

// collection is one run; Store.collecting is held through it.
type collection struct {
	s    *Store
	sum  Collected
	refs map[string][]string // what manifests refer to, read once
}

func (c *collection) run(ctx context.Context, inUse map[string]bool, wantFree int64) error {
	if err := c.dropOrphans(); err != nil {
		return err
	}
	if err := c.sweepOld(ctx); err != nil {
		return err
	}
	for _, drop := range c.candidates(inUse) {
		free, err := freeBytes(c.s.cfg.Dir)
		if err != nil || free >= wantFree {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		freed, err := drop()
		if err != nil {
			return err
		}
		if err := c.sweep(ctx, freed); err != nil {
			return err
		}
	}
	return nil
}

// candidate removes one thing and returns the blobs that may be free now.
type candidate func() (map[string]bool, error)

// candidates are the images, and the manifests that were pushed and never run,
// that may go: the longest unused first.
func (c *collection) candidates(inUse map[string]bool) []candidate {
	type aged struct {
		when time.Time
		drop candidate
	}
	var all []aged
	pushed := c.s.repos.Pushed()
	c.s.mu.Lock()
	for _, rec := range c.s.images {
		if rec := *rec; !used(rec, inUse) && time.Since(rec.used) > settling {
			all = append(all, aged{rec.used, func() (map[string]bool, error) { return blobsOf(rec), c.dropImage(rec) }})
		}
	}
	for _, p := range pushed {
		if c.s.find(p.Digest) == nil && !inUse[p.Digest] && time.Since(p.When) > young {
			all = append(all, aged{p.When, func() (map[string]bool, error) { return c.dropPushed(p) }})
		}
	}
	c.s.mu.Unlock()
	sort.SliceStable(all, func(i, j int) bool { return all[i].when.Before(all[j].when) })
	drops := make([]candidate, 0, len(all))
	for _, a := range all {
		drops = append(drops, a.drop)
	}
	return drops
}

func blobsOf(rec record) map[string]bool {
	set := with(rec.Indexes, rec.Digest)
	return with(set, rec.Blobs...)
}

// dropImage forgets an image, in an order that a crash may cut anywhere: names
// first, then the record, then the rootfs. An image that work under way needs
// is left alone.
func (c *collection) dropImage(rec record) error {
	s := c.s
	if s.pinned(rec.Digest) {
		return nil
	}
	for _, p := range s.repos.Pushed() {
		if p.Digest == rec.Digest || rec.Indexes[p.Digest] {
			if err := s.repos.Delete(p.Repo, p.Digest); err != nil {
				return err
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.images[rec.Digest] == nil {
		return nil
	}
	if err := os.Remove(s.recordPath(rec.Digest)); err != nil {
		return fmt.Errorf("cannot remove the record of image %s: %w", short(rec.Digest), err)
	}
	delete(s.images, rec.Digest)
	c.sum.Images++
	return c.dropRootfs(rec.RootfsKey)
}

// dropRootfs removes a rootfs that no image has any more. s.mu is held.
func (c *collection) dropRootfs(key string) error {
	for _, r := range c.s.images {
		if r.RootfsKey == key {
			return nil
		}
	}
	if c.s.pins[pinRootfs(key)] > 0 {
		return nil
	}
	var st unix.Stat_t
	path := c.s.rootfsPath(key)
	if err := unix.Stat(path, &st); err == nil {
		c.sum.Bytes += st.Blocks * 512
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("cannot remove a rootfs: %w", err)
	}
	return nil
}

// dropOrphans removes rootfs whose record could not be written.
func (c *collection) dropOrphans() error {
	entries, err := os.ReadDir(c.s.path(rootfsDir))
	if err != nil {
		return err
	}
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	for _, e := range entries {
		if err := c.dropRootfs(strings.TrimSuffix(e.Name(), rootfsExt)); err != nil {
			return err
		}
	}
	return nil
}

// dropPushed forgets a manifest that was pushed and never run.
func (c *collection) dropPushed(p registry.Pushed) (map[string]bool, error) {
	freed := with(nil, c.refersTo(p.Digest)...)
	freed[p.Digest] = true
	c.sum.Images++
	return freed, c.s.repos.Delete(p.Repo, p.Digest)
}

// sweepOld removes the blobs that nothing refers to and nobody used lately.
func (c *collection) sweepOld(ctx context.Context) error {
	idle := map[string]bool{}
	err := c.s.blobs.Each(func(digest string, _ int64, used time.Time) error {
		if time.Since(used) > young {
			idle[digest] = true
		}
		return ctx.Err()
	})
	if err != nil {
		return err
	}
	return c.sweep(ctx, idle)
}

// sweep removes those of a set of blobs that nothing refers to.
func (c *collection) sweep(ctx context.Context, set map[string]bool) error {
	release := c.s.repos.Hold()
	defer release()
	referred := c.referred()
	for digest := range set {
		if err := ctx.Err(); err != nil {
			return err
		}
		if referred[digest] {
			continue
		}
		freed, err := c.s.removeBlob(digest)
		if err != nil {
			return err
		}
		if freed > 0 {
			c.sum.Blobs++
			c.sum.Bytes += freed
		}
	}
	return nil
}

// referred is every blob that an image or a pushed manifest needs. What an
// index lists are pushed manifests themselves.
func (c *collection) referred() map[string]bool {
	set := map[string]bool{}
	c.s.mu.Lock()
	for _, r := range c.s.images {
		for d := range blobsOf(*r) {
			set[d] = true
		}
	}
	c.s.mu.Unlock()
	for _, p := range c.s.repos.Pushed() {
		set[p.Digest] = true
		for _, d := range c.refersTo(p.Digest) {
			set[d] = true
		}
	}
	return set
}

// refersTo lists what a manifest points at. One that cannot be read points at
// nothing.
func (c *collection) refersTo(digest string) []string {
	if refs, ok := c.refs[digest]; ok {
		return refs
	}
	var refs []string
	if content, err := c.s.blobs.Read(digest, manifest.MaxSize); err == nil {
		if m, err := manifest.Parse(content, ""); err == nil {
			for _, d := range m.Refers() {
				refs = append(refs, d.Digest)
			}
		}
	}
	if c.refs == nil {
		c.refs = map[string][]string{}
	}
	c.refs[digest] = refs
	return refs
}

// removeBlob removes a blob unless work under way needs it, or work that ended
// since it was seen to be unreferred.
func (s *Store) removeBlob(digest string) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pins[digest] > 0 {
		return 0, nil
	}
	for _, r := range s.images {
		if contains(*r, digest) {
			return 0, nil
		}
	}
	return s.blobs.Remove(digest)
}

// pinned tells whether work under way needs a digest.
func (s *Store) pinned(digest string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pins[digest] > 0
}
