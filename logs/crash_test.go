package logs

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/perigee-run/perigee/catalog"
)

const crashChildEnv = "PERIGEE_LOGS_CRASH_CHILD"

// crashChild is a daemon that follows dir/console until it is killed.
func crashChild(dir string) {
	cat, err := catalog.Open(context.Background(), catalog.Config{Dir: dir, Logger: quiet})
	if err != nil {
		panic(err)
	}
	store := New(context.Background(), Config{JetStream: cat.JetStream()})
	// Shorter than the true time: it is the kernel that must survive here, not the
	// power.
	c, err := NewCollector(CollectorConfig{Store: store, Logger: quiet, safeAfter: 60 * time.Millisecond})
	if err != nil {
		panic(err)
	}
	if err := c.Follow(Machine{App: "web", Region: "iad", ID: "m1", Path: filepath.Join(dir, "console")}); err != nil {
		panic(err)
	}
	fmt.Println("following")
	select {}
}

// TestKill9LosesAndDoublesNothing kills the daemon while a machine talks.
func TestKill9LosesAndDoublesNothing(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "console")
	out := console(t, path)
	done, written := make(chan struct{}), make(chan int)
	go func() {
		for i := 0; ; i++ {
			select {
			case <-done:
				written <- i
				return
			default:
			}
			fmt.Fprintf(out, "line %d %s\n", i, strings.Repeat("x", i%90))
			if i%20 == 0 {
				time.Sleep(time.Millisecond)
			}
		}
	}()
	for range 5 {
		killedDaemon(t, dir)
	}
	close(done)
	lines := <-written
	n := start(t, dir, CollectorConfig{})
	n.follow(t, "m1", path)
	n.unfollow(t, "m1")
	got := n.texts(t, Query{Lines: all})
	for i := range min(len(got), lines) {
		if !strings.HasPrefix(got[i], fmt.Sprintf("line %d ", i)) {
			t.Fatalf("line %d is %.100q", i, got[i])
		}
	}
	if len(got) != lines {
		t.Fatalf("%d lines, want %d", len(got), lines)
	}
}

func killedDaemon(t *testing.T, dir string) {
	cmd := exec.Command(os.Args[0])
	cmd.Env, cmd.Stderr = append(os.Environ(), crashChildEnv+"="+dir), os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Errorf("the daemon did not start: %v", err)
	}
	time.Sleep(time.Duration(50+rand.IntN(250)) * time.Millisecond)
	cmd.Process.Kill()
	cmd.Wait()
}
