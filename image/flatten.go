package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"runtime"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/perigee-run/perigee/image/blob"
	"github.com/perigee-run/perigee/image/erofs"
	"github.com/perigee-run/perigee/image/layer"
	"github.com/perigee-run/perigee/image/manifest"
)

// maxUserFile is how much of /etc/passwd and /etc/group is remembered.
const maxUserFile = 1 << 20

// flattening is one rootfs being made.
type flattening struct {
	m      manifest.Manifest
	config *v1.ConfigFile
	rec    *record         // gets what is learned
	track  *tracker        // is told how far it is
	ready  []chan struct{} // closed when a layer's blob is here
}

// flatten merges the layers, bottom up, into one EROFS file and names it.
// Layers ahead of the one being merged are unpacked meanwhile.
func (s *Store) flatten(ctx context.Context, f flattening) error {
	out, err := os.CreateTemp(s.path(tmpDir), "rootfs-")
	if err != nil {
		return fmt.Errorf("cannot make the rootfs: %w", err)
	}
	defer func() { out.Close(); os.Remove(out.Name()) }() // after the renaming it is no longer there
	w := erofs.NewWriter(out, s.spaceGuard(ctx))
	tree := layer.New(layer.Limits{Files: s.cfg.MaxFiles, Bytes: s.cfg.MaxSize}, w)
	if err := s.merge(ctx, f, tree); err != nil {
		return err
	}
	if err := s.bake(tree, f.config.Config.WorkingDir); err != nil {
		return err
	}
	passwd, hasPasswd := tree.File("/etc/passwd")
	group, hasGroup := tree.File("/etc/group")
	if err := s.finish(w, tree, f); err != nil {
		return err
	}
	if f.rec.Passwd, err = readExtent(out, passwd, hasPasswd); err != nil {
		return err
	}
	if f.rec.Group, err = readExtent(out, group, hasGroup); err != nil {
		return err
	}
	return s.keepRootfs(out, f.rec.RootfsKey)
}

// finish writes directories and inodes below the contents.
func (s *Store) finish(w *erofs.Writer, tree *layer.Tree, f flattening) error {
	done := tree.Finish(s.cfg.Xattrs)
	if err := w.Drop(done.Dead); err != nil {
		return err
	}
	if !s.cfg.Xattrs {
		f.rec.Dropped = done.Xattrs
	}
	stamp := erofs.Stamp{Volume: "perigee", Time: max(0, f.config.Created.Unix())}
	id, err := hex.DecodeString(f.rec.RootfsKey)
	if err != nil {
		return err
	}
	copy(stamp.UUID[:], id)
	f.rec.Size, err = w.Finish(done.Root, stamp)
	return err
}

// keepRootfs gives a rootfs its name. It is pinned until its record exists.
func (s *Store) keepRootfs(out *os.File, key string) error {
	if err := out.Sync(); err != nil {
		return fmt.Errorf("cannot sync the rootfs: %w", err)
	}
	s.mu.Lock()
	s.pins[pinRootfs(key)]++
	s.mu.Unlock()
	if err := blob.Publish(out, s.rootfsPath(key)); err != nil {
		return fmt.Errorf("cannot keep the rootfs: %w", err)
	}
	return nil
}

func readExtent(f *os.File, at erofs.Extent, ok bool) ([]byte, error) {
	if !ok || at.Size == 0 {
		return nil, nil
	}
	b := make([]byte, min(at.Size, maxUserFile))
	if _, err := f.ReadAt(b, int64(at.Block)*erofs.BlockSize); err != nil {
		return nil, fmt.Errorf("cannot read the image's users: %w", err)
	}
	return b, nil
}

// spaceGuard ends a flattening before it fills the disk. It looks every 64 MiB.
func (s *Store) spaceGuard(ctx context.Context) func(int64) error {
	const every = 64 << 20
	next := int64(0)
	return func(written int64) error {
		if written < next {
			return nil
		}
		next = written + every
		return s.EnsureSpace(ctx, every)
	}
}

// bake puts in what every machine sees the same.
func (s *Store) bake(tree *layer.Tree, workingDir string) error {
	for _, name := range []string{"dev", "proc", "sys"} {
		tree.MountPoint(name, 0o755, false)
	}
	tree.MountPoint("tmp", 0o1777, true)
	for _, path := range slices.Sorted(maps.Keys(s.cfg.Overrides)) {
		if err := tree.Bake(path, s.cfg.Overrides[path]); err != nil {
			return err
		}
	}
	if workingDir == "" {
		return nil
	}
	return tree.MakeDir(workingDir)
}

// merge applies all layers in order.
func (s *Store) merge(ctx context.Context, f flattening, tree *layer.Tree) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	q := &unpackers{s: s, f: f}
	defer q.close()
	for i, d := range f.m.Layers {
		if err := q.upTo(ctx, i); err != nil {
			return err
		}
		if err := q.apply(ctx, i, tree); err != nil {
			if errors.Is(err, blob.ErrMismatch) {
				_, _ = s.blobs.Remove(d.Digest) // what is wrong must not be found again
			}
			return fmt.Errorf("layer %d of %d (%s): %w", i+1, len(f.m.Layers), short(d.Digest), err)
		}
		f.track.done(i)
	}
	return nil
}

// unpackers are the layers that are being unpacked: the one that is merged and,
// as far as their blobs are here, some after it.
type unpackers struct {
	s    *Store
	f    flattening
	open []*unpacker // the first len(open) layers; nil once merged
}

type unpacker struct {
	file   *os.File
	stream *layer.Stream
}

// upTo waits for layer i and starts it, and those after it that are ready.
func (q *unpackers) upTo(ctx context.Context, i int) error {
	ahead := min(runtime.GOMAXPROCS(0), 4)
	for n := len(q.open); n < len(q.f.ready) && n < i+ahead; n++ {
		select {
		case <-q.f.ready[n]:
		default:
			if n > i {
				return nil
			}
			select {
			case <-q.f.ready[n]:
			case <-ctx.Done():
				return alive(ctx)
			}
		}
		if err := q.start(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

func (q *unpackers) start(ctx context.Context, n int) error {
	file, err := q.s.blobs.Get(q.f.m.Layers[n].Digest)
	if err != nil {
		return err
	}
	counted := reporter{file, func(got int) { q.f.track.add(n, PhaseUnpacking, int64(got)) }}
	q.open = append(q.open, &unpacker{file, layer.NewStream(ctx, counted, q.s.cfg.MaxRatio)})
	return nil
}

// apply merges layer i and verifies that it was what the configuration says.
func (q *unpackers) apply(ctx context.Context, i int, tree *layer.Tree) error {
	u := q.open[i]
	defer q.end(i)
	sum := sha256.New()
	r := io.TeeReader(u.stream, sum)
	if err := tree.Apply(ctx, r); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, io.LimitReader(r, q.s.cfg.MaxSize)); err != nil {
		return err
	}
	want := q.f.config.RootFS.DiffIDs[i].String()
	if got := "sha256:" + hex.EncodeToString(sum.Sum(nil)); got != want {
		return fmt.Errorf("it unpacks to %s, the image's configuration says %s: %w", got, want, blob.ErrMismatch)
	}
	return nil
}

func (q *unpackers) end(i int) {
	if u := q.open[i]; u != nil {
		u.stream.Close()
		u.file.Close()
		q.open[i] = nil
	}
}

func (q *unpackers) close() {
	for i := range q.open {
		q.end(i)
	}
}

// reporter tells how much was read through it.
type reporter struct {
	r    io.Reader
	tell func(n int)
}

func (r reporter) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	r.tell(n)
	return n, err
}
