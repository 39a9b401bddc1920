package mesh

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// TestPrefixOfAnotherNode gives two nodes one prefix: the second must not touch
// the first one's devices, dead or alive, and may have the prefix once that
// node's directory is gone.
func TestPrefixOfAnotherNode(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "first")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	first := newNetwork(t, Config{Dir: dir, Prefix: "claim"})
	s := machineSlot(t, first, "org", "m1")
	second := openNetwork(t, Config{Dir: t.TempDir(), Prefix: "claim"})
	if err := second.Setup(t.Context()); !errors.Is(err, ErrPrefixTaken) {
		t.Fatalf("Setup: %v", err)
	}
	if _, err := first.host.LinkByName(s.HostDevice); err != nil {
		t.Errorf("the first node's device: %v", err)
	}
	if err := first.Teardown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := second.Setup(t.Context()); err != nil {
		t.Errorf("after the first node left: %v", err)
	}
	if err := second.Teardown(t.Context()); err != nil {
		t.Error(err)
	}
}
