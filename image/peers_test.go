package image_test

import (
	"context"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/perigee-run/perigee/image"
)

// peers is a list of sources that a test changes.
type peers struct {
	mu  sync.Mutex
	all []image.Source
}

func (p *peers) Sources(context.Context) []image.Source {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.all
}

func (p *peers) set(all ...image.Source) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all = all
}

// source serves a store to peers through a handler around it.
func source(t testing.TB, s *image.Store, around func(http.Handler) http.Handler) image.Source {
	t.Helper()
	h := s.Registry(nil)
	if around != nil {
		h = around(h)
	}
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return image.Source{Name: srv.Listener.Addr().String(), Client: srv.Client(), BaseURL: srv.URL}
}

// joined opens a store that asks peers.
func joined(t testing.TB) (*image.Store, *peers) {
	t.Helper()
	p := &peers{}
	return open(t, func(c *image.Config) { c.Peers = p }), p
}

// noise is n bytes that do not compress.
func noise(n int) string {
	r, b := rand.New(rand.NewPCG(1, 2)), make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return string(b)
}

func TestPullFromPeers(t *testing.T) {
	origin := open(t)
	img := simple(t, "x")
	push(t, serve(t, origin)+"/team/app:v1", img)
	ref := "registry.test/team/app@" + digestOf(t, img)

	second, p := joined(t)
	_, err := second.Pull(t.Context(), ref, nil)
	wantError(t, err, "there is no image")
	empty := source(t, open(t), nil)
	gone := image.Source{Name: "gone", Client: http.DefaultClient, BaseURL: "http://127.0.0.1:1"}
	p.set(gone, empty)
	_, err = second.Pull(t.Context(), ref, nil)
	wantError(t, err, "there is no image", "1 of 2 other nodes did not answer")
	p.set(gone, empty, source(t, origin, nil))
	if got := pull(t, second, ref); got.Digest != digestOf(t, img) {
		t.Errorf("got %+v", got)
	}
	if err := second.Prefetch(t.Context(), ref); err != nil {
		t.Error(err)
	}

	// What was had from a peer is had from here, when the origin is gone.
	third, p := joined(t)
	p.set(gone, source(t, second, nil))
	if got := pull(t, third, ref); got.Digest != digestOf(t, img) {
		t.Errorf("got %+v", got)
	}
}

func TestTagsAcrossPeers(t *testing.T) {
	newer := open(t)
	first, last := simple(t, "first"), simple(t, "last")
	push(t, serve(t, newer)+"/app:v1", last)
	dir := t.TempDir()
	older := open(t, func(c *image.Config) { c.Dir = dir })
	push(t, serve(t, older)+"/app:v1", first)
	hex := strings.TrimPrefix(digestOf(t, first), "sha256:")
	found, err := filepath.Glob(filepath.Join(dir, "repos", "*", "*", "*"+hex+"*"))
	if deep, _ := filepath.Glob(filepath.Join(dir, "repos", "*", "*", "*", "*"+hex+"*")); err == nil {
		found = append(found, deep...)
	}
	for _, f := range found {
		then := time.Now().Add(-time.Hour)
		if err := os.Chtimes(f, then, then); err != nil {
			t.Fatal(err)
		}
	}
	if len(found) == 0 {
		t.Fatal("the manifest's file was not found")
	}
	s, p := joined(t)
	p.set(source(t, older, nil), source(t, newer, nil))
	if got := pull(t, s, "registry.test/app:v1"); got.Digest != digestOf(t, last) {
		t.Errorf("the tag leads to %s, not to what was pushed last", got.Digest)
	}
	push(t, serve(t, s)+"/app:v1", first)
	if got := pull(t, s, "registry.test/app:v1"); got.Digest != digestOf(t, first) {
		t.Errorf("the tag leads to %s, not to this node's own", got.Digest)
	}
}

// A peer that breaks off in the middle of a layer is no reason to begin again:
// the next one goes on where it ended.
func TestPullGoesOnAtTheNextPeer(t *testing.T) {
	origin := open(t)
	img := simple(t, noise(1<<20))
	push(t, serve(t, origin)+"/app:v1", img)
	var resumed atomic.Int64
	breaks := func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			rec := httptest.NewRecorder()
			h.ServeHTTP(rec, r)
			if rec.Body.Len() < 1<<19 || !strings.Contains(r.URL.Path, "/blobs/") {
				h.ServeHTTP(w, r)
				return
			}
			w.Header().Set("Content-Length", strconv.Itoa(rec.Body.Len()))
			_, _ = w.Write(rec.Body.Bytes()[:300_000])
			panic(http.ErrAbortHandler)
		})
	}
	notes := func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if from, ok := strings.CutPrefix(r.Header.Get("Range"), "bytes="); ok {
				n, _ := strconv.ParseInt(strings.TrimSuffix(from, "-"), 10, 64)
				resumed.Store(n)
			}
			h.ServeHTTP(w, r)
		})
	}
	s, p := joined(t)
	p.set(source(t, origin, breaks), source(t, origin, notes))
	if got := pull(t, s, "registry.test/app@"+digestOf(t, img)); got.Digest != digestOf(t, img) {
		t.Errorf("got %+v", got)
	}
	if resumed.Load() == 0 {
		t.Error("the second peer was not asked for the rest")
	}
	t.Logf("the second peer went on at byte %d", resumed.Load())
}

// A peer that lies is found out, and nothing of the lie stays.
func TestPeersAreVerified(t *testing.T) {
	origin := open(t)
	img := simple(t, noise(100_000))
	push(t, serve(t, origin)+"/app:v1", img)
	lies := func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			rec := httptest.NewRecorder()
			h.ServeHTTP(rec, r)
			b := rec.Body.Bytes()
			if len(b) > 0 && strings.Contains(r.URL.Path, "/blobs/") {
				b[len(b)/2] ^= 1
			}
			w.WriteHeader(rec.Code)
			_, _ = w.Write(b)
		})
	}
	dir := t.TempDir()
	p := &peers{}
	s := open(t, func(c *image.Config) { c.Dir, c.Peers = dir, p })
	p.set(source(t, origin, lies))
	_, err := s.Pull(t.Context(), "registry.test/app@"+digestOf(t, img), nil)
	wantError(t, err, "digest")
	leavesNothing(t, dir)
}

func TestConcurrentPullsFromPeersDoTheWorkOnce(t *testing.T) {
	origin := open(t)
	img := simple(t, noise(100_000))
	push(t, serve(t, origin)+"/app:v1", img)
	var blobs atomic.Int32
	count := func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, "/blobs/") {
				blobs.Add(1)
			}
			h.ServeHTTP(w, r)
		})
	}
	s, p := joined(t)
	p.set(source(t, origin, count))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { pull(t, s, "registry.test/app@"+digestOf(t, img)) })
	}
	wg.Wait()
	if n := blobs.Load(); n != 2 { // configuration and layer
		t.Errorf("%d blobs were fetched", n)
	}
}
