package logs

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/perigee-run/perigee/catalog"
)

// TestNoRoom has logs go off and on with the room on the disk, losing nothing.
func TestNoRoom(t *testing.T) {
	dir := t.TempDir()
	cat, err := catalog.Open(t.Context(), catalog.Config{Dir: dir, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	defer cat.Close()
	var full atomic.Bool
	full.Store(true)
	s := New(t.Context(), Config{JetStream: cat.JetStream(), Logger: quiet, Room: func() error {
		if full.Load() {
			return catalog.ErrFull
		}
		return nil
	}})
	if err := s.Problem(t.Context()); !errors.Is(err, catalog.ErrFull) {
		t.Errorf("problem: %v", err)
	}
	if err := s.Append(t.Context(), Line{App: "a", Region: "r", Machine: "m", Text: "said"}); !errors.Is(err, catalog.ErrFull) {
		t.Errorf("append: %v", err)
	}
	c, err := NewCollector(CollectorConfig{Store: s, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	console := filepath.Join(dir, "console")
	if err := os.WriteFile(console, []byte("one\ntwo\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.Follow(Machine{App: "a", Region: "r", ID: "m", Path: console}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond)
	full.Store(false)
	want := "one two"
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		var got []string
		for l, err := range s.Tail(t.Context(), Query{App: "a"}) {
			if err == nil {
				got = append(got, l.Text)
			}
		}
		if strings.Join(got, " ") == want {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("got %q, want %q", got, want)
		}
	}
	if err := s.Problem(t.Context()); err != nil {
		t.Errorf("problem: %v", err)
	}
}

// TestOpenOnAFullDisk opens log and catalog where not a byte is free.
func TestOpenOnAFullDisk(t *testing.T) {
	for _, had := range []string{"stream", "no stream"} {
		t.Run(had, func(t *testing.T) {
			dir := t.TempDir()
			if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=96m"); err != nil {
				t.Skipf("needs root, to mount a small file system: %v", err)
			}
			t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
			opened := func() (*catalog.Catalog, *Store) {
				cat, err := catalog.Open(t.Context(), catalog.Config{Dir: dir, Logger: quiet})
				if err != nil {
					t.Fatal(err)
				}
				if had == "no stream" {
					had = ""
					return cat, nil
				}
				return cat, New(t.Context(), Config{JetStream: cat.JetStream(), Logger: quiet, Room: func() error { return cat.Room(Reserve) }})
			}
			cat, _ := opened()
			cat.Close()
			fillDisk(t, filepath.Join(dir, "filler"))
			cat, s := opened()
			defer cat.Close()
			if err := s.Problem(t.Context()); !errors.Is(err, catalog.ErrFull) {
				t.Errorf("problem: %v", err)
			}
			if err := os.Remove(filepath.Join(dir, "filler")); err != nil {
				t.Fatal(err)
			}
			var err error
			for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
				err = s.Append(t.Context(), Line{App: "a", Region: "r", Machine: "m", Text: "said"})
				if err == nil || time.Now().After(end) {
					break
				}
			}
			if err != nil {
				t.Errorf("the disk has room again: %v", err)
			}
		})
	}
}

func fillDisk(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for b := make([]byte, 4096); err == nil; {
		_, err = f.Write(b)
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
}
