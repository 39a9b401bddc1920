package image_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/perigee-run/perigee/image"
)

const crashDir = "PERIGEE_TEST_CRASH_DIR"

// importUntilKilled is the process that TestKillLosesNothingAcknowledged kills:
// this test program with crashDir set. It imports images and names each one
// that is done.
func importUntilKilled(dir string) error {
	s, err := image.New(image.Config{Dir: dir, MinFree: 1, Hosts: []string{"registry.test"}})
	if err != nil {
		return err
	}
	for n := 0; ; n++ {
		name := fmt.Sprintf("app-%d-%d:v1", os.Getpid(), n)
		var t testing.T // for the fixtures; a failure of theirs ends the process
		saved := dockerSave(&t, map[string]v1.Image{name: simple(&t, name)})
		img, err := s.Import(context.Background(), bytes.NewReader(saved), name, nil)
		if err != nil {
			return err
		}
		fmt.Println("done", img.Ref, img.Digest, img.Size)
	}
}

func TestKillLosesNothingAcknowledged(t *testing.T) {
	dir := t.TempDir()
	acknowledged := map[string]image.Image{}
	for range 5 {
		killed(t, dir, acknowledged)
		s := open(t, func(c *image.Config) { c.Dir = dir })
		for ref, want := range acknowledged {
			got, err := s.Pull(context.Background(), ref, nil)
			if err != nil || got.Digest != want.Digest || got.Size != want.Size {
				t.Errorf("%s after the kill: %+v, %v", ref, got, err)
			}
			if st, err := os.Stat(got.Rootfs); err != nil || st.Size() != want.Size {
				t.Errorf("%s after the kill: rootfs %v, %v", ref, st, err)
			}
		}
		if left, err := os.ReadDir(dir + "/tmp"); err != nil || len(left) > 0 {
			t.Errorf("left in tmp: %v, %v", left, err)
		}
	}
	if len(acknowledged) == 0 {
		t.Error("nothing was ever acknowledged")
	}
}

// killed runs the helper for a moment, kills it and notes what it had done.
func killed(t *testing.T, dir string, acknowledged map[string]image.Image) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), crashDir+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var timer *time.Timer
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var img image.Image
		if n, _ := fmt.Sscanf(lines.Text(), "done %s %s %d", &img.Ref, &img.Digest, &img.Size); n < 3 {
			continue
		}
		acknowledged[img.Ref] = img
		if timer == nil {
			timer = time.AfterFunc(rand.N(80*time.Millisecond), func() { _ = cmd.Process.Kill() })
		}
	}
	_ = cmd.Wait() // it was killed
}
