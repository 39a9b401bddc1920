package machine

import (
	"os"
	"path/filepath"
	"strings"
)

// The machine's folder: console is what it said, layer* what it wrote and may
// keep where nobody keeps layers (see Layers), snapshot-* its memory while it is
// suspended.
const (
	consoleName    = "console"
	layerName      = "layer"
	snapshotPrefix = "snapshot-"
)

func (h *Host) consoleFile(id string) string { return filepath.Join(h.dir(id), consoleName) }

// layerDir names the writable layer that outlives a start: "" with never, one
// per version with restart, one for all with always.
func layerDir(r *Record) string {
	switch persist(&r.Config) {
	case "restart":
		return layerName + "-" + r.Version
	case "always":
		return layerName
	}
	return ""
}

// makeDirs makes the folder that a start of r needs.
func (h *Host) makeDirs(r *Record) error {
	if err := os.MkdirAll(h.dir(r.ID), 0o700); err != nil {
		return internal(err, "cannot make the folder of machine %q", r.ID)
	}
	return nil
}

// tidy removes from the machine's folder what its record does not speak of.
func (h *Host) tidy(r *Record) {
	h.keepLayer(r.ID, layerDir(r))
	entries, err := os.ReadDir(h.dir(r.ID))
	if err != nil {
		return // there is none: nothing to tidy
	}
	for _, e := range entries {
		if name := e.Name(); !keeps(r, name) {
			h.remove(filepath.Join(h.dir(r.ID), name))
		}
	}
}

func keeps(r *Record, name string) bool {
	switch {
	case strings.HasPrefix(name, snapshotPrefix):
		return name == r.Snapshot
	case strings.HasPrefix(name, layerName):
		return name == layerDir(r)
	}
	return true
}

// remove deletes a folder of ours; what cannot go is logged and left to the
// next start of the daemon.
func (h *Host) remove(path string) {
	if err := h.cfg.removeAll(path); err != nil {
		h.log.Warn("cannot remove", "path", path, "error", err)
	}
}
