package durable_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/perigee-run/perigee/internal/durable"
)

func TestWriteFile(t *testing.T) {
	for _, c := range []struct {
		name   string
		before map[string]fs.FileMode // files there, with their modes
		mode   fs.FileMode
	}{
		{"new", nil, 0o600},
		{"readable", nil, 0o644},
		{"replaces", map[string]fs.FileMode{"key": 0o644}, 0o600},
		{"after a crash", map[string]fs.FileMode{"key.new": 0o666}, 0o600},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, mode := range c.before {
				if err := os.WriteFile(filepath.Join(dir, name), []byte("something old and longer"), mode); err != nil {
					t.Fatal(err)
				}
			}
			path := filepath.Join(dir, "key")
			if err := durable.WriteFile(path, c.mode, []byte("new")); err != nil {
				t.Fatal(err)
			}
			b, err := os.ReadFile(path)
			if err != nil || string(b) != "new" {
				t.Errorf("read %q, %v", b, err)
			}
			if st, err := os.Stat(path); err != nil || st.Mode() != c.mode {
				t.Errorf("mode %v, %v", st.Mode(), err)
			}
			if names, _ := os.ReadDir(dir); len(names) != 1 {
				t.Errorf("left %v", names)
			}
		})
	}
}

func TestWriteFileFails(t *testing.T) {
	if err := durable.WriteFile(filepath.Join(t.TempDir(), "none", "key"), 0o600, nil); err == nil {
		t.Error("wrote into a folder that is not there")
	}
	dir := t.TempDir() // the path is a folder that is not empty
	if err := os.MkdirAll(filepath.Join(dir, "key", "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := durable.WriteFile(filepath.Join(dir, "key"), 0o600, nil); err == nil {
		t.Error("replaced a folder")
	}
}
