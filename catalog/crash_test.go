package catalog

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

const crashChildEnv = "PERIGEE_CATALOG_CRASH_CHILD"

// crashChild writes until it is killed. On stdout it says "put key n" or
// "del key 0" before each operation and "ok" when it was acknowledged.
func crashChild(dir string) {
	c, err := Open(context.Background(), Config{Dir: dir, Logger: quiet})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	tab, err := NewTable[rec](c, "crash")
	for i := 0; err == nil; i++ {
		key, n := fmt.Sprintf("k%d", rand.IntN(40)), 1+rand.IntN(1<<30)
		if i%4 == 3 {
			fmt.Println("del", key, 0)
			err = tab.Delete(context.Background(), key)
		} else {
			fmt.Println("put", key, n)
			_, err = tab.Put(context.Background(), key, rec{N: n, Name: strings.Repeat("x", rand.IntN(2000))})
		}
		fmt.Println("ok")
	}
	fmt.Println("error", err)
	os.Exit(1)
}

// TestKill9LosesNothing kills a writing process at random moments and looks for
// everything it had been told was written. Only the one operation that was under
// way may have happened or not.
func TestKill9LosesNothing(t *testing.T) {
	dir, want := t.TempDir(), map[string]int{}
	rounds := 6
	if testing.Short() {
		rounds = 2
	}
	for round := range rounds {
		key, n := runAndKill(t, dir, want)
		c := open(t, Config{Dir: dir})
		found := map[string]int{}
		for _, e := range table(t, c, "crash").List("") {
			found[e.Key] = e.Value.N
		}
		c.Close()
		if found[key] == n {
			want[key] = n
		}
		for i := range 40 {
			if k := fmt.Sprintf("k%d", i); found[k] != want[k] {
				t.Fatalf("round %d: acknowledged %s=%d, found %d (under way was %s=%d)", round, k, want[k], found[k], key, n)
			}
		}
	}
}

// runAndKill applies what the child acknowledged to want (0 is deleted) and
// returns the operation that was under way when it died.
func runAndKill(t *testing.T, dir string, want map[string]int) (key string, n int) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), crashChildEnv+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	acked := 0
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if acked == 0 {
			time.AfterFunc(time.Duration(50+rand.IntN(250))*time.Millisecond, func() { cmd.Process.Kill() })
		}
		switch word, rest, _ := strings.Cut(lines.Text(), " "); word {
		case "ok":
			want[key] = n
			acked++
		case "put", "del":
			fmt.Sscan(rest, &key, &n)
		default:
			t.Fatalf("child: %s", lines.Text())
		}
	}
	cmd.Wait()
	if acked == 0 {
		t.Fatal("the child wrote nothing")
	}
	t.Logf("killed after %d acknowledged writes", acked)
	return key, n
}
