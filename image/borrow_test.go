package image_test

import (
	"bytes"
	"context"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/compression"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/perigee-run/perigee/image"
)

// TestDigestIsNoKey: who knows the digest of another repository's image does not get
// it by naming a repository that never had it, here or elsewhere.
func TestDigestIsNoKey(t *testing.T) {
	s := open(t)
	img := simple(t, "theirs")
	push(t, serve(t, s)+"/theirs:v1", img)
	at := "@" + digestOf(t, img)
	pull(t, s, "registry.test/theirs:v1")
	away, stop := away(t)
	defer stop()
	for _, ref := range []string{"registry.test/mine" + at, away + "/mine" + at} {
		if got, ok := s.Get(ref); ok {
			t.Errorf("Get of %s gives %+v", ref, got)
		}
		if got, err := s.Pull(context.Background(), ref, nil); err == nil {
			t.Errorf("Pull of %s gives %+v", ref, got)
		}
	}
	if _, ok := s.Get("registry.test/theirs" + at); !ok {
		t.Error("its own repository does not have it")
	}
	push(t, away+"/mine:v1", img)
	pull(t, s, away+"/mine"+at)
	if _, ok := s.Get(away + "/mine" + at); !ok {
		t.Error("a registry that has it too is not believed")
	}
}

// hollow is a registry of images whose blobs it sends only as far as it has them.
type hollow struct {
	images map[string]v1.Image // by tag
	sends  map[string]bool     // digests of blobs
}

func (l hollow) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, at, _ := strings.Cut(r.URL.Path, "/mine/")
	kind, name, _ := strings.Cut(at, "/")
	for tag, img := range l.images {
		d, err := img.Digest()
		if err != nil {
			panic(err)
		}
		if kind == "manifests" && (name == tag || name == d.String()) {
			b, _ := img.RawManifest()
			w.Header().Set("Content-Type", string(types.OCIManifestSchema1))
			w.Header().Set("Docker-Content-Digest", d.String())
			_, _ = w.Write(b)
			return
		}
		if c, err := img.ConfigName(); err == nil && kind == "blobs" && name == c.String() && l.sends[name] {
			b, _ := img.RawConfigFile()
			_, _ = w.Write(b)
			return
		}
		if h, err := v1.NewHash(name); err == nil && kind == "blobs" && l.sends[name] {
			if layer, err := img.LayerByDigest(h); err == nil {
				c, _ := layer.Compressed()
				_, _ = io.Copy(w, c)
				c.Close()
				return
			}
		}
	}
	if r.URL.Path != "/v2/" {
		http.NotFound(w, r)
	}
}

// claims is an image of a layer whose configuration says that it is another's.
func claims(t *testing.T, layer v1.Layer, as v1.Image) v1.Image {
	t.Helper()
	img := build(t, v1.Config{Cmd: []string{"/mine"}}, layer)
	theirs, err := as.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c = c.DeepCopy()
	c.RootFS = theirs.RootFS
	if img, err = mutate.ConfigFile(img, c); err != nil {
		t.Fatal(err)
	}
	return img
}

// TestForeignManifestIsNoKey: a registry that names another's layers gets none of them
// for that, whether its manifest is the other's, names its layer, or says of a layer of
// its own that it is the other's. What it does send is kept once.
func TestForeignManifestIsNoKey(t *testing.T) {
	s := open(t)
	theirs := simple(t, "theirs")
	push(t, serve(t, s)+"/theirs:v1", theirs)
	pull(t, s, "registry.test/theirs:v1")
	layers, err := theirs.Layers()
	if err != nil {
		t.Fatal(err)
	}
	own := pack(t, archive(t, file("mine", "mine")), compression.GZip)
	l := hollow{map[string]v1.Image{"whole": theirs, "layer": build(t, v1.Config{Cmd: []string{"/mine"}}, layers...), "claim": claims(t, own, theirs)}, map[string]bool{}}
	for _, tag := range []string{"layer", "claim"} {
		c, err := l.images[tag].ConfigName()
		if err != nil {
			t.Fatal(err)
		}
		l.sends[c.String()] = true
	}
	d, err := own.Digest()
	if err != nil {
		t.Fatal(err)
	}
	l.sends[d.String()] = true
	srv := httptest.NewServer(l)
	defer srv.Close()
	host := strings.TrimPrefix(srv.URL, "http://")
	for tag := range l.images {
		for range 2 {
			if got, err := s.Pull(context.Background(), host+"/mine:"+tag, nil); err == nil {
				t.Errorf("%s gives %+v", tag, got)
			}
		}
	}
	for _, img := range l.images {
		ls, _ := img.Layers()
		h, _ := ls[0].Digest()
		c, _ := img.ConfigName()
		l.sends[h.String()], l.sends[c.String()] = true, true
	}
	pull(t, s, host+"/mine:whole")
	pull(t, s, host+"/mine:layer")
	clear(l.sends)
	pull(t, s, host+"/mine:whole") // it has proved that it has it
}

func TestBuiltIn(t *testing.T) {
	s := reopen(t, image.Config{Dir: t.TempDir(), MinFree: 1, Hosts: []string{"registry.test"}, IsHost: func(n string) bool { return n == "127.0.0.2:4280" }})
	for ref, want := range map[string]string{"registry.test/shop:v1": "shop", "registry.test/shop/web@sha256:" + sixtyFour: "shop/web", "127.0.0.2:4280/shop:v1": "shop", "127.0.0.2:4281/shop:v1": "", "nginx": "", "ghcr.io/shop:v1": "", "registry.test/UPPER": "", "": ""} {
		if repo, ok := s.BuiltIn(ref); ok != (want != "") || ok && repo != want {
			t.Errorf("%q is in %q, %v", ref, repo, ok)
		}
	}
}

const sixtyFour = "0000000000000000000000000000000000000000000000000000000000000000"

// TestArchiveMustHaveWhatItNames: a blob that is here already is no reason not to look
// at what an archive has under its digest.
func TestArchiveMustHaveWhatItNames(t *testing.T) {
	s := open(t)
	dir := ociLayout(t, simple(t, "theirs"))
	if _, err := s.Import(context.Background(), bytes.NewReader(ociArchive(t, dir)), "theirs:v1", nil); err != nil {
		t.Fatal(err)
	}
	blobs, err := filepath.Glob(filepath.Join(dir, "blobs", "sha256", "*"))
	if err != nil || len(blobs) == 0 {
		t.Fatal(blobs, err)
	}
	for _, b := range blobs {
		st, err := os.Stat(b)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(b, 0); err != nil { // who knows digest and size alone
			t.Fatal(err)
		}
		if err := os.Truncate(b, st.Size()); err != nil {
			t.Fatal(err)
		}
	}
	if img, err := s.Import(context.Background(), bytes.NewReader(ociArchive(t, dir)), "mine:v1", nil); err == nil {
		t.Errorf("an archive of zeros gives %+v", img)
	}
}

// TestForgottenRepository: whoever has an app's name after it gets none of its images
// by a tag or a digest, and other repositories keep theirs.
func TestForgottenRepository(t *testing.T) {
	s := open(t)
	host := serve(t, s)
	refs := map[string]bool{"/shop:v1": false, "/shop/web:v1": false, "/shopping:v1": true}
	for ref, stays := range maps.Clone(refs) {
		push(t, host+ref, simple(t, "old "+ref))
		digest := pull(t, s, "registry.test"+ref).Digest
		repo, _, _ := strings.Cut(ref, ":")
		pull(t, s, "registry.test"+repo+"@"+digest)
		refs[repo+"@"+digest] = stays
	}
	for range 2 {
		if err := s.ForgetRepository("shop"); err != nil {
			t.Fatal(err)
		}
	}
	for ref, want := range refs {
		if got, ok := s.Get("registry.test" + ref); ok != want {
			t.Errorf("%s: %v %+v", ref, ok, got)
		}
		if _, err := s.Pull(context.Background(), "registry.test"+ref, nil); (err == nil) != want {
			t.Errorf("Pull of %s: %v", ref, err)
		}
	}
	push(t, host+"/shop:v1", simple(t, "new"))
	pull(t, s, "registry.test/shop:v1")
	if err := s.ForgetRepository("../etc"); err != nil {
		t.Error(err)
	}
}
