package image

import (
	"context"
	"fmt"
	"io"

	"github.com/perigee-run/perigee/image/archive"
	"github.com/perigee-run/perigee/image/blob"
	"github.com/perigee-run/perigee/image/manifest"
)

// Import takes an image in from a docker-save or OCI archive, plain or gzip or
// zstd compressed, and makes it ready. name is what the built-in registry will
// call it, "app:tag"; empty takes the archive's own name. When an archive holds
// several images, name picks one. From then on Pull finds it without network.
// progress may be nil.
func (s *Store) Import(ctx context.Context, r io.Reader, name string, progress func(Progress)) (Image, error) {
	return s.take(ctx, name, progress, func(o archive.Options) (archive.Found, error) {
		return archive.Read(ctx, &guarded{r: r, guard: s.spaceGuard(ctx)}, s.blobs, o)
	})
}

// ImportLayout takes an image in from an OCI layout folder, as Import does from
// an archive.
func (s *Store) ImportLayout(ctx context.Context, dir, name string, progress func(Progress)) (Image, error) {
	return s.take(ctx, name, progress, func(o archive.Options) (archive.Found, error) {
		return archive.ReadLayout(ctx, dir, s.blobs, o)
	})
}

// guarded looks after the disk's free space while an archive comes in.
type guarded struct {
	r     io.Reader
	guard func(int64) error
	n     int64
}

func (g *guarded) Read(p []byte) (int, error) {
	if err := g.guard(g.n); err != nil {
		return 0, err
	}
	n, err := g.r.Read(p)
	g.n += int64(n)
	return n, err
}

// take reads an image with read, gives it a name and makes it ready. What was
// read and is of no use afterwards is removed.
func (s *Store) take(ctx context.Context, name string, progress func(Progress), read func(archive.Options) (archive.Found, error)) (Image, error) {
	pins := &pinned{s: s}
	fresh := map[string]bool{}
	keep := func(digest string) {
		pins.add(digest)
		if _, here := s.blobs.Stat(digest); !here {
			fresh[digest] = true
		}
	}
	img, err := s.takePinned(ctx, name, progress, func() (archive.Found, error) {
		return read(archive.Options{Name: name, Arch: s.arch, MaxSize: s.cfg.MaxSize, Keep: keep})
	})
	pins.release()
	s.dropUnused(fresh)
	if err != nil {
		return Image{}, fmt.Errorf("cannot import the image: %w", err)
	}
	return img, nil
}

func (s *Store) takePinned(ctx context.Context, name string, progress func(Progress), read func() (archive.Found, error)) (Image, error) {
	if name != "" {
		if _, err := s.named(name, ""); err != nil { // before the work
			return Image{}, err
		}
	}
	found, err := read()
	if err != nil {
		return Image{}, err
	}
	ref, err := s.named(name, found.Name)
	if err != nil {
		return Image{}, err
	}
	m, err := manifest.Parse(found.Content, found.MediaType)
	if err != nil {
		return Image{}, err
	}
	if err := m.CheckImage(); err != nil {
		return Image{}, err
	}
	return s.enter(ctx, ref, m, found, progress)
}

// enter makes the image ready and then puts it into the built-in registry, so
// that a name there never leads to an image that cannot run.
func (s *Store) enter(ctx context.Context, ref reference, m manifest.Manifest, found archive.Found, progress func(Progress)) (Image, error) {
	digest := blob.Of(found.Content)
	from := builtIn{s, ref.repository}
	image := resolved{digest: digest, manifest: m}
	if _, ok := s.Get(digest); !ok {
		err := s.flights.do(ctx, digest, progress, func(ctx context.Context, tell func(Progress)) error {
			return s.make(ctx, from, ref, image, tell)
		})
		if err != nil {
			return Image{}, err
		}
	}
	for _, d := range m.Refers() {
		if err := s.repos.Link(ref.repository, d.Digest); err != nil {
			return Image{}, err
		}
	}
	if _, err := s.repos.Put(ref.repository, ref.tag, found.MediaType, found.Content); err != nil {
		return Image{}, err
	}
	img, ok, err := s.adopt(digest, ref, nil)
	if err == nil && !ok {
		err = fmt.Errorf("image %s was removed while it was being imported", short(digest))
	}
	return img, err
}

// dropUnused removes blobs that an import brought and nothing refers to.
func (s *Store) dropUnused(fresh map[string]bool) {
	s.collecting.Lock()
	defer s.collecting.Unlock()
	c := &collection{s: s}
	if err := c.sweep(context.Background(), fresh); err != nil { // the next collection will find them
		s.cfg.Logger.Warn("cannot remove what an import left", "error", err)
	}
}
