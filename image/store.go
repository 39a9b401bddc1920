package image

import (
	"context"
	"errors"
	"io"
	"net/http"
)

// Store keeps the images of one node. All methods may be called at any time
// from any goroutine.
type Store struct{ cfg Config }

var errNotBuilt = errors.New("image store is not complete in this revision")

// New opens the store in cfg.Dir and removes what a crash left half-made.
func New(cfg Config) (*Store, error) { return &Store{cfg: cfg}, nil }

// Pull makes the image that ref names ready to run and returns it.
func (s *Store) Pull(ctx context.Context, ref string, progress func(Progress)) (Image, error) {
	return Image{}, errNotBuilt
}

// Import takes a docker-save or OCI archive, plain, gzip or zstd compressed.
func (s *Store) Import(ctx context.Context, r io.Reader, name string, progress func(Progress)) (Image, error) {
	return Image{}, errNotBuilt
}

// ImportLayout takes an OCI layout directory.
func (s *Store) ImportLayout(ctx context.Context, dir, name string, progress func(Progress)) (Image, error) {
	return Image{}, errNotBuilt
}

// Get finds an image that is ready on the node by digest or reference.
func (s *Store) Get(digestOrRef string) (Image, bool) { return Image{}, false }

// List returns the images that are ready on the node.
func (s *Store) List() []Image { return nil }

// Remove removes an image that is not in use.
func (s *Store) Remove(ctx context.Context, digest string) error { return errNotBuilt }

// Collect removes the least recently used images that are not in inUse until
// wantFree bytes are free.
func (s *Store) Collect(ctx context.Context, inUse map[string]bool, wantFree int64) (Collected, error) {
	return Collected{}, errNotBuilt
}

// EnsureSpace makes need bytes available above Config.MinFree, or says why not.
func (s *Store) EnsureSpace(ctx context.Context, need int64) error { return errNotBuilt }

// Registry serves the OCI distribution API below /v2/.
func (s *Store) Registry(auth func(r *http.Request) error) http.Handler {
	return http.NotFoundHandler()
}

// LookupUser resolves a USER value against the image's own passwd and group.
func (s *Store) LookupUser(img, spec string) (uid, gid uint32, groups []uint32, home string, err error) {
	return 0, 0, nil, "", errNotBuilt
}
