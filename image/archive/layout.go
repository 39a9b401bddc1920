package archive

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/perigee-run/perigee/image/blob"
	"github.com/perigee-run/perigee/image/manifest"
)

// ReadLayout takes an image in from an OCI layout folder. Only what the image
// needs is copied.
func ReadLayout(ctx context.Context, dir string, blobs *blob.Store, o Options) (Found, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return Found{}, fmt.Errorf("cannot open the layout: %w", err)
	}
	defer root.Close()
	f, err := root.Open("index.json")
	if err != nil {
		return Found{}, fmt.Errorf("%q is no OCI layout: it has no index.json", dir)
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, manifest.MaxSize+1))
	if err != nil {
		return Found{}, fmt.Errorf("cannot read index.json: %w", err)
	}
	digest := blob.Of(content)
	o.Keep(digest)
	if _, err := blobs.Put(content); err != nil {
		return Found{}, err
	}
	return choose(ctx, blobs, folder{root, blobs, o}, digest, o)
}

// source makes sure that what a descriptor points at is in the blob store.
type source interface {
	need(ctx context.Context, d manifest.Descriptor) error
}

// folder is a layout on disk.
type folder struct {
	root  *os.Root
	blobs *blob.Store
	o     Options
}

func (s folder) need(ctx context.Context, d manifest.Descriptor) error {
	s.o.Keep(d.Digest)
	if size, ok := s.blobs.Stat(d.Digest); ok && size == d.Size {
		s.blobs.Touch(d.Digest)
		return nil
	}
	if d.Size > s.o.MaxSize {
		return fmt.Errorf("%s is larger than %d bytes", d.Digest, s.o.MaxSize)
	}
	f, err := s.root.Open("blobs/sha256/" + blob.Hex(d.Digest))
	if err != nil {
		return fmt.Errorf("the layout lacks %s", d.Digest)
	}
	defer f.Close()
	w, err := s.blobs.Create()
	if err != nil {
		return err
	}
	defer w.Abort()
	if _, err := io.Copy(w, io.LimitReader(reader{ctx, f}, d.Size+1)); err != nil {
		return fmt.Errorf("cannot copy %s: %w", d.Digest, err)
	}
	return w.Commit(d.Digest, d.Size)
}

// reader ends when its context does.
type reader struct {
	ctx context.Context
	r   io.Reader
}

func (r reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// maxNesting is how deep indexes may be nested in each other.
const maxNesting = 4

// choose goes from an index down to the image that is meant and brings all of
// it into the blob store.
func choose(ctx context.Context, blobs *blob.Store, s source, digest string, o Options) (Found, error) {
	var found Found
	mediaType := ""
	for range maxNesting {
		content, err := blobs.Read(digest, manifest.MaxSize)
		if err != nil {
			return found, fmt.Errorf("cannot read manifest %s: %w", digest, err)
		}
		m, err := manifest.Parse(content, mediaType)
		if err != nil {
			return found, err
		}
		if !m.IsIndex() {
			found.Content, found.MediaType = content, m.MediaType
			return found, fetchAll(ctx, s, m)
		}
		d, err := pickEntry(m, o)
		if err != nil {
			return found, err
		}
		if found.Name == "" {
			found.Name = entryName(d)
		}
		if err := s.need(ctx, d); err != nil {
			return found, err
		}
		digest, mediaType = d.Digest, d.MediaType
	}
	return found, fmt.Errorf("its indexes are nested more than %d deep", maxNesting)
}

// fetchAll brings in an image's configuration and layers, once it is clear that
// it is one.
func fetchAll(ctx context.Context, s source, m manifest.Manifest) error {
	if err := m.CheckImage(); err != nil {
		return err
	}
	for _, d := range m.Refers() {
		if err := s.need(ctx, d); err != nil {
			return err
		}
	}
	return nil
}

// pickEntry chooses by name first, because an archive may hold several images,
// then by platform.
func pickEntry(m manifest.Manifest, o Options) (manifest.Descriptor, error) {
	var named []manifest.Descriptor
	var names []string
	distinct := map[string]bool{}
	for _, d := range m.Manifests {
		name := entryName(d)
		distinct[d.Digest] = true
		if name != "" {
			names = append(names, name)
		}
		if sameName(name, o.Name) || strings.HasSuffix(o.Name, ":"+name) && name != "" {
			named = append(named, d)
		}
	}
	if len(named) > 0 {
		m.Manifests = named
	}
	if len(m.Manifests) == 1 || len(distinct) == 1 {
		return m.Manifests[0], nil
	}
	if len(named) == 0 && len(names) > 1 {
		return manifest.Descriptor{}, severalImages(len(distinct), names)
	}
	return m.Pick(o.Arch)
}

func entryName(d manifest.Descriptor) string {
	if name := d.Annotations["io.containerd.image.name"]; name != "" {
		return name
	}
	return d.Annotations["org.opencontainers.image.ref.name"]
}
