package machine

import (
	"context"
	"os"
	"path/filepath"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/machine/rules"
)

// Layers keeps what machines write to their root file systems, with rootfs.persist;
// *volume.Layers is one. For one machine nothing is called at the same time.
type Layers interface {
	// Open returns the folder of a layer, which is made if it is not there, for so many
	// GB at least. Close ends that; both may be repeated.
	Open(ctx context.Context, machine, layer string, sizeGB int) (dir string, err error)
	Close(ctx context.Context, machine, layer string)
	// Keep removes the machine's layers but one; "" keeps none.
	Keep(ctx context.Context, machine, layer string) error
	// Machines are those that have layers.
	Machines() []string
}

// folders are layers of any size, in the machines' folders. Whoever removes these
// removes them.
type folders struct{ dir string }

func (f folders) Open(_ context.Context, machine, layer string, _ int) (string, error) {
	dir := filepath.Join(f.dir, machine, layer)
	return dir, os.MkdirAll(dir, 0o700)
}
func (folders) Close(context.Context, string, string)      {}
func (folders) Keep(context.Context, string, string) error { return nil }
func (folders) Machines() []string                         { return nil }

// openLayer makes the layer of the machine's next life ready, "" if it keeps nothing.
// One that an earlier version of the daemon made is a folder of the machine's still.
func (h *Host) openLayer(ctx context.Context, r *Record) (string, error) {
	layer := layerDir(r)
	if layer == "" {
		return "", nil
	}
	former := filepath.Join(h.dir(r.ID), layer)
	if _, err := os.Stat(former); err == nil {
		return former, nil
	}
	dir, err := h.cfg.Layers.Open(ctx, r.ID, layer, layerGB(&r.Config))
	if err != nil {
		return "", internal(err, "cannot make ready what machine %q keeps", r.ID)
	}
	return dir, nil
}

func layerGB(c *api.MachineConfig) int {
	if c.Rootfs == nil || c.Rootfs.SizeGB == 0 {
		return rules.RootfsGB
	}
	return c.Rootfs.SizeGB
}

// closeLayer is for when the machine's sandbox is gone.
func (h *Host) closeLayer(r *Record) {
	if layer := layerDir(r); layer != "" {
		ctx, cancel := h.cleanup()
		defer cancel()
		h.cfg.Layers.Close(ctx, r.ID, layer)
	}
}

// keepLayer removes the machine's layers but one; what cannot go is logged and left to
// the next start of the daemon.
func (h *Host) keepLayer(id, layer string) {
	ctx, cancel := h.cleanup()
	defer cancel()
	if err := h.cfg.Layers.Keep(ctx, id, layer); err != nil {
		h.log.Warn("cannot remove what a machine kept", "machine", id, "error", err)
	}
}
