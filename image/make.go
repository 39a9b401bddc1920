package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/perigee-run/perigee/image/blob"
	"github.com/perigee-run/perigee/image/manifest"
	"golang.org/x/sync/errgroup"
)

// formatVersion changes when the same layers would give another rootfs.
const formatVersion = "1"

// fetchAtOnce is how many layers are downloaded at a time.
const fetchAtOnce = 4

// make fetches what an image needs, flattens it and records it.
func (s *Store) make(ctx context.Context, from origin, ref reference, found resolved, tell func(Progress)) error {
	pins := &pinned{s: s}
	defer pins.release()
	m := found.manifest
	pins.add(found.digest)
	for _, d := range m.Refers() {
		pins.add(d.Digest)
	}
	config, err := s.config(ctx, from, m)
	if err != nil {
		return err
	}
	rec := &record{
		Digest: found.digest, Created: time.Now(), used: time.Now(),
		Ref: ref.String(), Refs: with(nil, ref.String()), Indexes: with(nil, found.indexes...),
		RootfsKey: s.rootfsKey(config), Config: runConfig(config.Config), Labels: config.Config.Labels,
	}
	for _, d := range m.Refers() {
		rec.Blobs = append(rec.Blobs, d.Digest)
	}
	if err := s.fill(ctx, from, m, config, rec, tell); err != nil {
		return err
	}
	return s.publish(rec)
}

// config fetches an image's configuration.
func (s *Store) config(ctx context.Context, from origin, m manifest.Manifest) (*v1.ConfigFile, error) {
	if m.Config.Size > manifest.MaxSize {
		return nil, fmt.Errorf("the image's configuration is larger than %d bytes", manifest.MaxSize)
	}
	if err := s.fetch(ctx, from, *m.Config, func(int64) {}); err != nil {
		return nil, err
	}
	content, err := s.blobs.Read(m.Config.Digest, manifest.MaxSize)
	if err != nil {
		return nil, err
	}
	return m.ParseConfig(content, s.arch)
}

// rootfsKey names the rootfs that layers give. Images that differ only in how
// they are run share it.
func (s *Store) rootfsKey(c *v1.ConfigFile) string {
	content, _ := json.Marshal(struct { // of strings: it cannot fail
		Format, WorkingDir string
		Layers             []v1.Hash
		Overrides          map[string][]byte
		Xattrs             bool
	}{formatVersion, c.Config.WorkingDir, c.RootFS.DiffIDs, s.cfg.Overrides, s.cfg.Xattrs})
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

// fill makes the rootfs of rec, or takes the one that another image has.
func (s *Store) fill(ctx context.Context, from origin, m manifest.Manifest, config *v1.ConfigFile, rec *record, tell func(Progress)) error {
	if s.sharesRootfs(rec) {
		if err := s.prove(ctx, from, m); err != nil {
			return err
		}
	}
	if s.shareRootfs(rec) {
		return nil
	}
	if err := s.EnsureSpace(ctx, s.estimate(from, m)); err != nil {
		return err
	}
	track := newTracker(m.Layers, tell)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(fetchAtOnce + 1)
	ready := make([]chan struct{}, len(m.Layers))
	for i := range ready {
		ready[i] = make(chan struct{})
	}
	group.Go(func() error {
		return s.flatten(ctx, flattening{m: m, config: config, rec: rec, track: track, ready: ready})
	})
	for i, d := range m.Layers {
		group.Go(func() error {
			err := s.fetch(ctx, from, d, func(n int64) { track.add(i, PhaseDownloading, n) })
			if err == nil {
				close(ready[i])
			}
			return err
		})
	}
	return group.Wait()
}

// sharesRootfs reports whether there is an image with the same layers.
func (s *Store) sharesRootfs(rec *record) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.twin(rec) != nil
}

// shareRootfs takes the rootfs of an image with the same layers.
func (s *Store) shareRootfs(rec *record) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	other := s.twin(rec)
	if other == nil {
		return false
	}
	rec.Size, rec.Dropped, rec.Passwd, rec.Group = other.Size, other.Dropped, other.Passwd, other.Group
	s.pins[pinRootfs(rec.RootfsKey)]++
	return true
}

// twin is an image whose rootfs the layers of rec would give. It goes by the layers
// themselves: what a configuration says of them has not been looked at. s.mu is held.
func (s *Store) twin(rec *record) *record {
	for _, other := range s.images {
		if other.RootfsKey == rec.RootfsKey && slices.Equal(other.layers(), rec.layers()) {
			return other
		}
	}
	return nil
}

// pinRootfs is the name under which a rootfs is pinned until its record exists.
func pinRootfs(key string) string { return "rootfs:" + key }

// estimate is about how many bytes an image will take: the blobs that are not
// here and the rootfs, for which compressed layers are taken times two.
func (s *Store) estimate(from origin, m manifest.Manifest) int64 {
	var need int64
	for _, d := range m.Layers {
		if _, here := s.blobs.Stat(d.Digest); !here || !from.vouches(d.Digest) {
			need += min(d.Size, s.cfg.MaxSize)
		}
		unpacked := min(d.Size, s.cfg.MaxSize)
		if d.MediaType != manifest.OCILayer {
			unpacked *= 2
		}
		need += unpacked
	}
	return need
}

// publish makes a record visible.
func (s *Store) publish(rec *record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.unpinRootfs(rec.RootfsKey)
	if s.images[rec.Digest] != nil {
		return nil
	}
	if err := s.save(rec); err != nil {
		return err
	}
	s.images[rec.Digest] = rec
	s.cfg.Logger.Info("image is ready", "digest", rec.Digest, "bytes", rec.Size)
	return nil
}

// unpinRootfs undoes what flatten and shareRootfs did. s.mu is held.
func (s *Store) unpinRootfs(key string) {
	if s.pins[pinRootfs(key)]--; s.pins[pinRootfs(key)] <= 0 {
		delete(s.pins, pinRootfs(key))
	}
}

// fetch brings one blob into the store. What is there already was verified when
// it came, and is downloaded all the same if its origin does not vouch for it.
func (s *Store) fetch(ctx context.Context, from origin, d manifest.Descriptor, moved func(int64)) error {
	if size, ok := s.blobs.Stat(d.Digest); ok && size == d.Size {
		if from.vouches(d.Digest) {
			s.blobs.Touch(d.Digest)
			return nil
		}
	} else if ok {
		return fmt.Errorf("blob %s has %d bytes, the manifest says %d: %w", d.Digest, size, d.Size, blob.ErrMismatch)
	}
	if d.Size > s.cfg.MaxSize {
		return fmt.Errorf("blob %s is larger than %d bytes", d.Digest, s.cfg.MaxSize)
	}
	key := "blob:" + from.key() + " " + d.Digest
	return s.flights.do(ctx, key, func(p Progress) { moved(p.Done) }, func(ctx context.Context, tell func(Progress)) error {
		return s.download(ctx, from, d, tell)
	})
}

// attempts is how often a download that broke off is begun.
const attempts = 3

func (s *Store) download(ctx context.Context, from origin, d manifest.Descriptor, tell func(Progress)) error {
	var err error
	for n := range attempts {
		if n > 0 {
			s.cfg.Logger.Info("downloading a blob again", "digest", d.Digest, "error", err)
		}
		if err = s.downloadOnce(ctx, from, d, tell); err == nil || ctx.Err() != nil || !passing(err) {
			return err
		}
	}
	return err
}

// brokenOff marks a download that ended early and may work when begun again.
type brokenOff struct{ error }

func (e brokenOff) Unwrap() error { return e.error }

func passing(err error) bool { return errors.As(err, new(brokenOff)) }

func (s *Store) downloadOnce(ctx context.Context, from origin, d manifest.Descriptor, tell func(Progress)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r, err := from.blob(ctx, d.Digest)
	if err != nil {
		return err
	}
	defer r.Close()
	w, err := s.blobs.Create()
	if err != nil {
		return err
	}
	defer w.Abort()
	if err := copyBlob(w, watch(r, cancel), d.Size, tell); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return brokenOff{fmt.Errorf("cannot download %s: %w", d.Digest, err)}
	}
	if err := w.Commit(d.Digest, d.Size); err != nil {
		return err
	}
	s.sent(from.key(), d.Digest)
	return nil
}
