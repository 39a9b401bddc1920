package image_test

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/compression"
	"github.com/google/go-containerregistry/pkg/name"
	ggcr "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/perigee-run/perigee/image"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDir); dir != "" {
		fmt.Fprintln(os.Stderr, importUntilKilled(dir))
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

// entry is a tar entry; content is for regular files.
type entry struct {
	tar.Header
	content string
}

func file(name, content string) entry {
	return entry{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}, content}
}

func dir(name string) entry {
	return entry{tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755}, ""}
}

func link(kind byte, name, target string) entry {
	return entry{tar.Header{Typeflag: kind, Name: name, Linkname: target, Mode: 0o777}, ""}
}

func archive(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		e.Size = int64(len(e.content))
		if e.ModTime.IsZero() {
			e.ModTime = time.Unix(1700000000, 0)
		}
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatalf("cannot write %q: %v", e.Name, err)
		}
		if _, err := io.WriteString(w, e.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// pack makes a layer of an archive.
func pack(t testing.TB, content []byte, c compression.Compression) v1.Layer {
	t.Helper()
	kind := map[compression.Compression]types.MediaType{
		compression.GZip: types.OCILayer, compression.ZStd: types.OCILayerZStd, compression.None: types.OCIUncompressedLayer}[c]
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(content)), nil
	}, tarball.WithCompression(c), tarball.WithMediaType(kind))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// build makes an image of layers for this machine's platform.
func build(t testing.TB, config v1.Config, layers ...v1.Layer) v1.Image {
	t.Helper()
	return buildFor(t, runtime.GOARCH, config, layers...)
}

func buildFor(t testing.TB, arch string, config v1.Config, layers ...v1.Layer) v1.Image {
	t.Helper()
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err := mutate.AppendLayers(base, layers...)
	if err != nil {
		t.Fatal(err)
	}
	img, err = mutate.ConfigFile(img, withConfig(t, img, arch, config))
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func withConfig(t testing.TB, img v1.Image, arch string, config v1.Config) *v1.ConfigFile {
	t.Helper()
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c = c.DeepCopy()
	c.OS, c.Architecture, c.Config = "linux", arch, config
	return c
}

func digestOf(t testing.TB, img interface{ Digest() (v1.Hash, error) }) string {
	t.Helper()
	d, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d.String()
}

// simple is an image with one file.
func simple(t testing.TB, content string) v1.Image {
	t.Helper()
	return build(t, v1.Config{Cmd: []string{"/hello"}}, pack(t, archive(t, file("hello", content)), compression.GZip))
}

// open opens a store in a new folder.
func open(t testing.TB, change ...func(*image.Config)) *image.Store {
	t.Helper()
	cfg := image.Config{Dir: t.TempDir(), MinFree: 1, Hosts: []string{"registry.test"}}
	for _, c := range change {
		c(&cfg)
	}
	return reopen(t, cfg)
}

func reopen(t testing.TB, cfg image.Config) *image.Store {
	t.Helper()
	s, err := image.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// away starts another registry, somewhere else on the network.
func away(t testing.TB) (host string, stop func()) {
	t.Helper()
	srv := httptest.NewServer(ggcr.New(ggcr.Logger(discard)))
	t.Cleanup(srv.Close)
	return strings.TrimPrefix(srv.URL, "http://"), srv.Close
}

// push sends an image to a registry.
func push(t testing.TB, ref string, img v1.Image) {
	t.Helper()
	if err := tryPush(ref, img); err != nil {
		t.Fatalf("cannot push %s: %v", ref, err)
	}
}

func tryPush(ref string, img v1.Image) error {
	parsed, err := name.ParseReference(ref)
	if err != nil {
		return err
	}
	tr := remote.DefaultTransport.(interface{ CloseIdleConnections() })
	defer tr.CloseIdleConnections()
	return remote.Write(parsed, img)
}

func pull(t testing.TB, s *image.Store, ref string) image.Image {
	t.Helper()
	img, err := s.Pull(context.Background(), ref, nil)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// leavesNothing checks that a failure left no temporary file, rootfs or record.
func leavesNothing(t testing.TB, dir string) {
	t.Helper()
	for _, sub := range []string{"tmp", "rootfs", "images"} {
		entries, err := os.ReadDir(filepath.Join(dir, sub))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			t.Errorf("left behind: %s/%s", sub, e.Name())
		}
	}
}

func wantError(t testing.TB, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("got no error, want one with %q", parts)
		return
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("got error %q, want %q in it", err, p)
		}
	}
}
