package catalog

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func published3(t testing.TB, tc *testCloud) map[string]*Published[rec] {
	out := map[string]*Published[rec]{}
	for name, n := range tc.node {
		out[name] = must[*Published[rec]](t)(NewPublished[rec](n.Catalog, "machines"))
	}
	return out
}

func (p *Published[T]) has(node, key string) bool {
	_, ok := p.Get(node, key)
	return ok
}

func TestPublishedAlone(t *testing.T) {
	c := open(t, Config{Node: "n1"})
	p := must[*Published[rec]](t)(NewPublished[rec](c, "machines"))
	changes := p.Watch(t.Context())
	p.Set("m1", rec{N: 1})
	if e, ok := p.Get("n1", "m1"); !ok || e.Value.N != 1 || e.Node != "n1" || e.Key != "m1" {
		t.Fatalf("own entry: %+v %v", e, ok)
	}
	if ch := <-changes; ch.Value.N != 1 || ch.Deleted || ch.Key != "m1" {
		t.Fatalf("change %+v", ch)
	}
	p.Replace(map[string]rec{"m2": {N: 2}})
	if l := p.List(); len(l) != 1 || l[0].Key != "m2" {
		t.Fatalf("after Replace: %+v", l)
	}
	if err := p.Forget(t.Context(), "n1"); err != nil || len(p.List()) != 0 {
		t.Fatalf("after Forget: %v %+v", err, p.List())
	}
	p.Set("a..b", rec{}) // is logged and left out
	if len(p.List()) != 0 {
		t.Error("a bad key was taken")
	}
	if _, err := NewPublished[rec](c, "machines"); err == nil {
		t.Error("the table was opened twice")
	}
}

func TestPublished(t *testing.T) {
	tc := three(t)
	p := published3(t, tc)
	a, b, c := p["a"], p["b"], p["c"]

	changes := c.Watch(t.Context())
	var worst time.Duration
	for i := 1; i <= 50; i++ {
		began := time.Now()
		a.Set("m", rec{N: i})
		if ch := <-changes; ch.Node != "a" || ch.Value.N != i {
			t.Fatalf("change %d: %+v", i, ch)
		}
		worst = max(worst, time.Since(began))
	}
	t.Logf("the slowest of 50 changes took %s", worst)
	a.Unset("m")
	if ch := <-changes; !ch.Deleted {
		t.Fatalf("change %+v", ch)
	}

	old := saying{seq: 5, data: []byte(`{"n":99}`)}
	b.Set("m", rec{N: 1})
	eventually(t, "c hears b", func() bool { return c.has("b", "m") })
	c.hear("b.m", old.bytes())
	if e, _ := c.Get("b", "m"); e.Value.N != 1 {
		t.Error("a stale version won")
	}
	c.hear("a.m", old.bytes())
	if c.has("a", "m") {
		t.Error("a stale version came back after it was taken back")
	}

	b.Replace(map[string]rec{"m2": {N: 2}, "m3": {N: 3}})
	eventually(t, "a has what b says now", func() bool { return a.has("b", "m2") && a.has("b", "m3") && !a.has("b", "m") })
	c.Set("x", rec{})
	eventually(t, "b hears c", func() bool { return b.has("c", "x") })
	eventually(t, "the bucket has c's entry", func() bool {
		kv, err := tc.node["a"].said.handle(t.Context())
		if err != nil {
			return false
		}
		_, err = kv.Get(t.Context(), "machines.c.x")
		return err == nil
	})
	tc.node["c"].Close()
	if err := a.Forget(t.Context(), "c"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "c is forgotten", func() bool { return !a.has("c", "x") && !b.has("c", "x") })

	t.Run("a restarted node", func(t *testing.T) {
		tc.node["b"].Close()
		tc.node["b"].start(t)
		b := must[*Published[rec]](t)(NewPublished[rec](tc.node["b"].Catalog, "machines"))
		eventually(t, "the state is reached again", func() bool { return tc.node["b"].StateStatus().Current })
		if !a.has("b", "m2") {
			t.Error("what b said is gone while it restarts")
		}
		b.Replace(map[string]rec{"m3": {N: 3}, "m4": {N: 4}})
		eventually(t, "a has what b says now", func() bool { return a.has("b", "m4") && !a.has("b", "m2") })
		if e, _ := a.Get("b", "m3"); e.Value.N != 3 {
			t.Errorf("m3 is %+v", e)
		}
	})
}

// TestPublishedCutOff has a node say things while no other can be reached.
func TestPublishedCutOff(t *testing.T) {
	tc := three(t)
	p := published3(t, tc)
	p["a"].Set("gone", rec{N: 1})
	p["a"].Set("stays", rec{N: 1})
	eventually(t, "c hears a", func() bool { return p["c"].has("a", "gone") && p["c"].has("a", "stays") })
	time.Sleep(2 * storeEvery) // until it is stored
	tc.node["b"].Close()
	tc.node["c"].Close()
	p["a"].Set("late", rec{N: 2})
	p["a"].Unset("gone")
	for i := range 100 {
		p["a"].Set("often", rec{N: i})
	}
	if !p["a"].has("a", "late") || p["a"].has("a", "gone") {
		t.Error("own entries are not as they were set")
	}
	for _, name := range []string{"b", "c"} {
		tc.node[name].start(t)
		p[name] = must[*Published[rec]](t)(NewPublished[rec](tc.node[name].Catalog, "machines"))
	}
	for _, name := range []string{"b", "c"} {
		eventually(t, name+" has what a says", func() bool {
			e, _ := p[name].Get("a", "often")
			return p[name].has("a", "late") && !p[name].has("a", "gone") && p[name].has("a", "stays") && e.Value.N == 99
		})
	}
}

func TestSequenceNeverGoesBack(t *testing.T) {
	dir := t.TempDir()
	s := must[*sequence](t)(openSequence(dir))
	last := s.next()
	s = must[*sequence](t)(openSequence(dir)) // as after kill -9
	if n := s.next(); n <= last {
		t.Errorf("%d after %d", n, last)
	}
	far := uint64(time.Now().Add(time.Hour).UnixNano()) // the clock was wrong
	s.atLeast(far)
	if err := s.keep(); err != nil {
		t.Fatal(err)
	}
	s = must[*sequence](t)(openSequence(dir))
	if n := s.next(); n <= far {
		t.Errorf("%d after %d", n, far)
	}
	write(t, filepath.Join(dir, sequenceFile), "x")
	if _, err := openSequence(dir); err == nil {
		t.Error("a damaged file was taken")
	}
	if _, err := os.Stat(filepath.Join(dir, sequenceFile)); err != nil {
		t.Error(fmt.Errorf("the damaged file is gone: %w", err))
	}
}

// FuzzHear gives what any node may send, and what any may have stored.
func FuzzHear(f *testing.F) {
	c, err := Open(f.Context(), Config{Dir: f.TempDir(), Node: "n1", Logger: quiet})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { c.Close() })
	p, err := NewPublished[rec](c, "machines")
	if err != nil {
		f.Fatal(err)
	}
	p.out = newSpeaker(c, "machines")
	f.Add("n2.m", saying{7, []byte(`{"n":1}`)}.bytes(), false)
	f.Add("n2.m", seqBytes(8), true)
	f.Add("n1.m", []byte{1}, true)
	f.Fuzz(func(t *testing.T, entry string, data []byte, deleted bool) {
		p.hear(entry, data)
		p.change(record{table: "machines", key: entry, data: data, deleted: deleted})
		if e, ok := p.mem.get(entry); ok && len(data) > seqSize && e.Revision < seqOf(data) && !deleted {
			if _, _, err := encode(e.Value); err != nil {
				t.Fatal(err)
			}
		}
		if p.has("n1", "m") {
			t.Fatal("another node wrote this node's entry")
		}
	})
}

func FuzzPeers(f *testing.F) {
	dir := f.TempDir()
	if err := writePeers(dir, 3, []string{"a", "b"}); err != nil {
		f.Fatal(err)
	}
	whole, err := os.ReadFile(peersFile(dir))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(whole[:9])
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(peersFile(dir), data, 0o600); err != nil {
			t.Fatal(err)
		}
		if ids, err := readPeers(dir); err == nil && len(ids) > len(data)/8 {
			t.Fatalf("%d peers in %d bytes", len(ids), len(data))
		}
	})
}

// TestTakenBackIsForgotten: what other nodes took back long ago leaves no trace,
// also while no connection is made anew.
func TestTakenBackIsForgotten(t *testing.T) {
	c := open(t, Config{Node: "n1"})
	p := must[*Published[rec]](t)(NewPublished[rec](c, "machines"))
	for i := range 10 * forgetEvery {
		at := time.Now().Add(-2 * forgetAfter)
		if i%100 == 0 {
			at = time.Now()
		}
		p.hear(fmt.Sprint("n2.m", i), seqBytes(uint64(at.UnixNano())))
	}
	fresh := 10 * forgetEvery / 100
	if n := len(p.mem.gone); n < fresh || n > fresh+forgetEvery {
		t.Errorf("%d entries taken back are known, want the %d of the last minutes and %d more at most", n, fresh, forgetEvery)
	}
}
