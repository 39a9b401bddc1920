package image

import (
	"context"
	"slices"
	"strings"

	"github.com/perigee-run/perigee/image/manifest"
)

// A manifest from elsewhere may name any digest, and who knows the digest of somebody
// else's layer is not to have it for that: a blob that is on the node is taken for one
// of a registry's only if that registry has sent it once. So a layer that two
// registries have is downloaded from each, and then kept once.

// maxSent bounds what is remembered of blobs that no image records yet.
const maxSent = 100_000

// sent remembers that a registry has sent a blob.
func (s *Store) sent(registry, digest string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.had) >= maxSent {
		clear(s.had) // they are downloaded once more
	}
	s.had[registry+" "+digest] = true
}

// hasSent reports whether a registry has sent a blob, now or for an image that is here.
func (s *Store) hasSent(registry, digest string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.had[registry+" "+digest] {
		return true
	}
	for _, r := range s.images {
		if r.cameFrom(registry) && slices.Contains(r.Blobs, digest) {
			return true
		}
	}
	return false
}

// cameFrom reports whether a registry has sent all of the image.
func (r *record) cameFrom(registry string) bool {
	for home := range r.From {
		if strings.HasPrefix(home, registry+"/") {
			return true
		}
	}
	return false
}

// prove downloads what is on the node and the origin does not vouch for.
func (s *Store) prove(ctx context.Context, from origin, m manifest.Manifest) error {
	for _, d := range m.Refers() {
		if from.vouches(d.Digest) {
			continue
		}
		if err := s.fetch(ctx, from, d, func(int64) {}); err != nil {
			return err
		}
	}
	return nil
}

// layers are the digests of an image's layers; the configuration comes after them.
func (r *record) layers() []string { return r.Blobs[:max(0, len(r.Blobs)-1)] }
