package image_test

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/compression"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/perigee-run/perigee/image"
	"golang.org/x/sys/unix"
)

// mount mounts a rootfs for the length of a test.
func mount(t testing.TB, rootfs string) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root to mount")
	}
	at := t.TempDir()
	if out, err := exec.Command("mount", "-t", "erofs", "-o", "ro,loop", rootfs, at).CombinedOutput(); err != nil {
		t.Skipf("cannot mount EROFS here: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(at, 0); err != nil {
			t.Errorf("cannot unmount: %v", err)
		}
	})
	return at
}

// facts lists all that can be seen of a tree: one line an object.
func facts(t testing.TB, root string) []string {
	t.Helper()
	var all []string
	first := map[uint64]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		line := fmt.Sprintf("%s mode=%o owner=%d:%d rdev=%x xattrs=%s", rel, st.Mode, st.Uid, st.Gid, st.Rdev, xattrs(path))
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" nlink=%d mtime=%d.%d content=%.60q(%d)", st.Nlink, st.Mtim.Sec, st.Mtim.Nsec, content, len(content))
		case unix.S_IFLNK:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += " to=" + target
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR && st.Nlink > 1 {
			if first[st.Ino] == "" {
				first[st.Ino] = rel
			}
			line += " same-as=" + first[st.Ino]
		}
		all = append(all, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	sort.Strings(all)
	return all
}

func xattrs(path string) string {
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, buf)
	if err != nil {
		return err.Error()
	}
	names := strings.Split(strings.TrimRight(string(buf[:n]), "\x00"), "\x00")
	sort.Strings(names)
	var out []string
	for _, name := range names {
		if name == "" {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(path, name, value)
		out = append(out, fmt.Sprintf("%s=%x/%v", name, value[:max(n, 0)], err))
	}
	return strings.Join(out, ",")
}

func special(kind byte, name string, major, minor int64) entry {
	return entry{tar.Header{Typeflag: kind, Name: name, Mode: 0o640, Devmajor: major, Devminor: minor}, ""}
}

// zoo is a layer with one of everything that tar can hold.
func zoo(t testing.TB) []byte {
	owned := file("bin/tool", strings.Repeat("tool", 3000))
	owned.Mode, owned.Uid, owned.Gid = 0o6755, 70000, 3
	owned.ModTime = time.Unix(1234567890, 987654321)
	owned.Format = tar.FormatPAX
	owned.PAXRecords = map[string]string{
		"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
		"SCHILY.xattr.user.colour":         "blue",
	}
	entries := []entry{
		dir("bin"), owned, link(tar.TypeLink, "bin/tool-again", "bin/tool"), link(tar.TypeLink, "tool-outside", "/bin/tool"),
		link(tar.TypeSymlink, "bin/sh", "tool"), link(tar.TypeSymlink, "abs", "/bin/tool"), link(tar.TypeSymlink, "long", strings.Repeat("x/", 1500)),
		special(tar.TypeChar, "null", 1, 3), special(tar.TypeBlock, "disk", 259, 70000), special(tar.TypeFifo, "pipe", 0, 0),
		file("empty", ""), file("block", strings.Repeat("b", 4096)), file("unicode-ü-名前", "x"),
		file("deep/"+strings.Repeat("d/", 300)+"bottom", "deep"), dir("crowd"), dir("tmp"), dir("proc"), dir("sys"), dir("dev"),
	}
	for i := range 3000 {
		entries = append(entries, file(fmt.Sprintf("crowd/a-name-of-some-length-%05d", i), fmt.Sprint(i)))
	}
	return archive(t, entries...)
}

func TestRootfsEqualsExtractionByTar(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to make owners and devices")
	}
	content := zoo(t)
	reference := t.TempDir()
	cmd := exec.Command("tar", "--xattrs", "--xattrs-include=*", "--same-owner", "-xpf", "-", "-C", reference)
	cmd.Stdin = bytes.NewReader(content)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("tar cannot extract here: %v: %s", err, out)
	}
	host, _ := away(t)
	push(t, host+"/zoo:v1", build(t, v1.Config{}, pack(t, content, compression.ZStd)))
	s := open(t, func(c *image.Config) { c.Xattrs = true })
	img := pull(t, s, host+"/zoo:v1")
	if img.DroppedXattrs != 0 {
		t.Errorf("%d files lost attributes", img.DroppedXattrs)
	}
	got, want := facts(t, mount(t, img.Rootfs)), facts(t, reference)
	for i := range max(len(got), len(want)) {
		g, w := at(got, i), at(want, i)
		if strings.HasPrefix(w, ". ") {
			continue // the root's own mode is the temporary folder's
		}
		if g != w {
			t.Fatalf("got  %s\nwant %s", g, w)
		}
	}
}

func at(all []string, i int) string {
	if i < len(all) {
		return all[i]
	}
	return "nothing"
}

func TestRootfsLeavesXattrsOutUnlessTold(t *testing.T) {
	host, _ := away(t)
	push(t, host+"/zoo:v1", build(t, v1.Config{}, pack(t, zoo(t), compression.GZip)))
	img := pull(t, open(t), host+"/zoo:v1")
	if img.DroppedXattrs != 1 {
		t.Errorf("DroppedXattrs is %d", img.DroppedXattrs)
	}
	if got := xattrs(filepath.Join(mount(t, img.Rootfs), "bin/tool")); got != "" {
		t.Errorf("the file has %s", got)
	}
}

func TestRootfsHasBakedFilesAndMountPoints(t *testing.T) {
	host, _ := away(t)
	push(t, host+"/app:v1", build(t, v1.Config{WorkingDir: "/srv/new"}, pack(t, archive(t,
		link(tar.TypeSymlink, "etc/resolv.conf", "/run/stub"), file("etc/hosts", "theirs")), compression.GZip)))
	s := open(t, func(c *image.Config) {
		c.Overrides = map[string][]byte{"/etc/resolv.conf": []byte("nameserver ::1\n"), "/etc/hosts": []byte("ours\n"), "/etc/new/file": {}}
	})
	img := pull(t, s, host+"/app:v1")
	root := mount(t, img.Rootfs)
	for path, want := range map[string]string{"etc/resolv.conf": "nameserver ::1\n", "etc/hosts": "ours\n", "etc/new/file": ""} {
		if got, err := os.ReadFile(filepath.Join(root, path)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", path, got, err)
		}
	}
	for path, want := range map[string]fs.FileMode{"proc": 0o755, "sys": 0o755, "dev": 0o755, "tmp": 0o777 | fs.ModeSticky, "srv/new": 0o755} {
		if st, err := os.Lstat(filepath.Join(root, path)); err != nil || st.Mode() != fs.ModeDir|want {
			t.Errorf("%s: %v, %v", path, st, err)
		}
	}
}

// Layers as a real build leaves them: a busybox root file system, changed by
// later layers, run from the mounted rootfs.
func TestRootfsOfBusyboxRuns(t *testing.T) {
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Skip("needs a static /bin/busybox (package busybox-static)")
	}
	tool := file("bin/busybox", string(busybox))
	tool.Mode = 0o755
	host, _ := away(t)
	push(t, host+"/busybox:v1", build(t, v1.Config{Cmd: []string{"sh"}},
		pack(t, archive(t, dir("bin"), tool, link(tar.TypeLink, "bin/sh", "bin/busybox"), link(tar.TypeSymlink, "bin/cat", "busybox"),
			file("etc/motd", "old"), file("opt/a/x", "x"), file("opt/b", "b")), compression.GZip),
		pack(t, archive(t, file("etc/motd", "new"), file("opt/.wh..wh..opq", ""), file("opt/c", "c")), compression.ZStd)))
	img := pull(t, open(t), host+"/busybox:v1")
	root := mount(t, img.Rootfs)
	out, err := exec.Command("chroot", root, "/bin/sh", "-c", "/bin/cat /etc/motd; echo; cd /opt && echo *").CombinedOutput()
	if err != nil || string(out) != "new\nc\n" {
		t.Errorf("%q, %v", out, err)
	}
	if fsck, err := exec.LookPath("fsck.erofs"); err == nil {
		if out, err := exec.Command(fsck, "--extract", img.Rootfs).CombinedOutput(); err != nil || bytes.Contains(out, []byte("<E>")) {
			t.Errorf("fsck.erofs: %v: %s", err, out)
		}
	}
}

func TestRootfsIsTheSameEverywhere(t *testing.T) {
	host, _ := away(t)
	push(t, host+"/zoo:v1", build(t, v1.Config{}, pack(t, zoo(t), compression.GZip), pack(t, archive(t, file("block", "new"), file("crowd/.wh..wh..opq", "")), compression.ZStd)))
	var all [2][]byte
	for i := range all {
		img, err := open(t).Pull(context.Background(), host+"/zoo:v1", nil)
		if err != nil {
			t.Fatal(err)
		}
		if all[i], err = os.ReadFile(img.Rootfs); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(all[0], all[1]) {
		t.Error("two nodes made different files of one image")
	}
}
