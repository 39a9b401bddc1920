package sandbox_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/perigee-run/perigee/sandbox"
)

// saved is a web server's snapshot.
func (k *kit) saved() (s sandbox.Spec, w *network, dir string) {
	k.t.Helper()
	s, w = k.server()
	k.start(s)
	w.get(k.t, 8080)
	dir = filepath.Join(k.dir, "snap-"+s.ID)
	must(k.t, k.Checkpoint(k.t.Context(), s.ID, dir))
	return s, w, dir
}

func TestCheckpointAndRestore(t *testing.T) {
	k := newKit(t)
	s, w, dir := k.saved()
	if state := k.state(s.ID); state != sandbox.StatePaused {
		t.Errorf("state after a checkpoint: %s", state)
	}
	// A request that arrives during the suspend: nothing is lost.
	must(t, k.Resume(t.Context(), s.ID))
	w.get(t, 8080)
	must(t, k.Checkpoint(t.Context(), s.ID, dir))
	must(t, k.Destroy(t.Context(), s.ID))
	k.checkNothingLeft()
	for i := range 3 {
		w.address(t)
		s.ID += "r"
		from := ""
		if i > 0 {
			from = "pool" + strconv.Itoa(i)
			must(t, k.Prepare(t.Context(), from, w.path))
		}
		must(t, k.Restore(t.Context(), s, from, dir))
		w.get(t, 8080)
		must(t, k.Pause(t.Context(), s.ID))
		must(t, k.Resume(t.Context(), s.ID))
		w.get(t, 8080)
		must(t, k.Destroy(t.Context(), s.ID))
	}
}

func TestRestoredMachineEnds(t *testing.T) {
	k := newKit(t)
	s := k.spec("sh", "-c", "trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.05; done")
	k.start(s)
	until(t, "ready", func() bool { return strings.Contains(k.console(s), "ready") })
	dir := filepath.Join(k.dir, "snap")
	must(t, k.Checkpoint(t.Context(), s.ID, dir))
	must(t, k.Destroy(t.Context(), s.ID))
	s.ID += "r"
	must(t, k.Restore(t.Context(), s, "", dir))
	must(t, k.Signal(t.Context(), s.ID, 15))
	if exit := k.ended(s.ID); exit.Code != 3 || k.console(s) != "ready\nbye\n" {
		t.Errorf("exit %+v, said %q", exit, k.console(s))
	}
}

// TestRestoredClockAndEntropy restores one snapshot twice: each has the present
// time and random numbers of its own, from the kernel.
func TestRestoredClockAndEntropy(t *testing.T) {
	k := newKit(t)
	s := k.spec("sleep", "1000")
	k.start(s)
	dir := filepath.Join(k.dir, "snap")
	must(t, k.Checkpoint(t.Context(), s.ID, dir))
	must(t, k.Destroy(t.Context(), s.ID))
	time.Sleep(1200 * time.Millisecond)
	seen := map[string]bool{}
	for range 2 {
		s.ID += "r"
		must(t, k.Restore(t.Context(), s, "", dir))
		var out bytes.Buffer
		_, err := k.Exec(t.Context(), s.ID, sandbox.ExecSpec{Args: []string{"sh", "-c", "date +%s; head -c 16 /dev/urandom | od -x"}}, sandbox.Streams{Stdout: &out})
		must(t, err)
		date, random, _ := strings.Cut(out.String(), "\n")
		sec, err := strconv.ParseInt(date, 10, 64)
		must(t, err)
		if off := time.Since(time.Unix(sec, 0)); off < -time.Second || off > 2*time.Second {
			t.Errorf("the clock is off by %s", off)
		}
		if seen[random] {
			t.Errorf("the same random numbers twice: %s", random)
		}
		seen[random] = true
		must(t, k.Destroy(t.Context(), s.ID))
	}
}

func TestBadSnapshots(t *testing.T) {
	k := newKit(t)
	s, w, good := k.saved()
	must(t, k.Destroy(t.Context(), s.ID))
	change := func(name string, at int64) func(string) error {
		return func(dir string) error {
			f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR, 0)
			if err != nil {
				return err
			}
			b := []byte{0}
			_, err = f.ReadAt(b, at)
			b[0] ^= 0x55
			_, err2 := f.WriteAt(b, at)
			return errors.Join(err, err2, f.Close())
		}
	}
	for _, test := range []struct {
		name string
		harm func(dir string) error
		spec func(*sandbox.Spec)
	}{
		{name: "missing", harm: os.RemoveAll},
		{name: "empty", harm: func(dir string) error { return errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o700)) }},
		{name: "manifest", harm: func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "perigee.json"), []byte(`{"files":{"../x":{}}}`), 0o600)
		}},
		{name: "state cut", harm: func(dir string) error { return os.Truncate(filepath.Join(dir, "checkpoint.img"), 1000) }},
		{name: "state changed", harm: change("checkpoint.img", 5000)},
		{name: "pages changed", harm: change("pages.img", 4096*3+5)},
		{name: "pages missing", harm: func(dir string) error { return os.Remove(filepath.Join(dir, "pages.img")) }},
		{name: "another command", spec: func(s *sandbox.Spec) { s.Args = []string{"true"} }},
		{name: "another user", spec: func(s *sandbox.Spec) { s.UID = 5 }},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "snap")
			must(t, os.CopyFS(dir, os.DirFS(good)))
			bad := s
			bad.ID = "bad"
			if test.harm != nil {
				must(t, test.harm(dir))
			}
			if test.spec != nil {
				test.spec(&bad)
			}
			w.address(t)
			err := k.Restore(t.Context(), bad, "", dir)
			if !errors.Is(err, sandbox.ErrSnapshot) {
				t.Errorf("got %v", err)
			}
			t.Log(err)
		})
	}
	k.checkNothingLeft()
	s.ID = "cold"
	w.address(t)
	must(t, k.Restore(t.Context(), s, "", good))
	w.get(t, 8080)
}
