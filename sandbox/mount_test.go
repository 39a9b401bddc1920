package sandbox_test

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/perigee-run/perigee/sandbox"
)

// writer counts in an open file of the host, one line a moment, and reads it back
// through another descriptor; it keeps a deleted file open too.
const writer = `
exec 3>>/data/log 4</data/log 5<>/data/gone
rm /data/gone
echo kept >&5
i=0
while :; do
  i=$((i+1))
  echo line $i >&3
  read back <&4
  [ "$back" = "line $i" ] || echo "lost: $back"
  echo $i
  sleep 0.02
done`

// TestMountsAndSnapshots saves a machine at work on files of the host, lets it
// run on, and restores it: it goes on where it was, with the files as they are.
func TestMountsAndSnapshots(t *testing.T) {
	k := newKit(t)
	data := filepath.Join(k.dir, "data")
	must(t, os.Mkdir(data, 0o755))
	s := k.spec("sh", "-c", writer)
	s.Mounts = []sandbox.Mount{{Source: data, Destination: "/data"}}
	k.start(s)
	lines := func() int { return strings.Count(k.console(s), "\n") }
	more := func(than int) {
		t.Helper()
		until(t, "more lines", func() bool { return lines() > than+5 })
	}
	more(0)
	dir := filepath.Join(k.dir, "snap")
	must(t, k.Checkpoint(t.Context(), s.ID, dir))
	must(t, k.Resume(t.Context(), s.ID))
	more(lines())
	for range 2 {
		must(t, k.Checkpoint(t.Context(), s.ID, dir))
		written := lines()
		must(t, k.Destroy(t.Context(), s.ID))
		s.ID += "r"
		began := time.Now()
		must(t, k.Restore(t.Context(), s, "", dir))
		t.Logf("restored in %s", time.Since(began))
		more(written)
	}
	must(t, k.Signal(t.Context(), s.ID, 9))
	k.ended(s.ID)
	b, err := os.ReadFile(filepath.Join(data, "log"))
	must(t, err)
	if got := strings.Split(strings.TrimSpace(string(b)), "\n"); len(got) < lines() || got[len(got)-1] != "line "+strconv.Itoa(len(got)) {
		t.Errorf("%d lines in the file and %d on the console, the last is %q", len(got), lines(), got[len(got)-1])
	}
	if strings.Contains(k.console(s), "lost") {
		t.Errorf("the console says\n%s", k.console(s))
	}
	s.ID += "r"
	if err := k.Restore(t.Context(), s, "", dir); !errors.Is(err, sandbox.ErrSnapshot) {
		t.Errorf("a second machine from one snapshot: %v", err)
	}
}

// TestSnapshotOfAPast: a machine with files of the host that went on after it was
// saved cannot be restored to what it was.
func TestSnapshotOfAPast(t *testing.T) {
	k := newKit(t)
	s := k.spec("sleep", "1000")
	s.Mounts = []sandbox.Mount{{Source: t.TempDir(), Destination: "/data"}}
	k.start(s)
	dir := filepath.Join(k.dir, "snap")
	must(t, k.Checkpoint(t.Context(), s.ID, dir))
	k.killSupervisor() // the next one knows too
	must(t, k.Resume(t.Context(), s.ID))
	must(t, k.Destroy(t.Context(), s.ID))
	s.ID += "r"
	if err := k.Restore(t.Context(), s, "", dir); !errors.Is(err, sandbox.ErrSnapshot) {
		t.Errorf("restored: %v", err)
	}
}

// TestSnapshotWithoutItsFiles: when the files were changed, the snapshot is of no
// use, and says so.
func TestSnapshotWithoutItsFiles(t *testing.T) {
	k := newKit(t)
	data := t.TempDir()
	s := k.spec("sh", "-c", "exec 3>/data/open; echo ready; sleep 1000")
	s.Mounts = []sandbox.Mount{{Source: data, Destination: "/data"}}
	k.start(s)
	until(t, "ready", func() bool { return k.console(s) == "ready\n" })
	dir := filepath.Join(k.dir, "snap")
	must(t, k.Checkpoint(t.Context(), s.ID, dir))
	must(t, k.Destroy(t.Context(), s.ID))
	must(t, os.Remove(filepath.Join(data, "open")))
	s.ID += "r"
	if err := k.Restore(t.Context(), s, "", dir); !errors.Is(err, sandbox.ErrSnapshot) {
		t.Errorf("restored: %v", err)
	}
	k.checkNothingLeft()
}
