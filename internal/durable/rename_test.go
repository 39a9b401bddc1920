package durable_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/perigee-run/perigee/internal/durable"
)

func TestRename(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	if err := os.Mkdir(from, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := durable.WriteFile(filepath.Join(from, "f"), 0o600, []byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := durable.Rename(from, to); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(to, "f")); err != nil || string(b) != "x" {
		t.Errorf("read %q, %v", b, err)
	}
	if err := durable.Rename(from, to); err == nil {
		t.Error("moved a folder that is not there")
	}
}
