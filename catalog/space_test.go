package catalog

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/perigee-run/perigee/api"
)

func TestReserve(t *testing.T) {
	var free atomic.Int64
	free.Store(1 << 30)
	c := open(t, Config{measure: func(string) (int64, error) { return free.Load(), nil }})
	tab := table(t, c, "apps")
	ctx := t.Context()
	rev, err := tab.Create(ctx, "old", rec{})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name           string
		free           int64
		create, change bool // may be done
	}{
		{"room", Reserve, true, true},
		{"little room", Reserve - 1, false, true},
		{"last room", LastReserve, false, true},
		{"no room", LastReserve - 1, false, false},
		{"room again", 1 << 30, true, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			free.Store(tc.free)
			c.local.disk.healed() // what was measured is forgotten
			key := strings.ReplaceAll(tc.name, " ", "-")
			began := time.Now()
			_, err := tab.Create(ctx, key, rec{})
			check(t, "create", err, tc.create)
			next, err := tab.Update(ctx, "old", rec{N: 1}, rev)
			check(t, "update", err, tc.change)
			if err == nil {
				rev = next
			}
			check(t, "delete", tab.Delete(ctx, key), tc.change)
			if took := time.Since(began); took > 4*time.Second {
				t.Errorf("took %s: it waited for an answer", took)
			}
		})
	}
}

func check(t *testing.T, what string, err error, may bool) {
	t.Helper()
	switch {
	case may && err != nil:
		t.Errorf("%s: %v", what, err)
	case !may && (!errors.Is(err, ErrFull) || !api.IsCode(err, api.CodeCapacity) || !strings.Contains(err.Error(), "free space")):
		t.Errorf("%s: %v, want that the disk is full, and what to do", what, err)
	}
}

// TestFullDisk has the disk fill up so quickly that the store itself meets its
// end, and then has room again.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64m"); err != nil {
		t.Skipf("needs root, to mount a small file system: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	var late atomic.Bool // what is measured is not what is there any more
	late.Store(true)
	c := open(t, Config{Dir: dir, measure: func(dir string) (int64, error) {
		if late.Load() {
			return 1 << 30, nil
		}
		return freeBytes(dir)
	}})
	tab := table(t, c, "apps")
	ctx := t.Context()
	if _, err := tab.Create(ctx, "before", rec{Name: "kept"}); err != nil {
		t.Fatal(err)
	}
	filler := filepath.Join(dir, "filler")
	fillDisk(t, filler)
	late.Store(false)
	c.local.disk.mu.Lock()
	c.local.disk.seen = time.Now() // with room, the moment before
	c.local.disk.mu.Unlock()
	var err error
	began := time.Now()
	for i := 0; err == nil && i < 2000; i++ {
		_, err = tab.Put(ctx, "big", rec{Name: strings.Repeat("x", 100_000)})
	}
	if !errors.Is(err, ErrFull) || c.local.disk.isWell() {
		t.Fatalf("%v, want ErrFull from a store that failed", err)
	}
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("the error came after %s", took)
	}
	for _, op := range []func() error{
		func() error { _, err := tab.Create(ctx, "full", rec{}); return err },
		func() error { return tab.Delete(ctx, "before") },
	} {
		if err := op(); !errors.Is(err, ErrFull) {
			t.Errorf("%v, want ErrFull", err)
		}
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if _, err = tab.Create(ctx, "after", rec{}); err == nil || time.Now().After(end) {
			break
		}
	}
	if err != nil {
		t.Fatalf("the disk has room again: %v", err)
	}
	if e, ok := tab.Get("before"); !ok || e.Value.Name != "kept" {
		t.Errorf("what was acknowledged is %v", e)
	}
	if _, err := tab.Update(ctx, "before", rec{Name: "new"}, 1); err != nil {
		t.Error(err)
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
