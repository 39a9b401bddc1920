package image

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/perigee-run/perigee/image/blob"
	"github.com/perigee-run/perigee/image/registry"
)

// Store keeps the images of one node. All methods may be called at any time
// from any goroutine.
type Store struct {
	cfg     Config
	arch    string
	blobs   *blob.Store
	repos   *registry.Repos
	http    *outside
	flights flights

	collecting sync.Mutex // one collection at a time; taken before mu

	mu     sync.Mutex         // guards what follows
	images map[string]*record // by digest of the manifest
	pins   map[string]int     // digests that work under way needs
	had    map[string]bool    // registry and digest of blobs that were downloaded, see [Store.sent]
}

// The folders below Config.Dir.
const (
	blobsDir  = "blobs"  // content by digest
	reposDir  = "repos"  // what was pushed, see package registry
	imagesDir = "images" // one record per image
	rootfsDir = "rootfs" // EROFS files
	tmpDir    = "tmp"    // half-made things, emptied by New
)

// New opens the store in cfg.Dir and removes what a crash left half-made.
func New(cfg Config) (*Store, error) {
	if cfg.Dir == "" {
		return nil, errors.New("cannot open the image store: no folder is given")
	}
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	s := &Store{cfg: cfg, arch: runtime.GOARCH, http: newOutside(cfg.Private), images: map[string]*record{}, pins: map[string]int{}, had: map[string]bool{}}
	if err := s.open(); err != nil {
		return nil, fmt.Errorf("cannot open the image store in %q: %w", cfg.Dir, err)
	}
	return s, nil
}

func (c *Config) setDefaults() error {
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return fmt.Errorf("cannot open the image store: %w", err)
	}
	c.Dir = dir
	for path := range c.Overrides {
		if !strings.HasPrefix(path, "/") {
			return fmt.Errorf("cannot open the image store: the override %q is not an absolute path", path)
		}
	}
	if len(c.Hosts) == 0 {
		c.Hosts = []string{"perigee.local"}
	}
	if c.IsHost == nil {
		c.IsHost = func(string) bool { return false }
	}
	if c.Private == nil {
		c.Private = func() []netip.Prefix { return nil }
	}
	if c.Keychain == nil {
		c.Keychain = authn.DefaultKeychain
	}
	if c.MaxSize == 0 {
		c.MaxSize = 32 << 30
	}
	if c.MaxFiles == 0 {
		c.MaxFiles = 2_000_000
	}
	if c.MaxRatio == 0 {
		c.MaxRatio = 500
	}
	if c.InUse == nil {
		c.InUse = func() map[string]bool { return nil }
	}
	if c.Peers == nil {
		c.Peers = noPeers{}
	}
	if c.OnPush == nil {
		c.OnPush = func(string, string) {}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

func (s *Store) path(parts ...string) string {
	return filepath.Join(append([]string{s.cfg.Dir}, parts...)...)
}

// open makes the folders, empties tmp and reads the records.
func (s *Store) open() error {
	if err := os.RemoveAll(s.path(tmpDir)); err != nil {
		return err
	}
	for _, dir := range []string{tmpDir, imagesDir, rootfsDir} {
		if err := blob.MakeDir(s.path(dir)); err != nil {
			return err
		}
	}
	var err error
	if s.blobs, err = blob.Open(s.path(blobsDir), s.path(tmpDir)); err != nil {
		return err
	}
	if s.repos, err = registry.OpenRepos(s.path(reposDir), s.blobs); err != nil {
		return err
	}
	if s.cfg.MinFree == 0 {
		if s.cfg.MinFree, err = defaultMinFree(s.cfg.Dir); err != nil {
			return err
		}
	}
	if err := s.loadRecords(); err != nil {
		return err
	}
	return s.dropOrphanRootfs()
}

// dropOrphanRootfs removes rootfs that got their name just before a crash, and
// so have no record.
func (s *Store) dropOrphanRootfs() error {
	known := map[string]bool{}
	for _, r := range s.images {
		known[r.RootfsKey+rootfsExt] = true
	}
	entries, err := os.ReadDir(s.path(rootfsDir))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !known[e.Name()] {
			if err := os.Remove(s.path(rootfsDir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// Get finds an image that is ready on the node, by digest ("sha256:…", of the
// manifest or of an index it was chosen from) or by reference, which must be of a
// repository that was seen to have it. It asks no
// registry. A digest that is found counts as used.
func (s *Store) Get(digestOrRef string) (Image, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if blob.Valid(digestOrRef) {
		if r := s.find(digestOrRef); r != nil {
			s.touch(r)
			return s.image(r, r.Ref), true
		}
		return Image{}, false
	}
	ref, err := s.parse(digestOrRef)
	if err != nil {
		return Image{}, false
	}
	r := s.find(ref.digest)
	if ref.digest == "" {
		r = s.tagged(ref.String())
	}
	if r == nil || ref.digest != "" && !s.has(r, ref) {
		return Image{}, false
	}
	s.touch(r)
	return s.image(r, ref.String()), true
}

// find returns the record of a manifest or index. s.mu is held.
func (s *Store) find(digest string) *record {
	if r := s.images[digest]; r != nil || digest == "" {
		return r
	}
	for _, r := range s.images {
		if r.Indexes[digest] {
			return r
		}
	}
	return nil
}

// tagged returns the record that a reference by tag last led to. s.mu is held.
func (s *Store) tagged(ref string) *record {
	for _, r := range s.images {
		if r.Refs[ref] {
			return r
		}
	}
	return nil
}

// List returns the images that are ready on the node, the last used first.
func (s *Store) List() []Image {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]Image, 0, len(s.images))
	for _, r := range s.images {
		all = append(all, s.image(r, r.Ref))
	}
	sort.Slice(all, func(i, j int) bool {
		if !all[i].LastUsed.Equal(all[j].LastUsed) {
			return all[i].LastUsed.After(all[j].LastUsed)
		}
		return all[i].Digest < all[j].Digest
	})
	return all
}

// Registry serves the OCI distribution API below /v2/. auth is asked about each
// request: nil lets it pass, an error that is registry.ErrDenied answers 403,
// any other asks the client to log in. A nil auth lets everything pass.
func (s *Store) Registry(auth func(r *http.Request) error) http.Handler {
	return registry.New(registry.Config{
		Repos: s.repos, Blobs: s.blobs, Auth: auth, MaxBlob: s.cfg.MaxSize, Space: s.EnsureSpace,
		OnPush: func(repo, tag, digest string) {
			s.cfg.OnPush(s.cfg.Hosts[0]+"/"+repo+":"+tag, digest)
		},
	})
}

// Close lets go of idle connections to registries. The store may still be used.
func (s *Store) Close() { s.http.closeIdle() }

// pinned keeps digests from being collected until it is released.
type pinned struct {
	s   *Store
	mu  sync.Mutex
	all []string
}

func (p *pinned) add(digest string) {
	p.s.mu.Lock()
	p.s.pins[digest]++
	p.s.mu.Unlock()
	p.mu.Lock()
	p.all = append(p.all, digest)
	p.mu.Unlock()
}

func (p *pinned) release() {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	for _, d := range p.all {
		if p.s.pins[d]--; p.s.pins[d] <= 0 {
			delete(p.s.pins, d)
		}
	}
	p.all = nil
}

// touch notes that an image was used. The record's file time carries it, so a
// use costs no write of its own. s.mu is held.
func (s *Store) touch(r *record) {
	r.used = time.Now()
	_ = os.Chtimes(s.recordPath(r.Digest), r.used, r.used) // at worst it is collected early
}

// short is a digest as people read it.
func short(digest string) string { return strings.TrimPrefix(digest, "sha256:")[:12] }

// alive returns a context's error in words that fit "cannot …: %w".
func alive(ctx context.Context) error { return context.Cause(ctx) }
