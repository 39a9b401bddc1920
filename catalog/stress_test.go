package catalog

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"
)

// TestNothingAcknowledgedIsLost changes the members while two nodes write and
// every processor is kept busy.
func TestNothingAcknowledgedIsLost(t *testing.T) {
	t.Run("one dies", func(t *testing.T) {
		tc := three(t)
		tc.add("d").start(t, tc.members("a", "b", "c")...)
		tc.keepsAll("b", "d", 1500*time.Millisecond,
			func() { tc.setMembers("a", "b", "d") },
			func() { tc.node["a"].Close() },
			func() { tc.node["a"].start(t) },
			func() { tc.setMembers("b", "c", "d") })
	})
	t.Run("few stay", func(t *testing.T) {
		tc := three(t)
		tc.keepsAll("a", "b", 5*time.Second,
			func() { tc.setMembers("a") },
			func() { tc.setMembers("b") },
			func() { tc.setMembers("b", "c") },
			func() { tc.setMembers("a", "b", "c") },
			func() { tc.setMembers("a", "c") })
	})
}

// keepsAll makes changes while two nodes write, and reads the stream itself at the
// end: what is missing there is lost, what is only late in memory arrives.
func (tc *testCloud) keepsAll(one, other string, pause time.Duration, changes ...func()) {
	t := tc.t
	idle := burn()
	defer idle()
	writers := map[string]*newKeys{}
	for _, name := range []string{one, other} {
		writers[name] = writeNewKeys(t, tc.node[name].apps, name)
	}
	for _, change := range changes {
		time.Sleep(pause)
		change()
	}
	time.Sleep(3 * time.Second)
	var acked []string
	for name, w := range writers {
		w.stop()
		t.Logf("%s: %d writes acknowledged, %d failed: %v", name, len(w.acked), w.failed, w.last)
		acked = append(acked, w.acked...)
	}
	idle()
	stored := tc.stored()
	if lost := slices.DeleteFunc(slices.Clone(acked), func(key string) bool { return stored["apps."+key] }); len(lost) > 0 {
		t.Fatalf("%d of %d acknowledged writes are not in the stream: %v", len(lost), len(acked), lost)
	}
	for name, node := range tc.node {
		eventually(t, name+" has all that was acknowledged", func() bool {
			return !slices.ContainsFunc(acked, func(key string) bool { _, ok := node.apps.Get(key); return !ok })
		})
	}
}

// newKeys writes one new key after the other: none hides another one's loss.
type newKeys struct {
	acked  []string
	failed int
	last   error
	stop   func()
}

func writeNewKeys(t testing.TB, tab *Table[rec], name string) *newKeys {
	ctx, cancel := context.WithCancel(t.Context())
	w, done := &newKeys{}, make(chan struct{})
	w.stop = func() { cancel(); <-done }
	go func() {
		defer close(done)
		for i := 0; ctx.Err() == nil; i++ {
			key := fmt.Sprintf("%s%d", name, i)
			if _, err := tab.Put(t.Context(), key, rec{N: i}); err != nil {
				w.failed, w.last = w.failed+1, err
			} else {
				w.acked = append(w.acked, key)
			}
		}
	}()
	return w
}

// burn keeps every processor busy until it is told to end.
func burn() (end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	for range 2 * runtime.NumCPU() {
		go func() {
			for n := 0; ctx.Err() == nil; n++ {
			}
		}()
	}
	return cancel
}

// stored are the keys in the stream, as soon as it can be read.
func (tc *testCloud) stored() map[string]bool {
	out := map[string]bool{}
	eventually(tc.t, "the stream can be read", func() bool {
		for _, n := range tc.node {
			ctx, cancel := context.WithTimeout(tc.t.Context(), 10*time.Second)
			keys, err := n.keys(ctx)
			cancel()
			for _, key := range keys {
				out[key] = true
			}
			if err == nil {
				return true
			}
		}
		return false
	})
	return out
}

func (n *testNode) keys(ctx context.Context) ([]string, error) {
	kv, err := n.state.handle(ctx)
	if err != nil {
		return nil, err
	}
	return kv.Keys(ctx)
}
