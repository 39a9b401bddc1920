package image_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/compression"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/klauspost/compress/zstd"
	"github.com/perigee-run/perigee/image"
)

// dockerSave is what docker save wrote before it wrote OCI layouts.
func dockerSave(t testing.TB, images map[string]v1.Image) []byte {
	t.Helper()
	refs := map[name.Tag]v1.Image{}
	for n, img := range images {
		tag, err := name.NewTag(n)
		if err != nil {
			t.Fatal(err)
		}
		refs[tag] = img
	}
	var b bytes.Buffer
	if err := tarball.MultiWrite(refs, &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// ociLayout writes a layout folder with one image.
func ociLayout(t testing.TB, img v1.Image, opts ...layout.Option) string {
	t.Helper()
	dir := t.TempDir()
	p, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.AppendImage(img, opts...); err != nil {
		t.Fatal(err)
	}
	return dir
}

// ociArchive packs a folder.
func ociArchive(t testing.TB, dir string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.AddFS(os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gzipped(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	w.Write(b)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func zstded(t testing.TB, b []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	return w.EncodeAll(b, nil)
}

func TestImportTakesEveryArchive(t *testing.T) {
	img := build(t, v1.Config{Cmd: []string{"/hello"}}, pack(t, archive(t, file("hello", "1")), compression.GZip),
		pack(t, archive(t, file("b", "2")), compression.ZStd))
	saved := dockerSave(t, map[string]v1.Image{"example.com/team/app:v7": img})
	oci := ociArchive(t, ociLayout(t, img))
	named := ociArchive(t, ociLayout(t, img, layout.WithAnnotations(map[string]string{"io.containerd.image.name": "docker.io/library/app:v7"})))
	for n, c := range map[string]struct {
		content    []byte
		name, want string
	}{
		"docker save":         {saved, "app:v1", "registry.test/app:v1"},
		"docker save, gzip":   {gzipped(t, saved), "app", "registry.test/app:latest"},
		"docker save, zstd":   {zstded(t, saved), "team/app:v1", "registry.test/team/app:v1"},
		"its own name":        {saved, "", "registry.test/team/app:v7"},
		"OCI":                 {oci, "app:v1", "registry.test/app:v1"},
		"OCI, zstd":           {zstded(t, oci), "registry.test/app:v1", "registry.test/app:v1"},
		"OCI with a name":     {named, "", "registry.test/library/app:v7"},
		"old layout of links": {legacySave(t), "app:v1", "registry.test/app:v1"},
	} {
		t.Run(n, func(t *testing.T) {
			cfg := image.Config{Dir: t.TempDir(), MinFree: 1, Hosts: []string{"registry.test", "localhost:8280"}}
			s := reopen(t, cfg)
			steps := 0
			got, err := s.Import(context.Background(), bytes.NewReader(c.content), c.name, func(image.Progress) { steps++ })
			if err != nil {
				t.Fatal(err)
			}
			if got.Ref != c.want || steps == 0 || got.Config.Cmd[0] != "/hello" {
				t.Errorf("got %+v after %d steps", got, steps)
			}
			s = reopen(t, cfg)
			for _, ref := range []string{got.Ref, "registry.test/" + got.Repository + "@" + got.Digest, "localhost:8280/" + got.Repository + ":" + got.Tag} {
				if again := pull(t, s, ref); again.Digest != got.Digest || again.Rootfs != got.Rootfs {
					t.Errorf("pull %s afterwards: %+v", ref, again)
				}
			}
		})
	}
}

// legacySave is docker save as of 2017: a folder for each layer, equal layers
// linked.
func legacySave(t testing.TB) []byte {
	t.Helper()
	layer := archive(t, file("hello", "1"))
	l := pack(t, layer, compression.None)
	img := build(t, v1.Config{Cmd: []string{"/hello"}}, l, l)
	config, err := img.RawConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	list, err := json.Marshal([]map[string]any{{"Config": "abc.json", "RepoTags": nil, "Layers": []string{"one/layer.tar", "two/layer.tar"}}})
	if err != nil {
		t.Fatal(err)
	}
	return archive(t, file("abc.json", string(config)), dir("one"), file("one/VERSION", "1.0"), file("one/layer.tar", string(layer)),
		dir("two"), link(tar.TypeSymlink, "two/layer.tar", "../one/layer.tar"), file("manifest.json", string(list)))
}

func TestImportPicksAmongImages(t *testing.T) {
	one, two := simple(t, "1"), simple(t, "2")
	saved := dockerSave(t, map[string]v1.Image{"app:one": one, "app:two": two})
	s := open(t)
	_, err := s.Import(context.Background(), bytes.NewReader(saved), "other:v1", nil)
	wantError(t, err, "2 images", "app:one", "app:two")
	got, err := s.Import(context.Background(), bytes.NewReader(saved), "app:two", nil)
	if err != nil || got.Tag != "two" {
		t.Errorf("got %+v, %v", got, err)
	}

	dir := ociLayout(t, two, layout.WithPlatform(v1.Platform{OS: "linux", Architecture: runtime.GOARCH}))
	p, err := layout.FromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	other := buildFor(t, "s390x", v1.Config{}, pack(t, archive(t, file("x", "x")), compression.GZip))
	if err := p.AppendImage(other, layout.WithPlatform(v1.Platform{OS: "linux", Architecture: "s390x"})); err != nil {
		t.Fatal(err)
	}
	got, err = s.ImportLayout(context.Background(), dir, "app:multi", nil)
	if err != nil || got.Digest != digestOf(t, two) {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestImportLayout(t *testing.T) {
	img := simple(t, "x")
	s := open(t)
	got, err := s.ImportLayout(context.Background(), ociLayout(t, img), "app:v1", nil)
	if err != nil || got.Digest != digestOf(t, img) {
		t.Errorf("got %+v, %v", got, err)
	}
	_, err = s.ImportLayout(context.Background(), t.TempDir(), "app:v2", nil)
	wantError(t, err, "no OCI layout")
	_, err = s.ImportLayout(context.Background(), filepath.Join(t.TempDir(), "none"), "app:v2", nil)
	wantError(t, err, "cannot open the layout")

	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	outside := ociLayout(t, img)
	os.Remove(filepath.Join(outside, "index.json"))
	if err := os.Symlink(secret, filepath.Join(outside, "index.json")); err != nil {
		t.Fatal(err)
	}
	_, err = s.ImportLayout(context.Background(), outside, "app:v2", nil)
	wantError(t, err, "no OCI layout")
}

func TestImportRefusesBadArchives(t *testing.T) {
	img := simple(t, "x")
	saved := dockerSave(t, map[string]v1.Image{"app:v1": img})
	layoutDir := ociLayout(t, img)
	manifestHex := strings.TrimPrefix(digestOf(t, img), "sha256:")
	lacking := ociLayout(t, img)
	if err := os.Remove(filepath.Join(lacking, "blobs/sha256", layerHex(t, img))); err != nil {
		t.Fatal(err)
	}
	lying := ociLayout(t, img)
	if err := os.WriteFile(filepath.Join(lying, "blobs/sha256", manifestHex), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	config := mustConfig(t, img, func(c *v1.ConfigFile) { c.RootFS.DiffIDs[0].Hex = strings.Repeat("b", 64) })
	helm := ociLayout(t, mutate.ConfigMediaType(img, "application/vnd.cncf.helm.config.v1+json"))
	for n, c := range map[string]struct {
		content    []byte
		name, want string
	}{
		"nothing":         {nil, "app:v1", "neither index.json nor manifest.json"},
		"no archive":      {bytes.Repeat([]byte("hello world "), 100), "app:v1", "not a tar archive"},
		"broken gzip":     {gzipped(t, saved)[:500], "app:v1", "truncated"},
		"truncated":       {saved[:len(saved)/2], "app:v1", "truncated"},
		"docker export":   {archive(t, file("etc/passwd", "x")), "app:v1", "docker save"},
		"bad name":        {saved, "App:v1", "not a name"},
		"bad tag":         {saved, "app:v/1", "not a name"},
		"no name":         {ociArchive(t, layoutDir), "", "does not name its image"},
		"missing layer":   {ociArchive(t, lacking), "app:v1", "the archive lacks sha256:"},
		"other content":   {ociArchive(t, lying), "app:v1", "does not match its digest"},
		"wrong diff id":   {dockerSave(t, map[string]v1.Image{"app:v1": config}), "app:v1", "configuration says sha256:bbbb"},
		"chart":           {ociArchive(t, helm), "app:v1", "helm"},
		"no images":       {archive(t, file("manifest.json", "[]")), "app:v1", "holds no image"},
		"bad JSON":        {archive(t, file("manifest.json", "{")), "app:v1", "not valid JSON"},
		"no config":       {archive(t, file("manifest.json", `[{"Config":"../../etc/passwd"}]`)), "app:v1", "lacks the configuration"},
		"link loop":       {archive(t, link(tar.TypeSymlink, "a", "b"), link(tar.TypeSymlink, "b", "a"), file("manifest.json", `[{"Config":"a"}]`)), "app:v1", "lacks the configuration"},
		"hostile layer":   {dockerSave(t, map[string]v1.Image{"app:v1": build(t, v1.Config{}, pack(t, archive(t, file("../x", "x")), compression.GZip))}), "app:v1", ".. step"},
		"other platform":  {dockerSave(t, map[string]v1.Image{"app:v1": buildFor(t, "s390x", v1.Config{}, pack(t, archive(t, file("x", "x")), compression.GZip))}), "app:v1", "linux/s390x"},
		"larger than max": {dockerSave(t, map[string]v1.Image{"app:v1": build(t, v1.Config{}, pack(t, archive(t, file("x", strings.Repeat("x", 2<<20))), compression.None))}), "app:v1", "larger than"},
	} {
		t.Run(n, func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, func(cfg *image.Config) { cfg.Dir = dir; cfg.MaxSize = 1 << 20 })
			_, err := s.Import(context.Background(), bytes.NewReader(c.content), c.name, nil)
			wantError(t, err, "cannot import the image", c.want)
			leavesNothing(t, dir)
			if left := blobsIn(t, dir); left > 0 {
				t.Errorf("%d blobs were left behind", left)
			}
		})
	}
}

func layerHex(t testing.TB, img v1.Image) string {
	t.Helper()
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	d, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d.Hex
}

func blobsIn(t testing.TB, dir string) (n int) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(dir, "blobs"), func(_ string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			n++
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// FuzzImport: whatever comes, Import ends, and what it refuses leaves nothing.
func FuzzImport(f *testing.F) {
	img := simple(f, "x")
	f.Add(dockerSave(f, map[string]v1.Image{"app:v1": img}))
	f.Add(ociArchive(f, ociLayout(f, img)))
	f.Add(legacySave(f))
	f.Add(gzipped(f, archive(f, file("manifest.json", "[]"))))
	f.Fuzz(func(t *testing.T, content []byte) {
		dir := t.TempDir()
		s, err := image.New(image.Config{Dir: dir, MinFree: 1, MaxSize: 4 << 20, MaxFiles: 1000})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if _, err := s.Import(context.Background(), io.LimitReader(bytes.NewReader(content), 1<<20), "app:v1", nil); err != nil {
			leavesNothing(t, dir)
		}
	})
}
