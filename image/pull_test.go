package image_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/compression"
	"github.com/google/go-containerregistry/pkg/name"
	ggcr "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"
	"github.com/perigee-run/perigee/image"
)

var discard = log.New(io.Discard, "", 0)

func TestPullTakesEveryCompression(t *testing.T) {
	host, stop := away(t)
	config := v1.Config{
		Entrypoint: []string{"/bin/app"}, Cmd: []string{"serve"}, Env: []string{"A=1"}, User: "node", WorkingDir: "/srv/app",
		StopSignal: "SIGQUIT", ExposedPorts: map[string]struct{}{"8080/tcp": {}, "53/udp": {}}, Volumes: map[string]struct{}{"/data": {}},
		Labels: map[string]string{"l": "v"}, Healthcheck: &v1.HealthConfig{Test: []string{"CMD", "true"}, Interval: time.Second},
	}
	push(t, host+"/team/app:v1", build(t, config,
		pack(t, archive(t, file("a", "1"), file("gone", "x")), compression.GZip),
		pack(t, archive(t, file("b", strings.Repeat("2", 3<<20))), compression.ZStd),
		pack(t, archive(t, file("c", "3"), file(".wh.gone", "")), compression.None)))

	s := open(t)
	var phases [3][]image.Phase
	img, err := s.Pull(context.Background(), host+"/team/app:v1", func(p image.Progress) {
		if seen := phases[p.Index]; len(seen) == 0 || seen[len(seen)-1] != p.Phase {
			phases[p.Index] = append(seen, p.Phase)
		}
		if p.Layers != 3 || p.Done > p.Total {
			t.Errorf("progress %+v", p)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, got := range phases {
		if want := []image.Phase{image.PhaseWaiting, image.PhaseDownloading, image.PhaseUnpacking, image.PhaseDone}; !reflect.DeepEqual(got, want) {
			t.Errorf("layer %d went through %v", i, got)
		}
	}
	want := image.RunConfig{Entrypoint: []string{"/bin/app"}, Cmd: []string{"serve"}, Env: []string{"A=1"}, User: "node", WorkingDir: "/srv/app",
		StopSignal: "SIGQUIT", ExposedPorts: []string{"53/udp", "8080/tcp"}, Volumes: []string{"/data"},
		Healthcheck: &image.Healthcheck{Test: []string{"CMD", "true"}, Interval: time.Second}}
	if !reflect.DeepEqual(img.Config, want) || img.Labels["l"] != "v" {
		t.Errorf("config %+v labels %v", img.Config, img.Labels)
	}
	if img.Registry != host || img.Repository != "team/app" || img.Tag != "v1" || img.Ref != host+"/team/app:v1" {
		t.Errorf("reference %+v", img)
	}
	if st, err := os.Stat(img.Rootfs); err != nil || st.Size() != img.Size || img.Size%4096 != 0 {
		t.Errorf("rootfs: %v, %d bytes", err, img.Size)
	}
	stop()
	again := pull(t, s, host+"/team/app@"+img.Digest)
	if again.Rootfs != img.Rootfs || again.Tag != "" {
		t.Errorf("offline by digest: %+v", again)
	}
	if _, ok := s.Get(host + "/team/app:v1"); !ok {
		t.Error("Get by tag found nothing")
	}
	if _, err := s.Pull(context.Background(), host+"/team/app:v1", nil); err == nil {
		t.Error("a tag was pulled from a registry that is down")
	}
}

func TestPullPicksThePlatform(t *testing.T) {
	host, _ := away(t)
	mine := simple(t, "mine")
	other := buildFor(t, "s390x", v1.Config{}, pack(t, archive(t, file("hello", "other")), compression.GZip))
	index := func(imgs map[string]v1.Image) v1.ImageIndex {
		idx := v1.ImageIndex(empty.Index)
		for arch, img := range imgs {
			idx = mutate.AppendManifests(idx, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}})
		}
		return idx
	}
	write := func(ref string, idx v1.ImageIndex) {
		t.Helper()
		parsed, err := name.ParseReference(ref)
		if err != nil {
			t.Fatal(err)
		}
		if err := remote.WriteIndex(parsed, idx); err != nil {
			t.Fatal(err)
		}
	}
	both := index(map[string]v1.Image{runtime.GOARCH: mine, "s390x": other})
	write(host+"/multi:v1", both)
	write(host+"/nested:v1", mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: both,
		Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: runtime.GOARCH}}}))
	write(host+"/other:v1", index(map[string]v1.Image{"s390x": other}))
	push(t, host+"/single:v1", other)

	s := open(t)
	if img := pull(t, s, host+"/multi:v1"); img.Digest != digestOf(t, mine) {
		t.Errorf("multi: got %s", img.Digest)
	}
	if img := pull(t, s, host+"/nested:v1"); img.Digest != digestOf(t, mine) {
		t.Errorf("nested: got %s", img.Digest)
	}
	if _, ok := s.Get(digestOf(t, both)); !ok {
		t.Error("the index' digest does not find the image")
	}
	for _, ref := range []string{"/other:v1", "/single:v1"} {
		_, err := s.Pull(context.Background(), host+ref, nil)
		wantError(t, err, "no image for linux/"+runtime.GOARCH, "linux/s390x", host+ref)
	}
}

func TestPullSharesRootfsOfEqualLayers(t *testing.T) {
	host, _ := away(t)
	l := pack(t, archive(t, file("a", "1"), file("etc/passwd", "u:x:5:5::/h:/s\n")), compression.GZip)
	push(t, host+"/app:v1", build(t, v1.Config{Env: []string{"V=1"}}, l))
	push(t, host+"/app:v2", build(t, v1.Config{Env: []string{"V=2"}}, l))
	s := open(t)
	one, two := pull(t, s, host+"/app:v1"), pull(t, s, host+"/app:v2")
	if one.Digest == two.Digest || one.Rootfs != two.Rootfs || two.Size == 0 {
		t.Errorf("got %+v and %+v", one, two)
	}
	if err := s.Remove(context.Background(), one.Digest); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(two.Rootfs); err != nil {
		t.Error("the shared rootfs went with its first image")
	}
	if uid, _, _, _, err := s.LookupUser(two.Digest, "u"); err != nil || uid != 5 {
		t.Errorf("user of the second image: %d, %v", uid, err)
	}
}

func TestPullMovesTags(t *testing.T) {
	host, _ := away(t)
	s := open(t)
	push(t, host+"/app:v1", simple(t, "1"))
	one := pull(t, s, host+"/app:v1")
	push(t, host+"/app:v1", simple(t, "2"))
	two := pull(t, s, host+"/app:v1")
	got, _ := s.Get(host + "/app:v1")
	if one.Digest == two.Digest || got.Digest != two.Digest {
		t.Errorf("the tag leads to %s", got.Digest)
	}
	if _, ok := s.Get(one.Digest); !ok {
		t.Error("the old image is gone")
	}
	if all := s.List(); len(all) != 2 {
		t.Errorf("List: %d images", len(all))
	}
}

func TestPullRefusesHostileImages(t *testing.T) {
	layer := func(entries ...entry) v1.Image {
		return build(t, v1.Config{}, pack(t, archive(t, entries...), compression.GZip))
	}
	static := func(content []byte, kind types.MediaType) v1.Image {
		return build(t, v1.Config{}, static.NewLayer(content, kind))
	}
	whole := archive(t, file("a", strings.Repeat("x", 9000)))
	host, _ := away(t)
	for n, c := range map[string]struct {
		img    v1.Image
		change func(*image.Config)
		want   string
	}{
		"escape":          {layer(file("../../etc/cron.d/x", "x")), nil, ".. step"},
		"escaping link":   {layer(link(tar.TypeLink, "x", "../../etc/passwd")), nil, ".. step"},
		"truncated tar":   {static(whole[:3000], types.OCIUncompressedLayer), nil, "truncated"},
		"not a tar":       {static(bytes.Repeat([]byte("garbage!"), 512), types.OCIUncompressedLayer), nil, "cannot read the layer's archive"},
		"broken gzip":     {static(append([]byte{0x1f, 0x8b, 8, 0}, bytes.Repeat([]byte{7}, 2000)...), types.OCILayer), nil, "cannot unpack the layer"},
		"too many files":  {layer(file("a", ""), file("b", ""), file("c", "")), func(c *image.Config) { c.MaxFiles = 2 }, "more than 2 files"},
		"too large":       {layer(file("a", strings.Repeat("x", 100000))), func(c *image.Config) { c.MaxSize = 50000 }, "larger than 50000"},
		"bomb":            {static(bomb(t), types.OCILayerZStd), func(c *image.Config) { c.MaxRatio = 100 }, "more than 100 times"},
		"not an image":    {mutate.ConfigMediaType(layer(file("a", "x")), "application/vnd.cncf.helm.config.v1+json"), nil, "helm"},
		"foreign layer":   {static([]byte("{}"), "application/vnd.in-toto+json"), nil, "in-toto"},
		"bad working dir": {build(t, v1.Config{WorkingDir: "/a/b"}, pack(t, archive(t, file("a", "x")), compression.GZip)), nil, "/a/b"},
	} {
		t.Run(n, func(t *testing.T) {
			ref := host + "/hostile/" + strings.ReplaceAll(n, " ", "-") + ":v1"
			push(t, ref, c.img)
			dir := t.TempDir()
			s := open(t, func(cfg *image.Config) { cfg.Dir = dir }, func(cfg *image.Config) {
				if c.change != nil {
					c.change(cfg)
				}
			})
			_, err := s.Pull(context.Background(), ref, nil)
			wantError(t, err, c.want, ref)
			leavesNothing(t, dir)
		})
	}
}

// bomb is a small layer that becomes 300 MiB of zeros.
func bomb(t *testing.T) []byte {
	t.Helper()
	var out bytes.Buffer
	z, err := zstd.NewWriter(&out)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(z)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "a", Size: 300 << 20}); err != nil {
		t.Fatal(err)
	}
	for range 300 {
		w.Write(make([]byte, 1<<20))
	}
	w.Close()
	z.Close()
	return out.Bytes()
}

// liar changes what a registry sends.
type liar struct {
	http.Handler
	lie func(path string, body []byte) []byte
}

func (l liar) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rec := httptest.NewRecorder()
	l.Handler.ServeHTTP(rec, r)
	body := rec.Body.Bytes()
	if r.Method == http.MethodGet {
		body = l.lie(r.URL.Path, body)
	}
	for k, v := range rec.Header() {
		if k != "Content-Length" && k != "Docker-Content-Digest" {
			w.Header()[k] = v
		}
	}
	if size := rec.Header().Get("Content-Length"); r.Method == http.MethodHead && size != "" {
		w.Header().Set("Content-Length", size)
	}
	w.WriteHeader(rec.Code)
	w.Write(body)
}

func TestPullVerifiesWhatRegistriesSend(t *testing.T) {
	flip := func(b []byte) []byte { b = bytes.Clone(b); b[len(b)-1] ^= 1; return b }
	good := simple(t, "good")
	wrongDiff := mustConfig(t, good, func(c *v1.ConfigFile) { c.RootFS.DiffIDs[0].Hex = strings.Repeat("a", 64) })
	fewDiffs := mustConfig(t, good, func(c *v1.ConfigFile) { c.RootFS.DiffIDs = nil })
	for n, c := range map[string]struct {
		img  v1.Image
		lie  func(path string, body []byte) []byte
		ref  func(v1.Image) string
		want string
	}{
		"other layer": {good, func(p string, b []byte) []byte {
			if strings.Contains(p, "/blobs/") && len(b) > 2 && b[0] == 0x1f {
				return flip(b)
			}
			return b
		}, nil, ""},
		"longer layer": {good, func(p string, b []byte) []byte {
			if strings.Contains(p, "/blobs/") {
				return append(bytes.Clone(b), 0)
			}
			return b
		}, nil, ""},
		"shorter layer": {good, func(p string, b []byte) []byte {
			if strings.Contains(p, "/blobs/") {
				return b[:len(b)-1]
			}
			return b
		}, nil, ""},
		"other manifest": {good, func(p string, b []byte) []byte {
			if strings.Contains(p, "/manifests/") {
				return append(bytes.Clone(b), ' ')
			}
			return b
		}, func(i v1.Image) string { return "@" + digestOf(t, i) }, ""},
		"wrong diff id": {wrongDiff, func(_ string, b []byte) []byte { return b }, nil, "the image's configuration says sha256:aaaa"},
		"few diff ids":  {fewDiffs, func(_ string, b []byte) []byte { return b }, nil, "names 0 layers, its manifest 1"},
	} {
		t.Run(n, func(t *testing.T) {
			srv := httptest.NewServer(liar{ggcr.New(ggcr.Logger(discard)), c.lie})
			defer srv.Close()
			base := strings.TrimPrefix(srv.URL, "http://") + "/app"
			push(t, base+":v1", c.img)
			ref := base + ":v1"
			if c.ref != nil {
				ref = base + c.ref(c.img)
			}
			dir := t.TempDir()
			s := open(t, func(cfg *image.Config) { cfg.Dir = dir })
			_, err := s.Pull(context.Background(), ref, nil)
			wantError(t, err, c.want)
			leavesNothing(t, dir)
		})
	}
}

func mustConfig(t *testing.T, img v1.Image, change func(*v1.ConfigFile)) v1.Image {
	t.Helper()
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c = c.DeepCopy()
	change(c)
	if img, err = mutate.ConfigFile(img, c); err != nil {
		t.Fatal(err)
	}
	return img
}

func TestPullExplainsRefusals(t *testing.T) {
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	guarded := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	defer guarded.Close()
	tlsOnly := httptest.NewUnstartedServer(ggcr.New(ggcr.Logger(discard)))
	tlsOnly.Config.ErrorLog = discard
	tlsOnly.StartTLS()
	defer tlsOnly.Close()
	host, _ := away(t)
	push(t, host+"/app:v1", simple(t, "x"))
	push(t, host+"/app:v2", simple(t, "y"))
	port := func(h string) string { return h[strings.LastIndex(h, ":"):] }
	s := open(t)
	for n, c := range map[string]struct {
		ref  string
		want []string
	}{
		"401":         {strings.TrimPrefix(guarded.URL, "http://") + "/app:v1", []string{"refused (401)", "config.json (not there)", "docker login"}},
		"unknown tag": {host + "/app:v3", []string{"has no v3", "v1, v2"}},
		"unknown app": {host + "/nope:v3", []string{"nope has no v3"}},
		"certificate": {strings.TrimPrefix(tlsOnly.URL, "https://") + "/app:v1", []string{"cannot prove who it is"}},
		"nobody home": {"localhost:1/app:v1", []string{"registry localhost:1"}},
		"bad name":    {"UPPER/case", []string{"is not an image reference"}},
		"built-in":    {"registry.test/nope:v1", []string{"no image \"nope\" in the built-in registry"}},
		"plain HTTP":  {"plain.invalid" + port(host) + "/app:v1", []string{"plain.invalid"}},
	} {
		t.Run(n, func(t *testing.T) {
			_, err := s.Pull(context.Background(), c.ref, nil)
			wantError(t, err, c.want...)
		})
	}
}

func TestPullUsesCredentials(t *testing.T) {
	inner := ggcr.New(ggcr.Logger(discard))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u, p, _ := r.BasicAuth(); r.Header.Get("Push") == "" && (u != "me" || p != "secret") {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		inner.ServeHTTP(w, r)
	}))
	defer srv.Close()
	host := strings.TrimPrefix(srv.URL, "http://")
	ref, err := name.ParseReference(host + "/app:v1")
	if err != nil {
		t.Fatal(err)
	}
	me := &authn.Basic{Username: "me", Password: "secret"}
	if err := remote.Write(ref, simple(t, "x"), remote.WithAuth(me)); err != nil {
		t.Fatal(err)
	}
	config := t.TempDir()
	t.Setenv("DOCKER_CONFIG", config)
	content := fmt.Sprintf(`{"auths":{%q:{"auth":"bWU6c2VjcmV0"}}}`, host)
	if err := os.WriteFile(filepath.Join(config, "config.json"), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	pull(t, open(t), host+"/app:v1")
}

// counting counts the GETs of blobs and can hold them back.
type counting struct {
	http.Handler
	blobs atomic.Int32
	hold  chan struct{}
}

func (c *counting) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/sha256:") {
		c.blobs.Add(1)
		select {
		case <-c.hold:
		case <-r.Context().Done():
		}
	}
	c.Handler.ServeHTTP(w, r)
}

func TestConcurrentPullsDoTheWorkOnce(t *testing.T) {
	c := &counting{Handler: ggcr.New(ggcr.Logger(discard)), hold: make(chan struct{})}
	srv := httptest.NewServer(c)
	defer srv.Close()
	ref := strings.TrimPrefix(srv.URL, "http://") + "/app:v1"
	push(t, ref, simple(t, "x"))
	s := open(t)
	ctx, cancel := context.WithCancel(context.Background())
	impatient := make(chan error, 1)
	go func() { _, err := s.Pull(ctx, ref, nil); impatient <- err }()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := s.Pull(context.Background(), ref, nil); err != nil {
				t.Error(err)
			}
		})
	}
	for c.blobs.Load() == 0 {
		runtime.Gosched()
	}
	cancel()
	if err := <-impatient; !errors.Is(err, context.Canceled) {
		t.Errorf("the cancelled pull: %v", err)
	}
	close(c.hold)
	wg.Wait()
	if n := c.blobs.Load(); n != 2 { // configuration and layer
		t.Errorf("%d blobs were fetched", n)
	}
}

func TestCancelledPullLeavesNothing(t *testing.T) {
	c := &counting{Handler: ggcr.New(ggcr.Logger(discard)), hold: make(chan struct{})}
	srv := httptest.NewServer(c)
	defer srv.Close()
	ref := strings.TrimPrefix(srv.URL, "http://") + "/app:v1"
	push(t, ref, simple(t, "x"))
	dir := t.TempDir()
	s := open(t, func(cfg *image.Config) { cfg.Dir = dir })
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		for c.blobs.Load() == 0 {
			runtime.Gosched()
		}
		cancel()
	}()
	if _, err := s.Pull(ctx, ref, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	leavesNothing(t, dir)
	close(c.hold)
	pull(t, s, ref)
}
