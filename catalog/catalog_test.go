package catalog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

type rec struct {
	Name string            `json:"name"`
	N    int               `json:"n"`
	Tags map[string]string `json:"tags,omitempty"`
}

func TestMain(m *testing.M) {
	if os.Getenv(crashChildEnv) != "" {
		crashChild(os.Getenv(crashChildEnv))
		return
	}
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*Server).WaitForShutdown"),
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server/ats.Register.func1"),
		// A server that ends while its Raft log is replaced forgets the old one's.
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*fileStore).flushStreamStateLoop"))
}

var quiet = slog.New(slog.DiscardHandler)

func open(t testing.TB, cfg Config) *Catalog {
	t.Helper()
	if cfg.Logger == nil {
		cfg.Logger = quiet
	}
	if cfg.Dir == "" && len(cfg.Servers) == 0 {
		cfg.Dir = t.TempDir()
	}
	c, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func table(t testing.TB, c *Catalog, name string) *Table[rec] {
	t.Helper()
	tab, err := NewTable[rec](c, name)
	if err != nil {
		t.Fatal(err)
	}
	return tab
}

func must[V any](t testing.TB) func(v V, err error) V {
	return func(v V, err error) V {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestReadYourWrites(t *testing.T) {
	tab := table(t, open(t, Config{}), "machines")
	ctx, rev := t.Context(), must[uint64](t)
	var last uint64
	for i := range 200 {
		key := fmt.Sprintf("app.m%d", i%7)
		r := rev(tab.Put(ctx, key, rec{N: i}))
		e, ok := tab.Get(key)
		if !ok || e.Value.N != i || e.Revision != r || r <= last {
			t.Fatalf("put %d at %d: got %+v %v", i, r, e, ok)
		}
		last = r
		if i%5 == 0 {
			if err := tab.Delete(ctx, key); err != nil {
				t.Fatal(err)
			}
			if _, ok := tab.Get(key); ok {
				t.Fatalf("key %q is there after delete %d", key, i)
			}
		}
	}
}

func TestCreateUpdateDelete(t *testing.T) {
	tab := table(t, open(t, Config{}), "apps")
	ctx, rev := t.Context(), must[uint64](t)
	r1 := rev(tab.Create(ctx, "web", rec{N: 1}))
	if _, err := tab.Create(ctx, "web", rec{N: 2}); !errors.Is(err, ErrExists) {
		t.Fatalf("second create: %v", err)
	}
	r2 := rev(tab.Update(ctx, "web", rec{N: 3}, r1))
	if _, err := tab.Update(ctx, "web", rec{N: 4}, r1); !errors.Is(err, ErrConflict) {
		t.Fatalf("stale update: %v", err)
	}
	if e, _ := tab.Get("web"); e.Value.N != 3 || e.Revision != r2 {
		t.Fatalf("got %+v", e)
	}
	if err := tab.DeleteAt(ctx, "web", r1); !errors.Is(err, ErrConflict) {
		t.Fatalf("stale delete: %v", err)
	}
	if e, ok := tab.Get("web"); !ok || e.Revision != r2 {
		t.Fatalf("after a stale delete there is %+v", e)
	}
	if err := tab.DeleteAt(ctx, "web", r2); err != nil {
		t.Fatal(err)
	}
	if err := tab.DeleteAt(ctx, "web", r2); !errors.Is(err, ErrConflict) {
		t.Fatalf("delete of what is gone: %v", err)
	}
	for range 2 {
		if err := tab.Delete(ctx, "web"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := tab.Update(ctx, "web", rec{}, r2); !errors.Is(err, ErrConflict) {
		t.Fatalf("update of a deleted record: %v", err)
	}
	rev(tab.Create(ctx, "web", rec{N: 5}))
	if e, _ := tab.Get("web"); e.Value.N != 5 {
		t.Fatalf("created again: %+v", e)
	}
}

func TestList(t *testing.T) {
	c := open(t, Config{})
	tab, other := table(t, c, "machines"), table(t, c, "machines2")
	ctx, rev := t.Context(), must[uint64](t)
	for _, k := range []string{"b.2", "a.1", "b.1", "bb.1", "a.3", "a.2"} {
		rev(tab.Put(ctx, k, rec{Name: k}))
		rev(other.Put(ctx, k+".x", rec{Name: k}))
	}
	for prefix, want := range map[string]string{
		"": "a.1 a.2 a.3 b.1 b.2 bb.1", "a.": "a.1 a.2 a.3", "b": "b.1 b.2 bb.1", "b.": "b.1 b.2", "c": "", "a.2": "a.2",
	} {
		var got []string
		for _, e := range tab.List(prefix) {
			got = append(got, e.Key)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("List(%q) = %v, want %s", prefix, got, want)
		}
	}
}

func TestReopenKeepsAll(t *testing.T) {
	dir := t.TempDir()
	c := open(t, Config{Dir: dir})
	tab := table(t, c, "apps")
	for i := range 50 {
		must[uint64](t)(tab.Put(t.Context(), fmt.Sprintf("k%02d", i), rec{N: i}))
	}
	if err := tab.Delete(t.Context(), "k07"); err != nil {
		t.Fatal(err)
	}
	c.Close()
	if _, err := tab.Put(t.Context(), "late", rec{}); !errors.Is(err, ErrClosed) {
		t.Fatalf("put after close: %v", err)
	}
	if e, ok := tab.Get("k03"); !ok || e.Value.N != 3 {
		t.Fatal("reads must go on after close")
	}
	again := table(t, open(t, Config{Dir: dir}), "apps")
	if n := len(again.List("")); n != 49 {
		t.Fatalf("%d records after reopening", n)
	}
}

func TestValuesAreNotTheWriters(t *testing.T) {
	tab := table(t, open(t, Config{}), "apps")
	v := rec{Tags: map[string]string{"a": "1"}}
	must[uint64](t)(tab.Put(t.Context(), "k", v))
	v.Tags["a"] = "2"
	if e, _ := tab.Get("k"); e.Value.Tags["a"] != "1" {
		t.Fatal("the writer's map is in the table")
	}
}

func TestRefusals(t *testing.T) {
	c := open(t, Config{})
	tab := table(t, c, "apps")
	for _, key := range []string{"", ".", "a..b", ".a", "a.", "a b", "a*", ">", "ä", "a\n", strings.Repeat("x", 600)} {
		if _, err := tab.Put(t.Context(), key, rec{}); err == nil {
			t.Errorf("key %q was taken", key)
		}
		if err := tab.Delete(t.Context(), key); err == nil {
			t.Errorf("delete of key %q was taken", key)
		}
	}
	if _, err := tab.Put(t.Context(), "big", rec{Name: strings.Repeat("x", MaxRecord)}); err == nil {
		t.Error("a record over the limit was taken")
	}
	if _, err := tab.Put(t.Context(), "nearly", rec{Name: strings.Repeat("x", MaxRecord-100)}); err != nil {
		t.Errorf("a record under the limit was refused: %v", err)
	}
	for _, name := range []string{"", "a.b", "a/b", "*", "apps"} {
		if _, err := NewTable[rec](c, name); err == nil {
			t.Errorf("table %q was opened", name)
		}
	}
}

func TestUnreadableRecordIsLeftOut(t *testing.T) {
	c := open(t, Config{})
	if _, err := c.own.kv.Put(t.Context(), "apps.bad", []byte("{")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.own.kv.Put(t.Context(), "apps.good", []byte(`{"n":1,"unknown":true}`)); err != nil {
		t.Fatal(err)
	}
	tab := table(t, c, "apps")
	eventually(t, "the good record is there", func() bool { return len(tab.List("")) == 1 })
	if got := tab.List(""); got[0].Key != "good" {
		t.Fatalf("got %+v", got)
	}
}

func TestDirectoryFaults(t *testing.T) {
	for name, tc := range map[string]struct {
		prepare func(t *testing.T, dir string)
		want    error
	}{
		"in use": {func(t *testing.T, dir string) { open(t, Config{Dir: dir}) }, ErrInUse},
		"foreign": {func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "nats", "PG_VERSION"), "15")
		}, ErrForeign},
		"newer": {func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "nats", markFile), `{"format":99}`)
		}, ErrForeign},
		"mark damaged": {func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "nats", markFile), "\x00\x00")
		}, ErrDamaged},
		"bucket gone": {func(t *testing.T, dir string) {
			used(t, dir)
			if err := os.RemoveAll(filepath.Join(dir, "nats", "jetstream")); err != nil {
				t.Fatal(err)
			}
		}, ErrDamaged},
		"bucket unreadable": {func(t *testing.T, dir string) {
			used(t, dir)
			metas, _ := filepath.Glob(filepath.Join(dir, "nats/jetstream/*/streams/KV_catalog/meta.inf"))
			if len(metas) != 1 {
				t.Fatalf("found %v", metas)
			}
			write(t, metas[0], "garbage")
		}, ErrDamaged},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			tc.prepare(t, dir)
			c, err := Open(t.Context(), Config{Dir: dir, Logger: quiet})
			if err == nil {
				c.Close()
			}
			if !errors.Is(err, tc.want) {
				t.Fatalf("got %v, want %v", err, tc.want)
			}
			t.Log(err)
		})
	}
	if _, err := Open(t.Context(), Config{}); err == nil {
		t.Error("opened without a place")
	}
	if _, err := Open(t.Context(), Config{Dir: t.TempDir(), Listen: "0.0.0.0:0", Logger: quiet}); err == nil {
		t.Error("listens to everyone without a token")
	}
	if _, err := Open(t.Context(), Config{Servers: []string{"nats://127.0.0.1:1"}, Logger: quiet}); err == nil {
		t.Error("opened with nobody there")
	}
}

func used(t *testing.T, dir string) {
	c := open(t, Config{Dir: dir})
	must[uint64](t)(table(t, c, "apps").Put(t.Context(), "k", rec{}))
	c.Close()
}

func write(t *testing.T, path, data string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestWatch(t *testing.T) {
	tab := table(t, open(t, Config{}), "machines")
	ctx, cancel := context.WithCancel(t.Context())
	rev := must[uint64](t)
	rev(tab.Put(ctx, "a.1", rec{N: 1}))
	rev(tab.Put(ctx, "a.2", rec{N: 2}))
	rev(tab.Put(ctx, "b.1", rec{N: 3}))
	changes := tab.Watch(ctx, "a.")
	expect(t, changes, "a.1=1", "a.2=2")
	rev(tab.Put(ctx, "b.1", rec{N: 4}))
	rev(tab.Put(ctx, "a.1", rec{N: 5}))
	expect(t, changes, "a.1=5")
	if err := tab.Delete(ctx, "a.2"); err != nil {
		t.Fatal(err)
	}
	expect(t, changes, "a.2 gone")
	cancel()
	for range changes {
	}
}

func expect(t *testing.T, changes <-chan Change[rec], want ...string) {
	t.Helper()
	for _, w := range want {
		select {
		case c := <-changes:
			got := fmt.Sprintf("%s=%d", c.Key, c.Value.N)
			if c.Deleted {
				got = c.Key + " gone"
			}
			if got != w {
				t.Fatalf("change %q, want %q", got, w)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("no change, want %q", w)
		}
	}
}

func TestSlowWatcherGetsTheLatest(t *testing.T) {
	c := open(t, Config{})
	tab := table(t, c, "machines")
	changes := tab.Watch(t.Context(), "")
	for i := range 500 {
		must[uint64](t)(tab.Put(t.Context(), "k", rec{N: i}))
	}
	n, last := 0, -1
	for last != 499 {
		ch := <-changes
		if ch.Value.N <= last {
			t.Fatalf("went back from %d to %d", last, ch.Value.N)
		}
		n, last = n+1, ch.Value.N
	}
	if n > 3 {
		t.Errorf("%d changes handed out for one key that nobody read", n)
	}
	c.Close()
	if _, ok := <-changes; ok {
		t.Error("watch goes on after close")
	}
}

func TestConcurrentWriters(t *testing.T) {
	tab := table(t, open(t, Config{}), "machines")
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 40 {
				increment(t, tab, fmt.Sprintf("shared.%d", (g+i)%3))
			}
		})
	}
	wg.Wait()
	sum := 0
	for _, e := range tab.List("shared.") {
		sum += e.Value.N
	}
	if sum != 8*40 {
		t.Fatalf("counted %d, want %d: an update was lost", sum, 8*40)
	}
}

func increment(t *testing.T, tab *Table[rec], key string) {
	for {
		e, ok := tab.Get(key)
		var err error
		if ok {
			_, err = tab.Update(t.Context(), key, rec{N: e.Value.N + 1}, e.Revision)
		} else {
			_, err = tab.Create(t.Context(), key, rec{N: 1})
		}
		if err == nil {
			return
		}
		if !errors.Is(err, ErrConflict) && !errors.Is(err, ErrExists) {
			t.Error(err)
			return
		}
	}
}
