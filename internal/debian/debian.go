// Package debian makes real container images out of Debian packages, for the
// tests and benchmarks, where no registry can be reached. An image is one
// layer that mmdebstrap unpacked (kept between runs by its package list) and
// one layer of the caller's own files.
//
// It is not for users' images: those come from registries and Dockerfiles.
package debian

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sort"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Recipe says what goes into an image.
type Recipe struct {
	// Packages are Debian packages, with what they depend on. None makes an
	// image of Files alone.
	Packages []string
	// Users become lines of /etc/passwd and /etc/group beside root, by uid.
	Users map[string]int
	// Dirs are made with the owner given by uid (and the same gid), mode 0755.
	Dirs map[string]int
	// Files are added by absolute path, owned by root; one whose content begins
	// with #! or an ELF header is executable.
	Files map[string][]byte
	// Trees copies host folders into the image: image path → host folder.
	Trees map[string]string
	// Config is the image's configuration.
	Config v1.Config
}

// Available reports whether images with packages can be made here.
func Available() error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("mmdebstrap needs root to keep owners")
	}
	if _, err := exec.LookPath("mmdebstrap"); err != nil {
		return fmt.Errorf("mmdebstrap is not installed; hint: apt-get install mmdebstrap")
	}
	return nil
}

// Image makes the image.
func Image(r Recipe) (v1.Image, error) {
	var layers []v1.Layer
	if len(r.Packages) > 0 {
		base, err := baseLayer(r.Packages)
		if err != nil {
			return nil, err
		}
		layers = append(layers, base)
	}
	top, err := fileLayer(r)
	if err != nil {
		return nil, err
	}
	img, err := mutate.AppendLayers(empty.Image, append(layers, top)...)
	if err != nil {
		return nil, err
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture, cfg.Config = "linux", runtime.GOARCH, r.Config
	return mutate.ConfigFile(img, cfg)
}

// Archive makes the image and writes it as `docker save` would, into dir,
// under the reference ref ("nginx:test"); it returns the file.
func Archive(dir, ref string, r Recipe) (string, error) {
	img, err := Image(r)
	if err != nil {
		return "", err
	}
	tag, err := name.NewTag(ref)
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, strings.NewReplacer("/", "_", ":", "_").Replace(ref)+".tar")
	return path, tarball.WriteToFile(path, tag, img)
}

// baseLayer unpacks the packages, once per list, into a cached tar.
func baseLayer(packages []string) (v1.Layer, error) {
	if err := Available(); err != nil {
		return nil, err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	suite := suite()
	sum := sha256.Sum256([]byte(suite + " " + strings.Join(packages, ",")))
	path := filepath.Join(cache, "perigee-test", hex.EncodeToString(sum[:8])+".tar")
	if _, err := os.Stat(path); err != nil {
		if err := unpack(suite, packages, path); err != nil {
			return nil, err
		}
	}
	return tarball.LayerFromFile(path)
}

func unpack(suite string, packages []string, path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(path), "make-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	out := filepath.Join(tmp, "rootfs.tar")
	cmd := exec.Command("mmdebstrap", "--quiet", "--variant=extract", "--include="+strings.Join(packages, ","), suite, out)
	cmd.Env = append(os.Environ(), "TMPDIR="+tmp)
	if b, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("cannot unpack Debian packages %s: %w: %s", strings.Join(packages, ", "), err, bytes.TrimSpace(b))
	}
	return os.Rename(out, path)
}

// suite is the release of this machine, so that its own mirror has it.
func suite() string {
	b, _ := os.ReadFile("/etc/os-release")
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "VERSION_CODENAME="); ok {
			return strings.Trim(v, `"`)
		}
	}
	return "bookworm"
}

func fileLayer(r Recipe) (v1.Layer, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	files := map[string][]byte{"/etc/passwd": []byte(passwd(r.Users)), "/etc/group": []byte(group(r.Users))}
	for p, b := range r.Files {
		files[p] = b
	}
	for _, d := range sorted(r.Dirs) {
		h := &tar.Header{Typeflag: tar.TypeDir, Name: rel(d) + "/", Mode: 0o755, Uid: r.Dirs[d], Gid: r.Dirs[d], ModTime: epoch}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
	}
	for _, p := range sorted(files) {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: rel(p), Mode: mode(files[p]), Size: int64(len(files[p])), ModTime: epoch}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(files[p]); err != nil {
			return nil, err
		}
	}
	for _, p := range sorted(r.Trees) {
		if err := addTree(w, rel(p), r.Trees[p]); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(buf.Bytes())), nil })
}

var epoch = time.Unix(0, 0)

func addTree(w *tar.Writer, under, dir string) error {
	return filepath.Walk(dir, func(path string, fi os.FileInfo, err error) error {
		if err != nil || path == dir {
			return err
		}
		link := ""
		if fi.Mode()&os.ModeSymlink != 0 {
			link, _ = os.Readlink(path)
		}
		h, err := tar.FileInfoHeader(fi, link)
		if err != nil {
			return err
		}
		sub, _ := filepath.Rel(dir, path)
		h.Name, h.Uid, h.Gid, h.Uname, h.Gname = filepath.Join(under, sub), 0, 0, "", ""
		if fi.IsDir() {
			h.Name += "/"
		}
		if err := w.WriteHeader(h); err != nil || !fi.Mode().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(w, f)
		return err
	})
}

func mode(b []byte) int64 {
	if bytes.HasPrefix(b, []byte("#!")) || bytes.HasPrefix(b, []byte("\x7fELF")) {
		return 0o755
	}
	return 0o644
}

func passwd(users map[string]int) string {
	s := "root:x:0:0:root:/root:/bin/sh\n"
	for _, u := range sorted(users) {
		s += fmt.Sprintf("%s:x:%d:%d::/:/bin/sh\n", u, users[u], users[u])
	}
	return s
}

func group(users map[string]int) string {
	s := "root:x:0:\n"
	for _, u := range sorted(users) {
		s += fmt.Sprintf("%s:x:%d:\n", u, users[u])
	}
	return s
}

func rel(p string) string { return strings.TrimPrefix(p, "/") }

func sorted[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
