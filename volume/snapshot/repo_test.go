package snapshot

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/perigee-run/perigee/volume/objects"
)

// counting is a store that counts what is put, and fails when told to.
type counting struct {
	*objects.Dir
	puts atomic.Int64
	fail atomic.Int64 // from this put on
}

func (c *counting) Put(ctx context.Context, name string, data []byte) error {
	if n := c.puts.Add(1); c.fail.Load() != 0 && n >= c.fail.Load() {
		return errors.New("the store is away")
	}
	return c.Dir.Put(ctx, name, data)
}

type kit struct {
	*Repo
	store *counting
	dir   string
	key   []byte
}

func newKit(t *testing.T) *kit {
	t.Helper()
	k := &kit{dir: t.TempDir(), key: make([]byte, 32)}
	rand.Read(k.key)
	k.store = &counting{Dir: objects.NewDir(filepath.Join(k.dir, "store"))}
	var err error
	if k.Repo, err = New(k.store, k.key); err != nil {
		t.Fatal(err)
	}
	return k
}

// image writes a sparse file: chunk number → a byte that fills it.
func (k *kit) image(t *testing.T, size int64, chunks map[int64]byte) string {
	t.Helper()
	path := filepath.Join(k.dir, "image")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	for at, with := range chunks {
		if _, err := f.WriteAt(bytes.Repeat([]byte{with}, 5000), at*ChunkSize+123); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

func (k *kit) write(t *testing.T, id, path string) (*Manifest, int64) {
	t.Helper()
	before := k.store.puts.Load()
	m := &Manifest{ID: id, Volume: "vol_1", Name: "data", App: "shop", SizeGB: 1, Key: []byte("key")}
	if err := k.Write(t.Context(), m, path); err != nil {
		t.Fatal(err)
	}
	return m, k.store.puts.Load() - before
}

func (k *kit) same(t *testing.T, id, path string) {
	t.Helper()
	m, err := k.Find(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(k.dir, "restored")
	if err := k.Restore(t.Context(), m, to); err != nil {
		t.Fatal(err)
	}
	a, _ := os.ReadFile(path)
	b, _ := os.ReadFile(to)
	if !bytes.Equal(a, b) {
		t.Errorf("snapshot %s gives %d bytes that differ from the %d", id, len(b), len(a))
	}
}

func TestRoundTrip(t *testing.T) {
	k := newKit(t)
	const size = 20*ChunkSize + 777 // the last chunk is a part of one
	one := k.image(t, size, map[int64]byte{0: 1, 3: 2, 4: 2, 20: 0})
	m, puts := k.write(t, "vs_1", one)
	if len(m.At) != 3 || puts != 3 { // two chunks, one of them twice, and the manifest
		t.Errorf("places %v, %d objects", m.At, puts)
	}
	k.same(t, "vs_1", one)
	first, _ := os.ReadFile(one)
	two := k.image(t, size, map[int64]byte{0: 1, 3: 2, 4: 3})
	if _, puts = k.write(t, "vs_2", two); puts != 2 {
		t.Errorf("one chunk differs, and %d objects are sent", puts)
	}
	k.same(t, "vs_2", two)
	if err := k.Delete(t.Context(), "vol_1", "vs_2"); err != nil {
		t.Fatal(err)
	}
	os.WriteFile(one, first, 0o600)
	k.same(t, "vs_1", one) // what it shares with the deleted one is there
	if _, err := k.Find(t.Context(), "vs_2"); !errors.Is(err, objects.ErrNotFound) {
		t.Errorf("a deleted snapshot: %v", err)
	}
	if err := k.Delete(t.Context(), "vol_1", "vs_1"); err != nil {
		t.Fatal(err)
	}
	if names, _ := objects.List(t.Context(), k.store, ""); len(names) != 0 {
		t.Errorf("left: %q", names)
	}
}

// TestCutOff: an attempt that fails leaves no snapshot, the next one sends the rest
// only, and what a lost one left goes with the next deletion.
func TestCutOff(t *testing.T) {
	k := newKit(t)
	path := k.image(t, 8*ChunkSize, map[int64]byte{0: 1, 1: 2, 2: 3, 3: 4})
	k.store.fail.Store(3)
	if err := k.Write(t.Context(), &Manifest{ID: "vs_1", Volume: "vol_1"}, path); err == nil {
		t.Fatal("the store was away, and it is no error")
	}
	if ids, err := k.List(t.Context(), "vol_1"); len(ids) != 0 || err != nil {
		t.Errorf("half a snapshot: %v, %v", ids, err)
	}
	k.store.fail.Store(0)
	if _, puts := k.write(t, "vs_1", path); puts > 3+1 {
		t.Errorf("%d objects are sent again", puts)
	}
	k.same(t, "vs_1", path)
	lost := chunkName("vol_1", chunkID{1})
	if err := errors.Join(k.store.Put(t.Context(), lost, []byte("x")), k.Delete(t.Context(), "vol_1", "none")); err != nil {
		t.Fatal(err)
	}
	if _, err := k.store.Get(t.Context(), lost); !errors.Is(err, objects.ErrNotFound) {
		t.Errorf("a lost chunk: %v", err)
	}
	k.same(t, "vs_1", path)
}

// TestDamage: nothing that was changed in the store is restored.
func TestDamage(t *testing.T) {
	k := newKit(t)
	path := k.image(t, 4*ChunkSize, map[int64]byte{0: 1, 1: 2})
	m, _ := k.write(t, "vs_1", path)
	a, b := chunkName("vol_1", m.id(0)), chunkName("vol_1", m.id(1))
	whole, _ := k.store.Get(t.Context(), a)
	other, _ := k.store.Get(t.Context(), b)
	flipped := bytes.Clone(whole)
	flipped[len(flipped)/2] ^= 1
	to := filepath.Join(k.dir, "restored")
	for name, bad := range map[string][]byte{"flipped": flipped, "another": other, "short": whole[:5], "empty": nil, "newer": append([]byte{9}, whole[1:]...)} {
		k.store.Put(t.Context(), a, bad)
		if err := k.Restore(t.Context(), m, to); err == nil {
			t.Errorf("a chunk that is %s is restored", name)
		}
		if _, err := os.Stat(to); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: half an image is left: %v", name, err)
		}
	}
	k.store.Delete(t.Context(), a)
	if err := k.Restore(t.Context(), m, to); !errors.Is(err, objects.ErrNotFound) {
		t.Errorf("without a chunk: %v", err)
	}
	stranger, _ := New(k.store, make([]byte, 32))
	if _, err := stranger.Find(t.Context(), "vs_1"); err == nil || !strings.Contains(err.Error(), "snapshots.key") {
		t.Errorf("with another key: %v", err)
	}
	name := manifestName("vol_1", "vs_2") // one snapshot's manifest under another's name
	sealed, _ := k.store.Get(t.Context(), manifestName("vol_1", "vs_1"))
	k.store.Put(t.Context(), name, sealed)
	if _, err := k.Find(t.Context(), "vs_2"); err == nil {
		t.Error("a manifest stands for another")
	}
	if err := k.Sweep(t.Context(), "vol_1"); err == nil {
		t.Error("chunks are removed though a manifest cannot be read")
	}
}

func TestNobodyElseCanRead(t *testing.T) {
	k := newKit(t)
	path := filepath.Join(k.dir, "image")
	os.WriteFile(path, bytes.Repeat([]byte("a very well known sentence. "), 50_000), 0o600)
	k.write(t, "vs_1", path)
	names, _ := objects.List(t.Context(), k.store, "")
	for _, n := range names {
		if b, _ := k.store.Get(t.Context(), n); bytes.Contains(b, []byte("well known")) || bytes.Contains(b, []byte("shop")) {
			t.Errorf("%s can be read", n)
		}
	}
}

func FuzzParseManifest(f *testing.F) {
	good, _ := json.Marshal(Manifest{ID: "vs_1", ImageSize: 3 << 20, At: []uint32{0, 2}, IDs: make([]byte, 64)})
	for _, s := range []string{string(good), `{}`, `{"image_size":1,"at":[1],"ids":""}`, `{"image_size":-1}`, `[`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseManifest(b)
		if err != nil {
			return
		}
		for i, at := range m.At {
			if int64(at)*ChunkSize >= m.ImageSize {
				t.Errorf("chunk %d is behind the end", at)
			}
			m.id(i)
		}
	})
}

func FuzzOpen(f *testing.F) {
	b, err := newBox(make([]byte, 32), "chunk", "vol_1")
	if err != nil {
		f.Fatal(err)
	}
	sealed, _ := b.seal("name", bytes.Repeat([]byte("x"), 4000))
	f.Add(sealed)
	f.Add([]byte{1, 1})
	f.Fuzz(func(t *testing.T, in []byte) {
		if _, err := b.open("name", in); err == nil && !bytes.Equal(in, sealed) {
			t.Error("something else is opened")
		}
	})
}
