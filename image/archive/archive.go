// Package archive reads images from files: the stream that docker save writes,
// OCI archives and OCI layout folders. It puts what it finds into the blob
// store and says which manifest is the image; docker's old format gets a
// manifest made for it.
//
// Names inside an archive are keys of a map and never paths on the host. What
// the layers hold is not looked at here.
package archive

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/perigee-run/perigee/image/blob"
	"github.com/perigee-run/perigee/image/layer"
	"github.com/perigee-run/perigee/image/manifest"
)

const maxEntries = 10000

// Options say what is wanted from an archive.
type Options struct {
	// Name picks one of several images, as "repository:tag". It is ignored when
	// there is only one.
	Name string
	// Arch is the architecture wanted, in Go's words.
	Arch string
	// MaxSize limits the bytes of the whole archive, unpacked once.
	MaxSize int64
	// Keep is told of each blob before it is stored, so that it is not collected
	// while the import lasts.
	Keep func(digest string)
}

// Found is the image that was chosen.
type Found struct {
	Content   []byte // the manifest; it is in the blob store too
	MediaType string
	Name      string // what the archive calls it, may be empty
}

// Read takes an archive in: docker-save or OCI, plain, gzip or zstd compressed.
func Read(ctx context.Context, r io.Reader, blobs *blob.Store, o Options) (Found, error) {
	z, err := layer.Decompress(r)
	if err != nil {
		return Found{}, err
	}
	defer z.Close()
	const framing = 64 << 20 // headers and padding of at most maxEntries entries
	a := &contents{blobs: blobs, o: o, files: map[string]file{}, links: map[string]string{}, left: o.MaxSize}
	if err := a.readAll(ctx, tar.NewReader(io.LimitReader(z, o.MaxSize+framing))); err != nil {
		return Found{}, err
	}
	if index, ok := a.find("index.json"); ok {
		return choose(ctx, blobs, a, index.digest, o)
	}
	if list, ok := a.find("manifest.json"); ok {
		return a.docker(list)
	}
	return Found{}, errors.New("it holds neither index.json nor manifest.json, so it is no image archive, or a truncated one; make one with docker save or skopeo copy … oci-archive:…")
}

type file struct {
	digest string
	size   int64
}

// contents is what an archive holds, by name.
type contents struct {
	blobs *blob.Store
	o     Options
	files map[string]file
	links map[string]string
	left  int64
	n     int
}

func (a *contents) readAll(ctx context.Context, tr *tar.Reader) error {
	for {
		hdr, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return unreadable(err, a.n)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if a.n++; a.n > maxEntries {
			return fmt.Errorf("the archive has more than %d entries, so it is no image archive", maxEntries)
		}
		if err := a.take(hdr, tr); err != nil {
			return fmt.Errorf("cannot take %.200q from the archive: %w", hdr.Name, err)
		}
	}
}

func unreadable(err error, entries int) error {
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("the archive is truncated: %w", err)
	case errors.Is(err, tar.ErrHeader) && entries == 0:
		return errors.New("it is not a tar archive; make one with docker save or skopeo copy … oci-archive:…")
	}
	return fmt.Errorf("cannot read the archive: %w", err)
}

// take keeps one entry.
func (a *contents) take(hdr *tar.Header, r io.Reader) error {
	name := path.Clean(hdr.Name)
	switch hdr.Typeflag {
	case tar.TypeSymlink: // docker save used to link equal layers
		a.links[name] = path.Join(path.Dir(name), hdr.Linkname)
		return nil
	case tar.TypeLink:
		a.links[name] = path.Clean(hdr.Linkname)
		return nil
	case tar.TypeReg:
	default:
		return nil
	}
	if hdr.Size > a.left {
		return fmt.Errorf("the archive is larger than %d bytes", a.o.MaxSize)
	}
	a.left -= hdr.Size
	f, err := a.store(name, hdr.Size, r)
	if err == nil {
		a.files[name] = f
	}
	return err
}

// store makes an entry a blob. A file that is named by its digest must have it: it is
// read even if the blob is here, for who knows a digest need not have the content.
func (a *contents) store(name string, size int64, r io.Reader) (file, error) {
	promised := ""
	if h, ok := strings.CutPrefix(name, "blobs/sha256/"); ok {
		promised = blob.FromHex(h)
		a.o.Keep(promised)
	}
	w, err := a.blobs.Create()
	if err != nil {
		return file{}, err
	}
	defer w.Abort()
	if _, err := io.Copy(w, r); err != nil {
		return file{}, unreadable(err, a.n)
	}
	digest := w.Digest()
	if promised != "" && promised != digest {
		return file{}, fmt.Errorf("its content is %s: %w", digest, blob.ErrMismatch)
	}
	a.o.Keep(digest)
	return file{digest, size}, w.Commit(digest, size)
}

// find looks a name up, through links.
func (a *contents) find(name string) (file, bool) {
	for range 8 {
		if f, ok := a.files[path.Clean(name)]; ok {
			return f, true
		}
		next, ok := a.links[path.Clean(name)]
		if !ok {
			break
		}
		name = next
	}
	return file{}, false
}

// need is for choose: all that an archive has is stored already.
func (a *contents) need(_ context.Context, d manifest.Descriptor) error {
	size, ok := a.blobs.Stat(d.Digest)
	if _, listed := a.files["blobs/sha256/"+blob.Hex(d.Digest)]; !ok || !listed {
		return fmt.Errorf("the archive lacks %s", d.Digest)
	}
	if size != d.Size {
		return fmt.Errorf("%s has %d bytes, the manifest says %d: %w", d.Digest, size, d.Size, blob.ErrMismatch)
	}
	return nil
}

// saved is an image in docker's manifest.json.
type saved struct {
	Config   string
	RepoTags []string
	Layers   []string
}

func (a *contents) docker(list file) (Found, error) {
	content, err := a.blobs.Read(list.digest, manifest.MaxSize)
	if err != nil {
		return Found{}, fmt.Errorf("cannot read manifest.json: %w", err)
	}
	var images []saved
	if err := json.Unmarshal(content, &images); err != nil {
		return Found{}, fmt.Errorf("manifest.json is not valid JSON: %w", err)
	}
	image, err := pickSaved(images, a.o.Name)
	if err != nil {
		return Found{}, err
	}
	made, err := a.convert(image)
	if err != nil {
		return Found{}, err
	}
	a.o.Keep(blob.Of(made))
	if _, err := a.blobs.Put(made); err != nil {
		return Found{}, err
	}
	return Found{Content: made, MediaType: manifest.OCIManifest, Name: first(image.RepoTags)}, nil
}

func first(s []string) string {
	if len(s) == 0 {
		return ""
	}
	return s[0]
}

func pickSaved(images []saved, name string) (saved, error) {
	if len(images) == 1 {
		return images[0], nil
	}
	var names []string
	for _, i := range images {
		for _, tag := range i.RepoTags {
			if sameName(tag, name) {
				return i, nil
			}
			names = append(names, tag)
		}
	}
	return saved{}, severalImages(len(images), names)
}

func severalImages(n int, names []string) error {
	if n == 0 {
		return errors.New("the archive holds no image")
	}
	if len(names) > 20 {
		names = append(names[:20], "…")
	}
	return fmt.Errorf("the archive holds %d images (%s); name the one you mean", n, strings.Join(names, ", "))
}

// sameName compares references as people write them: docker's defaults may be
// left out on either side.
func sameName(a, b string) bool {
	plain := func(s string) string {
		s = strings.TrimPrefix(s, "docker.io/")
		s = strings.TrimPrefix(s, "library/")
		return strings.TrimSuffix(s, ":latest")
	}
	return a != "" && plain(a) == plain(b)
}

// convert writes the manifest that docker's old format does not have.
func (a *contents) convert(image saved) ([]byte, error) {
	config, ok := a.find(image.Config)
	if !ok {
		return nil, fmt.Errorf("the archive lacks the configuration %.200q", image.Config)
	}
	if len(image.Layers) > manifest.MaxLayers {
		return nil, fmt.Errorf("the image has %d layers, at most %d are supported", len(image.Layers), manifest.MaxLayers)
	}
	m := manifest.Manifest{SchemaVersion: 2, MediaType: manifest.OCIManifest,
		Config: &manifest.Descriptor{MediaType: manifest.OCIConfig, Digest: config.digest, Size: config.size}}
	for _, name := range image.Layers {
		f, ok := a.find(name)
		if !ok {
			return nil, fmt.Errorf("the archive lacks the layer %.200q", name)
		}
		kind, err := a.layerType(f.digest)
		if err != nil {
			return nil, err
		}
		m.Layers = append(m.Layers, manifest.Descriptor{MediaType: kind, Digest: f.digest, Size: f.size})
	}
	return json.Marshal(m)
}

// layerType looks at a layer's first bytes: docker's list does not say.
func (a *contents) layerType(digest string) (string, error) {
	f, err := a.blobs.Get(digest)
	if err != nil {
		return "", err
	}
	defer f.Close()
	head := make([]byte, 4)
	n, err := io.ReadFull(f, head)
	if err != nil && err != io.EOF && !errors.Is(err, io.ErrUnexpectedEOF) {
		return "", err
	}
	switch layer.Compression(head[:n]) {
	case "gzip":
		return manifest.OCILayer + "+gzip", nil
	case "zstd":
		return manifest.OCILayer + "+zstd", nil
	}
	return manifest.OCILayer, nil
}
