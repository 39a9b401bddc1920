package snapshot

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/perigee-run/perigee/volume/disk"
	"github.com/perigee-run/perigee/volume/objects"
	"golang.org/x/sync/errgroup"
)

// parallel is how many chunks are under way at a time.
const parallel = 4

// Repo is the snapshots in one store. Its methods may be called from any goroutine,
// those that write or delete for one volume at a time.
type Repo struct {
	objects objects.Store
	master  []byte
}

// New keeps snapshots in the store, sealed by the cloud's key of 32 bytes.
func New(store objects.Store, key []byte) (*Repo, error) {
	if len(key) != 32 {
		return nil, errKey
	}
	return &Repo{store, key}, nil
}

// Shared says that other nodes of the cloud can restore what is put here.
func (r *Repo) Shared() bool { return r.objects.Shared() }

// Write puts the image at path into the store as the snapshot that m describes, and
// fills m in. It may be repeated: what is there already is not sent again.
func (r *Repo) Write(ctx context.Context, m *Manifest, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("cannot write snapshot %q: %w", m.ID, err)
	}
	defer f.Close()
	w, err := r.writer(ctx, m, f)
	if err == nil {
		err = w.all(ctx)
	}
	if err == nil {
		err = r.putManifest(ctx, m)
	}
	if err != nil {
		return fmt.Errorf("cannot write snapshot %q: %w", m.ID, err)
	}
	return nil
}

// writer is one Write under way.
type writer struct {
	repo    *Repo
	m       *Manifest
	image   *os.File
	box     box
	namer   *namer
	known   map[chunkID]struct{} // in the store, or on the way
	buffers sync.Pool
}

func (r *Repo) writer(ctx context.Context, m *Manifest, image *os.File) (*writer, error) {
	fi, err := image.Stat()
	if err != nil {
		return nil, err
	}
	m.ImageSize, m.At, m.IDs = fi.Size(), nil, nil
	w := &writer{repo: r, m: m, image: image, known: map[chunkID]struct{}{}}
	w.buffers.New = func() any { return new([ChunkSize]byte) }
	if w.box, err = newBox(r.master, "chunk", m.Volume); err != nil {
		return nil, err
	}
	if w.namer, err = newNamer(r.master, m.Volume); err != nil {
		return nil, err
	}
	err = r.objects.Walk(ctx, chunks(m.Volume), func(name string) error {
		if id, ok := chunkOf(name); ok {
			w.known[id] = struct{}{}
		}
		return nil
	})
	return w, err
}

// all reads the image in order and puts what is new, several at a time.
func (w *writer) all(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	err := w.eachChunk(ctx, func(at uint32, chunk *[ChunkSize]byte, n int) {
		id := w.namer.id(chunk[:n])
		w.m.At, w.m.IDs = append(w.m.At, at), append(w.m.IDs, id[:]...)
		if _, there := w.known[id]; there {
			w.buffers.Put(chunk)
			return
		}
		w.known[id] = struct{}{}
		g.Go(func() error {
			defer w.buffers.Put(chunk)
			name := chunkName(w.m.Volume, id)
			sealed, err := w.box.seal(name, chunk[:n])
			if err != nil {
				return err
			}
			return w.repo.objects.Put(ctx, name, sealed)
		})
	})
	return errors.Join(g.Wait(), err)
}

// eachChunk gives the chunks that are not zero, in order. Who gets one returns it
// to buffers.
func (w *writer) eachChunk(ctx context.Context, take func(at uint32, chunk *[ChunkSize]byte, n int)) error {
	size := w.m.ImageSize
	for at := int64(0); at < size; at += ChunkSize {
		start, end, err := disk.Extent(w.image, at, size)
		if err != nil || start == end {
			return err
		}
		at = start / ChunkSize * ChunkSize
		if err := ctx.Err(); err != nil {
			return err
		}
		chunk := w.buffers.Get().(*[ChunkSize]byte)
		n, err := w.image.ReadAt(chunk[:min(ChunkSize, size-at)], at)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if zero(chunk[:n]) {
			w.buffers.Put(chunk)
			continue
		}
		take(uint32(at/ChunkSize), chunk, n)
	}
	return nil
}

var zeros [4096]byte

func zero(b []byte) bool {
	for len(b) > 0 {
		n := min(len(b), len(zeros))
		if !bytes.Equal(b[:n], zeros[:n]) {
			return false
		}
		b = b[n:]
	}
	return true
}

func (r *Repo) putManifest(ctx context.Context, m *Manifest) error {
	plain, err := json.Marshal(m)
	if err != nil {
		return err
	}
	b, err := newBox(r.master, "manifest", m.Volume)
	if err != nil {
		return err
	}
	name := manifestName(m.Volume, m.ID)
	sealed, err := b.seal(name, plain)
	if err != nil {
		return err
	}
	return r.objects.Put(ctx, name, sealed)
}

// Find returns a snapshot by its id; objects.ErrNotFound if there is none.
func (r *Repo) Find(ctx context.Context, id string) (*Manifest, error) {
	names, err := objects.List(ctx, r.objects, manifests+id+".")
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("snapshot %q: %w", id, objects.ErrNotFound)
	}
	return r.read(ctx, names[0])
}

// Get returns a snapshot of the volume; objects.ErrNotFound if there is none.
func (r *Repo) Get(ctx context.Context, volume, id string) (*Manifest, error) {
	return r.read(ctx, manifestName(volume, id))
}

func (r *Repo) read(ctx context.Context, name string) (*Manifest, error) {
	volume, _, _ := splitManifestName(name)
	b, err := newBox(r.master, "manifest", volume)
	if err != nil {
		return nil, err
	}
	sealed, err := r.objects.Get(ctx, name)
	if err != nil {
		return nil, err
	}
	plain, err := b.open(name, sealed)
	if err != nil {
		return nil, err
	}
	return parseManifest(plain)
}

// Restore writes the snapshot's image to the file path, which is made. It is whole,
// every chunk checked, and on disk when Restore has returned nil; else it is gone.
func (r *Repo) Restore(ctx context.Context, m *Manifest, path string) (err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
			err = errors.Join(fmt.Errorf("cannot restore snapshot %q: %w", m.ID, err), os.Remove(path))
		}
	}()
	if err := f.Truncate(m.ImageSize); err != nil {
		return err
	}
	return r.fill(ctx, m, f)
}

func (r *Repo) fill(ctx context.Context, m *Manifest, f *os.File) error {
	b, err := newBox(r.master, "chunk", m.Volume)
	if err != nil {
		return err
	}
	names, err := newNamer(r.master, m.Volume)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for i, at := range m.At {
		g.Go(func() error {
			return r.fillOne(ctx, m, b, names, f, m.id(i), int64(at)*ChunkSize)
		})
	}
	return g.Wait()
}

func (r *Repo) fillOne(ctx context.Context, m *Manifest, b box, names *namer, f *os.File, id chunkID, at int64) error {
	name := chunkName(m.Volume, id)
	sealed, err := r.objects.Get(ctx, name)
	if err != nil {
		return err
	}
	chunk, err := b.open(name, sealed)
	if err != nil {
		return err
	}
	if want := min(ChunkSize, m.ImageSize-at); int64(len(chunk)) != want || names.id(chunk) != id {
		return fmt.Errorf("object %q does not hold what its name says", name)
	}
	_, err = f.WriteAt(chunk, at)
	return err
}

// List returns the ids of the volume's snapshots.
func (r *Repo) List(ctx context.Context, volume string) ([]string, error) {
	var out []string
	err := r.objects.Walk(ctx, manifests, func(name string) error {
		if v, id, ok := splitManifestName(name); ok && v == volume {
			out = append(out, id)
		}
		return nil
	})
	return out, err
}

// ErrUnswept says that a snapshot is deleted, but that its chunks are left.
var ErrUnswept = errors.New("it is deleted, but its chunks are not")

// Delete removes a snapshot of the volume with all chunks that no other one needs;
// one that is not there is no error. With ErrUnswept the chunks are left for the next
// Delete or Sweep.
func (r *Repo) Delete(ctx context.Context, volume, id string) error {
	if err := r.objects.Delete(ctx, manifestName(volume, id)); err != nil {
		return fmt.Errorf("cannot delete snapshot %q: %w", id, err)
	}
	if err := r.Sweep(ctx, volume); err != nil {
		return fmt.Errorf("snapshot %q: %w: %w", id, ErrUnswept, err)
	}
	return nil
}
