package cli

import (
	"os"
	"path/filepath"
	"testing"
)

// TestWriteWhole: a file that is a link to another place stays one, and nothing is left
// beside it.
func TestWriteWhole(t *testing.T) {
	ssh, dotfiles := t.TempDir(), t.TempDir()
	own, kept := filepath.Join(ssh, "config"), filepath.Join(dotfiles, "ssh_config")
	if err := os.WriteFile(kept, []byte("Host old\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(kept, own); err != nil {
		t.Fatal(err)
	}
	if err := writeWhole(own, []byte("Include x\nHost old\n")); err != nil {
		t.Fatal(err)
	}
	if to, err := os.Readlink(own); err != nil || to != kept {
		t.Errorf("the link leads to %q, %v", to, err)
	}
	b, err := os.ReadFile(kept)
	st, err2 := os.Stat(kept)
	if err != nil || err2 != nil || string(b) != "Include x\nHost old\n" || st.Mode().Perm() != 0o600 {
		t.Errorf("%q, %v, %v", b, err, err2)
	}
	fresh := filepath.Join(ssh, "new")
	if err := writeWhole(fresh, []byte("x")); err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]int{ssh: 2, dotfiles: 1} {
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != want {
			t.Errorf("%s has %v, %v", dir, entries, err)
		}
	}
}
