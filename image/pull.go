package image

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/perigee-run/perigee/image/blob"
	"github.com/perigee-run/perigee/image/manifest"
	"github.com/perigee-run/perigee/image/registry"
)

// maxNesting is how deep indexes may be nested in each other.
const maxNesting = 4

// origin is where manifests and blobs come from.
type origin interface {
	// manifest returns what a tag or digest names.
	manifest(ctx context.Context, at string) (content []byte, mediaType string, err error)
	// blob opens a blob that is not on the node.
	blob(ctx context.Context, digest string) (io.ReadCloser, error)
	// vouches reports whether a blob that is on the node may be taken for the one
	// that the origin has; if not, it is to be downloaded.
	vouches(digest string) bool
	// key tells this origin's downloads from those of others.
	key() string
}

// Pull makes the image that ref names ready to run and returns it. A tag is
// looked up at its registry each time; a digest that is on the node needs no
// network. progress may be nil. What was fetched before an error or the end of
// ctx stays for the next attempt; half an image is never seen.
func (s *Store) Pull(ctx context.Context, ref string, progress func(Progress)) (Image, error) {
	r, err := s.parse(ref)
	if err != nil {
		return Image{}, err
	}
	if r.digest != "" {
		if img, ok := s.Get(r.String()); ok {
			return img, nil
		}
	}
	img, err := s.pullFrom(ctx, s.origin(ctx, r), r, progress)
	if err != nil {
		return Image{}, fmt.Errorf("cannot pull %q: %w", ref, err)
	}
	return img, nil
}

func (s *Store) origin(ctx context.Context, r reference) origin {
	if r.local {
		return s.shared(ctx, r.repository)
	}
	return newRemote(s, r)
}

// builtIn is the node's own registry: its blobs are in the store.
type builtIn struct {
	s    *Store
	repo string
}

func (b builtIn) manifest(_ context.Context, at string) ([]byte, string, error) {
	digest, mediaType, ok := b.s.repos.Manifest(b.repo, at)
	if !ok {
		return nil, "", errors.New(registry.NotFound(b.s.repos, b.repo, at))
	}
	content, err := b.s.blobs.Read(digest, manifest.MaxSize)
	return content, mediaType, err
}

func (b builtIn) blob(_ context.Context, digest string) (io.ReadCloser, error) {
	return nil, fmt.Errorf("blob %s is missing from the built-in registry; push the image again", digest)
}

// vouches is true: a registry of ours takes no manifest before its blobs.
func (builtIn) vouches(string) bool { return true }

func (builtIn) key() string { return "" }

func (s *Store) pullFrom(ctx context.Context, from origin, r reference, progress func(Progress)) (Image, error) {
	found, err := s.resolve(ctx, from, r.at())
	if err != nil {
		return Image{}, err
	}
	if _, here := s.snapshot(found.digest); here {
		if err := s.prove(ctx, from, found.manifest); err != nil {
			return Image{}, err
		}
		if img, ok, err := s.adopt(found.digest, r, found.indexes); ok || err != nil {
			return img, err
		}
	}
	err = s.flights.do(ctx, found.digest, progress, func(ctx context.Context, tell func(Progress)) error {
		err := s.make(ctx, from, r, found, tell)
		if err == nil && r.local {
			s.keep(r.repository, found)
		}
		return err
	})
	if err == nil {
		err = s.prove(ctx, from, found.manifest) // the flight may have been another registry's
	}
	if err != nil {
		return Image{}, err
	}
	img, ok, err := s.adopt(found.digest, r, found.indexes)
	if err == nil && !ok {
		err = errors.New("it was removed while it was being pulled")
	}
	return img, err
}

// resolved is the manifest of one image for this node's platform.
type resolved struct {
	digest   string
	content  []byte // that manifest is read from
	manifest manifest.Manifest
	indexes  []string // digests that led to it
}

// resolve goes from a tag or digest through indexes to the image for this node.
func (s *Store) resolve(ctx context.Context, from origin, at string) (resolved, error) {
	var found resolved
	want := manifest.Descriptor{Size: -1}
	if blob.Valid(at) {
		want.Digest = at
	}
	for range maxNesting {
		content, mediaType, err := from.manifest(ctx, at)
		if err != nil {
			return found, err
		}
		if err := checkManifest(content, want); err != nil {
			return found, err
		}
		m, err := manifest.Parse(content, mediaType)
		if err != nil {
			return found, err
		}
		found.digest, found.content, found.manifest = blob.Of(content), content, m
		if !m.IsIndex() {
			return found, m.CheckImage()
		}
		found.indexes = append(found.indexes, found.digest)
		if want, err = m.Pick(s.arch); err != nil {
			return found, err
		}
		at = want.Digest
	}
	return found, fmt.Errorf("its indexes are nested more than %d deep", maxNesting)
}

func checkManifest(content []byte, want manifest.Descriptor) error {
	if got := blob.Of(content); want.Digest != "" && got != want.Digest {
		return fmt.Errorf("the registry sent manifest %s for %s: %w", got, want.Digest, blob.ErrMismatch)
	}
	if want.Size >= 0 && int64(len(content)) != want.Size {
		return fmt.Errorf("manifest %s has %d bytes, the index says %d: %w", want.Digest, len(content), want.Size, blob.ErrMismatch)
	}
	return nil
}
