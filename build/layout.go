//go:build linux

package build

import (
	"archive/tar"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// layout is a finished image as an OCI layout folder. BuildKit's exporter wants to send every blob through its
// connection, base layers at every build; but the blobs lie in the builder's cache on the same disk, so each becomes
// a hard link here and none is copied. The link also keeps a blob from the cache's garbage collection.
type layout struct {
	noStore
	dir   string
	state string // the builder's, where the blobs are
}

func outPath(dir string) string { return filepath.Join(dir, "out") }

func newLayout(dir string) (*layout, error) {
	l := &layout{state: statePath(dir)}
	err := os.MkdirAll(outPath(dir), 0o700)
	if err == nil {
		l.dir, err = os.MkdirTemp(outPath(dir), "")
	}
	if err == nil {
		err = os.MkdirAll(l.blob(""), 0o700)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot make room for the image: %w", err)
	}
	return l, nil
}

func (l *layout) remove() { os.RemoveAll(l.dir) }

func (l *layout) blob(hex string) string { return filepath.Join(l.dir, "blobs", "sha256", hex) }

// Writer is called by the exporter for every blob. It links the blob and says that it is there already.
func (l *layout) Writer(_ context.Context, opts ...content.WriterOpt) (content.Writer, error) {
	var o content.WriterOpts
	for _, opt := range opts {
		if err := opt(&o); err != nil {
			return nil, err
		}
	}
	d := o.Desc.Digest
	if err := d.Validate(); err != nil || d.Algorithm() != digest.SHA256 {
		return nil, fmt.Errorf("cannot take the blob %q: %w", d, errdefs.ErrInvalidArgument)
	}
	if err := l.link(d.Encoded()); err != nil {
		return nil, fmt.Errorf("cannot take the blob %s out of the build cache: %w", d, err)
	}
	return nil, errdefs.ErrAlreadyExists
}

func (l *layout) link(hex string) error {
	stored, err := filepath.Glob(filepath.Join(l.state, "runc-*", "content", "blobs", "sha256", hex))
	if err == nil && len(stored) == 0 {
		err = fs.ErrNotExist
	}
	for _, path := range stored {
		if err = os.Link(path, l.blob(hex)); err == nil || errors.Is(err, fs.ErrExist) {
			return nil
		}
	}
	return err
}

// finish writes the files that make the folder a layout; descriptor is the exporter's word for the image.
func (l *layout) finish(descriptor string) error {
	var d ocispecs.Descriptor
	data, err := base64.StdEncoding.DecodeString(descriptor)
	if err == nil {
		err = json.Unmarshal(data, &d)
	}
	if err != nil {
		return fmt.Errorf("cannot read what the builder made: %w", err)
	}
	files := map[string]any{
		ocispecs.ImageLayoutFile: ocispecs.ImageLayout{Version: ocispecs.ImageLayoutVersion},
		ocispecs.ImageIndexFile: ocispecs.Index{Versioned: specs.Versioned{SchemaVersion: 2},
			MediaType: ocispecs.MediaTypeImageIndex, Manifests: []ocispecs.Descriptor{d}},
	}
	for name, v := range files {
		data, err := json.Marshal(v)
		if err == nil {
			err = os.WriteFile(filepath.Join(l.dir, name), data, 0o600)
		}
		if err != nil {
			return fmt.Errorf("cannot write the image's layout: %w", err)
		}
	}
	return nil
}

// hand gives the image to the request's importer.
func (l *layout) hand(ctx context.Context, r Request, digest string) error {
	if r.ImportLayout != nil {
		return r.ImportLayout(ctx, digest, l.dir)
	}
	pr, pw := io.Pipe()
	stop := context.AfterFunc(ctx, func() { pw.CloseWithError(context.Cause(ctx)) })
	defer stop()
	written := make(chan struct{})
	go func() {
		defer close(written)
		pw.CloseWithError(l.archive(pw))
	}()
	err := r.Import(ctx, digest, pr)
	pr.Close()
	<-written
	return err
}

// archive writes the layout as a tar. Nil means that all of it was written.
func (l *layout) archive(w io.Writer) error {
	t := tar.NewWriter(w)
	err := filepath.WalkDir(l.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		return l.archiveFile(t, path)
	})
	if err != nil {
		return err
	}
	return t.Close()
}

func (l *layout) archiveFile(t *tar.Writer, path string) error {
	name, err := filepath.Rel(l.dir, path)
	if err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if err := t.WriteHeader(&tar.Header{Name: filepath.ToSlash(name), Typeflag: tar.TypeReg, Mode: 0o644, Size: st.Size()}); err != nil {
		return err
	}
	_, err = io.Copy(t, f)
	return err
}

// noStore answers what the exporter never asks of a store that it only writes to.
type noStore struct{}

var _ content.Store = (*layout)(nil)

func (noStore) Info(context.Context, digest.Digest) (content.Info, error) {
	return content.Info{}, errdefs.ErrNotFound
}

func (noStore) Update(context.Context, content.Info, ...string) (content.Info, error) {
	return content.Info{}, errdefs.ErrNotImplemented
}

func (noStore) Walk(context.Context, content.WalkFunc, ...string) error {
	return errdefs.ErrNotImplemented
}

func (noStore) Delete(context.Context, digest.Digest) error { return errdefs.ErrNotImplemented }

func (noStore) ReaderAt(context.Context, ocispecs.Descriptor) (content.ReaderAt, error) {
	return nil, errdefs.ErrNotFound
}

func (noStore) Status(context.Context, string) (content.Status, error) {
	return content.Status{}, errdefs.ErrNotFound
}

func (noStore) ListStatuses(context.Context, ...string) ([]content.Status, error) { return nil, nil }

func (noStore) Abort(context.Context, string) error { return errdefs.ErrNotFound }
