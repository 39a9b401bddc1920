package image_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"
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

func TestBuiltIn(t *testing.T) {
	s := open(t)
	for ref, want := range map[string]string{"registry.test/shop:v1": "shop", "registry.test/shop/web@sha256:" + sixtyFour: "shop/web", "nginx": "", "ghcr.io/shop:v1": "", "registry.test/UPPER": "", "": ""} {
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
// by a tag, and other repositories keep theirs.
func TestForgottenRepository(t *testing.T) {
	s := open(t)
	host := serve(t, s)
	push(t, host+"/shop:v1", simple(t, "old"))
	push(t, host+"/shop/web:v1", simple(t, "old web"))
	push(t, host+"/shopping:v1", simple(t, "another"))
	for _, ref := range []string{"/shop:v1", "/shop/web:v1", "/shopping:v1"} {
		pull(t, s, "registry.test"+ref)
	}
	for range 2 {
		if err := s.ForgetRepository("shop"); err != nil {
			t.Fatal(err)
		}
	}
	for ref, want := range map[string]bool{"/shop:v1": false, "/shop/web:v1": false, "/shopping:v1": true} {
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
