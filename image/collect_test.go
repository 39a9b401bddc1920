package image_test

import (
	"bytes"
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/compression"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/perigee-run/perigee/image"
)

// age makes all that a store has look unused for two hours.
func age(t testing.TB, dir string) {
	t.Helper()
	then := time.Now().Add(-2 * time.Hour)
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		return os.Chtimes(path, then, then)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func importSimple(t testing.TB, s *image.Store, name, content string) image.Image {
	t.Helper()
	saved := dockerSave(t, map[string]v1.Image{name: simple(t, content)})
	img, err := s.Import(context.Background(), bytes.NewReader(saved), name, nil)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func TestCollectSparesWhatIsUsed(t *testing.T) {
	cfg := image.Config{Dir: t.TempDir(), MinFree: 1, Hosts: []string{"registry.test"}}
	s := reopen(t, cfg)
	used, idle := importSimple(t, s, "used:v1", "1"), importSimple(t, s, "idle:v1", "2")
	done, err := s.Collect(context.Background(), nil, math.MaxInt64)
	if err != nil || done.Images != 0 || len(s.List()) != 2 {
		t.Errorf("images that were just imported: %+v, %v", done, err)
	}
	age(t, cfg.Dir)
	s = reopen(t, cfg)
	if done, err := s.Collect(context.Background(), nil, 1); err != nil || done.Images != 0 {
		t.Errorf("with space to spare: %+v, %v", done, err)
	}
	done, err = s.Collect(context.Background(), map[string]bool{used.Digest: true}, math.MaxInt64)
	if err != nil || done.Images != 1 || done.Bytes == 0 || done.Free == 0 {
		t.Errorf("got %+v, %v", done, err)
	}
	if _, err := os.Stat(idle.Rootfs); !os.IsNotExist(err) {
		t.Errorf("the idle image's rootfs: %v", err)
	}
	if _, err := s.Pull(context.Background(), "registry.test/idle:v1", nil); err == nil {
		t.Error("the idle image is still in the built-in registry")
	}
	if img := pull(t, s, "registry.test/used:v1"); img.Digest != used.Digest {
		t.Errorf("the used image is %s", img.Digest)
	}
	if n := blobsIn(t, cfg.Dir); n != 3 { // manifest, configuration, layer
		t.Errorf("%d blobs are left", n)
	}
}

func TestCollectTakesTheLongestUnusedFirst(t *testing.T) {
	cfg := image.Config{Dir: t.TempDir(), MinFree: 1, Hosts: []string{"registry.test"}}
	s := reopen(t, cfg)
	var imgs []image.Image
	for _, n := range []string{"a:v1", "b:v1", "c:v1"} {
		imgs = append(imgs, importSimple(t, s, n, n))
	}
	age(t, cfg.Dir)
	record := func(i int) string {
		return filepath.Join(cfg.Dir, "images", strings.TrimPrefix(imgs[i].Digest, "sha256:")+".json")
	}
	for i, hours := range []int{3, 5, 4} { // b is the oldest
		then := time.Now().Add(-time.Duration(hours) * time.Hour)
		if err := os.Chtimes(record(i), then, then); err != nil {
			t.Fatal(err)
		}
	}
	s = reopen(t, cfg)
	if all := s.List(); all[0].Digest != imgs[0].Digest || all[2].Digest != imgs[1].Digest {
		t.Errorf("List is not in the order of use")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := s.Collect(ctx, nil, math.MaxInt64); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled collection: %v", err)
	}
	if len(s.List()) != 3 {
		t.Error("a cancelled collection removed images")
	}
}

func TestCollectSparesYoungUploads(t *testing.T) {
	dir := t.TempDir()
	s := open(t, func(c *image.Config) { c.Dir = dir })
	srv := serve(t, s)
	ref := srv + "/app:v1"
	push(t, ref, simple(t, "pushed, never run"))
	if _, err := s.Collect(context.Background(), nil, math.MaxInt64); err != nil {
		t.Fatal(err)
	}
	if n := blobsIn(t, dir); n != 3 {
		t.Errorf("a fresh push has %d blobs left", n)
	}
	age(t, dir)
	done, err := s.Collect(context.Background(), nil, math.MaxInt64)
	if err != nil || blobsIn(t, dir) != 0 || done.Images != 1 {
		t.Errorf("an old push: %+v, %v, %d blobs", done, err, blobsIn(t, dir))
	}
}

func TestRemove(t *testing.T) {
	dir := t.TempDir()
	inUse := map[string]bool{}
	s := open(t, func(c *image.Config) { c.Dir = dir; c.InUse = func() map[string]bool { return inUse } })
	img := importSimple(t, s, "app:v1", "1")
	inUse[img.Digest] = true
	if err := s.Remove(context.Background(), img.Digest); !errors.Is(err, image.ErrInUse) {
		t.Errorf("an image in use: %v", err)
	}
	delete(inUse, img.Digest)
	if err := s.Remove(context.Background(), img.Digest); err != nil {
		t.Fatal(err)
	}
	leavesNothing(t, dir)
	if n := blobsIn(t, dir); n != 0 {
		t.Errorf("%d blobs are left", n)
	}
	wantError(t, s.Remove(context.Background(), img.Digest), "not on this node")
	importSimple(t, s, "app:v1", "1") // and it can come back
}

func TestEnsureSpace(t *testing.T) {
	cfg := image.Config{Dir: t.TempDir(), MinFree: 1}
	s := reopen(t, cfg)
	if err := s.EnsureSpace(context.Background(), 1); err != nil {
		t.Error(err)
	}
	importSimple(t, s, "app:v1", "1")
	age(t, cfg.Dir)
	cfg.MinFree = math.MaxInt64 / 2
	s = reopen(t, cfg)
	wantError(t, s.EnsureSpace(context.Background(), 1<<20), "not enough space", "1 MiB are needed")
	if len(s.List()) != 0 {
		t.Error("the idle image was not collected")
	}
	saved := dockerSave(t, map[string]v1.Image{"app:v1": simple(t, "x")})
	_, err := s.Import(context.Background(), bytes.NewReader(saved), "app:v1", nil)
	wantError(t, err, "not enough space")
	leavesNothing(t, cfg.Dir)
}

func TestNewCleansUpAfterACrash(t *testing.T) {
	cfg := image.Config{Dir: t.TempDir(), MinFree: 1, Hosts: []string{"registry.test"}}
	s := reopen(t, cfg)
	good, cut, lost := importSimple(t, s, "good:v1", "1"), importSimple(t, s, "cut:v1", "2"), importSimple(t, s, "lost:v1", "3")
	write := func(path, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(cfg.Dir, path), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("tmp/blob-123", "half a blob")
	write("tmp/rootfs-123", "half a rootfs")
	write("rootfs/"+strings.Repeat("a", 64)+".erofs", "renamed, and then the power went")
	write("images/"+strings.Repeat("b", 64)+".json", "{")
	if err := os.Truncate(cut.Rootfs, 4096); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(lost.Rootfs); err != nil {
		t.Fatal(err)
	}
	s = reopen(t, cfg)
	if all := s.List(); len(all) != 1 || all[0].Digest != good.Digest {
		t.Errorf("after the crash: %+v", all)
	}
	for sub, want := range map[string]int{"tmp": 0, "rootfs": 1, "images": 1} {
		if entries, err := os.ReadDir(filepath.Join(cfg.Dir, sub)); err != nil || len(entries) != want {
			t.Errorf("%s: %v, %v", sub, entries, err)
		}
	}
	for _, was := range []image.Image{cut, lost} { // the blobs are here: no network is needed
		if img := pull(t, s, was.Ref); img.Digest != was.Digest || img.Size != was.Size {
			t.Errorf("made again: %+v", img)
		}
	}
}

func TestLookupUser(t *testing.T) {
	host, _ := away(t)
	passwd := "root:x:0:0:root:/root:/bin/sh\nnode:x:1000:1001:Node:/home/node:/bin/sh\nbroken\nwww-data:x:33:33::/var/www:\n12:x:500:500::/odd:\n"
	group := "root:x:0:\nadm:x:4:www-data,node\nnode:x:1001:\nextra:x:50:node\nbroken:x\n"
	push(t, host+"/app:v1", build(t, v1.Config{}, pack(t, archive(t, file("etc/passwd", passwd), file("etc/group", group)), compression.GZip)))
	push(t, host+"/bare:v1", simple(t, "x"))
	s := open(t)
	app, bare := pull(t, s, host+"/app:v1").Digest, pull(t, s, host+"/bare:v1").Digest
	for _, c := range []struct {
		img, spec string
		uid, gid  uint32
		groups    []uint32
		home, err string
	}{
		{app, "", 0, 0, nil, "/root", ""},
		{app, "node", 1000, 1001, []uint32{4, 50}, "/home/node", ""},
		{app, "1000", 1000, 1001, []uint32{4, 50}, "/home/node", ""},
		{app, "node:adm", 1000, 4, nil, "/home/node", ""},
		{app, "node:", 1000, 1001, []uint32{4, 50}, "/home/node", ""},
		{app, "1000:1000", 1000, 1000, nil, "/home/node", ""},
		{app, "4242", 4242, 0, nil, "/", ""},
		{app, "12", 500, 500, nil, "/odd", ""},
		{app, ":adm", 0, 4, nil, "/root", ""},
		{app, "nobody", 0, 0, nil, "", `no user "nobody"`},
		{app, "node:none", 0, 0, nil, "", `no group "none"`},
		{app, "4294967295", 0, 0, nil, "", "no user"},
		{bare, "", 0, 0, nil, "/root", ""},
		{bare, "node", 0, 0, nil, "", "no user"},
		{bare, "root", 0, 0, nil, "/root", ""},
		{"sha256:" + strings.Repeat("0", 64), "", 0, 0, nil, "", "not on this node"},
		{host + "/app:v1", "root", 0, 0, nil, "/root", ""},
	} {
		uid, gid, groups, home, err := s.LookupUser(c.img, c.spec)
		if c.err != "" {
			wantError(t, err, c.err)
			continue
		}
		if err != nil || uid != c.uid || gid != c.gid || home != c.home || len(groups) != len(c.groups) {
			t.Errorf("%q: got %d:%d %v %q, %v", c.spec, uid, gid, groups, home, err)
		}
		for i := range min(len(groups), len(c.groups)) {
			if groups[i] != c.groups[i] {
				t.Errorf("%q: groups %v", c.spec, groups)
			}
		}
	}
}

func TestNewRefusesABadConfig(t *testing.T) {
	_, err := image.New(image.Config{})
	wantError(t, err, "no folder")
	_, err = image.New(image.Config{Dir: t.TempDir(), Overrides: map[string][]byte{"etc/hosts": nil}})
	wantError(t, err, `"etc/hosts" is not an absolute path`)
	blocked := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(blocked, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = image.New(image.Config{Dir: blocked})
	wantError(t, err, blocked)
}
