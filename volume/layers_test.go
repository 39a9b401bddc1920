package volume

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/volume/disk"
)

// TestLayers: what a machine writes is kept in a file system of a size, that grows if
// more is asked for, and its room is promised to nobody else.
func TestLayers(t *testing.T) {
	k := newKit(t)
	ctx, l := t.Context(), k.Layers()
	dir, err := l.Open(ctx, "m1", "layer", 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	if more := k.layersMayTake(); more < disk.GiB*8/10 || more > disk.GiB {
		t.Errorf("a new layer of 1 GiB may take %d bytes more", more)
	}
	if again, err := l.Open(ctx, "m1", "layer", 3); again != dir || err != nil { // it is in use
		t.Errorf("%s, %v", again, err)
	}
	l.Close(ctx, "m1", "layer")
	if _, err := l.Open(ctx, "m1", "layer", 3); err != nil {
		t.Fatal(err)
	}
	if n, _ := l.at("m1", "layer").Size(); n != 3*disk.GiB {
		t.Errorf("it has %d bytes", n)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "f")); string(b) != "kept" {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := l.Open(ctx, "m2", "layer", 1<<20); !api.IsCode(err, api.CodeCapacity) || api.AsError(err).Field != "config.rootfs.size_gb" {
		t.Errorf("more than there is: %v", err)
	}
	if _, err := l.Open(ctx, "m1", "layer-2", 1); err != nil {
		t.Fatal(err)
	}
	if err := l.Keep(ctx, "m1", "layer-2"); err != nil || len(k.layers()) != 1 {
		t.Errorf("%v, %v", k.layers(), err)
	}
	if got := l.Machines(); !slices.Equal(got, []string{"m1"}) {
		t.Errorf("machines %q", got)
	}
	if err := l.Keep(ctx, "m1", ""); err != nil || len(l.Machines()) != 0 {
		t.Errorf("%q, %v", l.Machines(), err)
	}
	if more := k.layersMayTake(); more != 0 {
		t.Errorf("%d bytes are promised still", more)
	}
}
