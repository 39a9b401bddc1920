package volume

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/volume/disk"
)

// Layers is what machines of the node keep of their root file systems: a file system
// of a bounded size for each, which takes its part of what is promised of the disk. It
// has no record: the file says how large it is, and its machine that it is wanted.
// For one machine the methods must not run at the same time.
type Layers struct{ store *Store }

// Layers returns those beside the volumes.
func (s *Store) Layers() *Layers { return &Layers{s} }

// root holds a folder for each machine, and in that one for each layer. It is below the
// volumes' because that is a shared mount, see [disk.Share].
func (s *Store) layersRoot() string { return filepath.Join(s.cfg.Dir, "layers") }

func (l *Layers) at(machine, layer string) *disk.Disk {
	return disk.At(filepath.Join(l.store.layersRoot(), machine, layer))
}

// Open returns the folder of a layer, which is made if it is not there, of so many GB
// or of as many as it has already. It may be repeated.
func (l *Layers) Open(ctx context.Context, machine, layer string, sizeGB int) (dir string, err error) {
	d, size := l.at(machine, layer), int64(sizeGB)*disk.GiB
	if d.Mounted() {
		return d.Data(), nil
	}
	if err := l.make(ctx, d, size); err != nil {
		return "", inLayersWords(err)
	}
	if err := d.MountPlain(ctx); err != nil {
		return "", err
	}
	return d.Data(), nil
}

// make makes the layer, or lets it grow, once that is promised.
func (l *Layers) make(ctx context.Context, d *disk.Disk, size int64) error {
	has := int64(0)
	if d.Exists() {
		var err error
		if has, err = d.Size(); err != nil || has >= size {
			return err
		}
	}
	done, err := l.store.lend(d.Image()+".new", size-has)
	if err != nil {
		return err
	}
	defer done()
	if has > 0 {
		return d.Grow(ctx, size)
	}
	return d.CreatePlain(ctx, size)
}

// inLayersWords names what the caller can change.
func inLayersWords(err error) error {
	if api.IsCode(err, api.CodeCapacity) {
		return api.AsError(err).WithField("config.rootfs.size_gb").WithHint("ask for less, choose another region, or a larger disk")
	}
	return err
}

// Close ends what Open began, once all that was written is on disk.
func (l *Layers) Close(ctx context.Context, machine, layer string) {
	ctx, cancel := context.WithTimeout(ctx, l.store.cfg.patience)
	defer cancel()
	if err := l.at(machine, layer).Unmount(ctx); err != nil {
		l.store.log.Warn("the writable layer of a machine stays mounted", "machine", machine, "error", err)
	}
}

// Keep removes the machine's layers but one; "" keeps none.
func (l *Layers) Keep(_ context.Context, machine, layer string) error {
	dir := filepath.Join(l.store.layersRoot(), machine)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if e.Name() != layer {
			err = errors.Join(err, disk.At(filepath.Join(dir, e.Name())).Remove())
		}
	}
	if layer == "" && err == nil {
		err = os.Remove(dir)
	}
	return err
}

// Machines are those that have layers.
func (l *Layers) Machines() (ids []string) {
	entries, _ := os.ReadDir(l.store.layersRoot()) // there may be none
	for _, e := range entries {
		ids = append(ids, e.Name())
	}
	return ids
}

// layers are the paths of all layers that were made.
func (s *Store) layers() (dirs []string) {
	images, _ := filepath.Glob(filepath.Join(s.layersRoot(), "*", "*", "image"))
	for _, image := range images {
		if dir := filepath.Dir(image); !strings.HasSuffix(dir, ".new") {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// layersMayTake is how much more of the disk the layers may come to take.
func (s *Store) layersMayTake() (bytes int64) {
	for _, dir := range s.layers() {
		d := disk.At(dir)
		if size, err := d.Size(); err == nil {
			bytes += max(0, size-d.Allocated())
		}
	}
	return bytes
}
