package erofs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"github.com/perigee-run/perigee/image/erofs"
	"golang.org/x/sys/unix"
)

// zeroReader is an endless file of zeros.
type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) { clear(p); return len(p), nil }

const huge = 5 << 30

// build writes one of everything and returns the image's path.
func build(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "rootfs.erofs")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := erofs.NewWriter(f, nil)
	root := everything(t, w)
	size, err := w.Finish(root, erofs.Stamp{UUID: [16]byte{1, 2}, Volume: "test", Time: 1700000000})
	if err != nil {
		t.Fatal(err)
	}
	if st, err := f.Stat(); err != nil || st.Size() != size || size%erofs.BlockSize != 0 {
		t.Fatalf("file has %d bytes (%v), Finish said %d", st.Size(), err, size)
	}
	return path
}

func store(t testing.TB, w *erofs.Writer, content string) *erofs.Inode {
	t.Helper()
	block, err := w.WriteFile(strings.NewReader(content), int64(len(content)))
	if err != nil {
		t.Fatal(err)
	}
	return &erofs.Inode{Mode: erofs.TypeFile | 0o644, Block: block, Size: int64(len(content)), Mtime: 1600000000, MtimeNsec: 123456789}
}

func dir(entries ...erofs.Entry) *erofs.Inode {
	return &erofs.Inode{Mode: erofs.TypeDir | 0o755, Entries: entries}
}

func everything(t testing.TB, w *erofs.Writer) *erofs.Inode {
	t.Helper()
	suid := store(t, w, strings.Repeat("suid", 5000))
	suid.Mode, suid.UID, suid.GID = erofs.TypeFile|0o6755, 100000, 4294967290
	suid.Xattrs = []erofs.Xattr{
		{Name: "security.capability", Value: "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"},
		{Name: "user.note", Value: strings.Repeat("n", 3000)},
		{Name: "trusted.t", Value: ""},
	}
	big, err := w.WriteFile(zeroReader{}, huge)
	if err != nil {
		t.Fatal(err)
	}
	crowd := dir()
	for i := range 5000 {
		crowd.Entries = append(crowd.Entries, erofs.Entry{Name: fmt.Sprintf("a-rather-long-name-%05d%s", i, strings.Repeat("x", i%200)), Inode: suid})
	}
	deep := dir(erofs.Entry{Name: "bottom", Inode: store(t, w, "deep")})
	for range 600 {
		deep = dir(erofs.Entry{Name: "down", Inode: deep})
	}
	sticky := dir()
	sticky.Mode = erofs.TypeDir | 0o1777
	sticky.Xattrs = []erofs.Xattr{{Name: "user.dir", Value: "1"}}
	return dir(
		erofs.Entry{Name: "suid", Inode: suid},
		erofs.Entry{Name: "-before-dots", Inode: store(t, w, "x")},
		erofs.Entry{Name: "!", Inode: store(t, w, "")},
		erofs.Entry{Name: "block", Inode: store(t, w, strings.Repeat("b", erofs.BlockSize))},
		erofs.Entry{Name: "huge", Inode: &erofs.Inode{Mode: erofs.TypeFile | 0o600, Block: big, Size: huge}},
		erofs.Entry{Name: "crowd", Inode: crowd},
		erofs.Entry{Name: "deep", Inode: deep},
		erofs.Entry{Name: "tmp", Inode: sticky},
		erofs.Entry{Name: strings.Repeat("ü", 127), Inode: store(t, w, "utf8")},
		erofs.Entry{Name: "short", Inode: &erofs.Inode{Mode: erofs.TypeSymlink | 0o777, Target: "suid"}},
		erofs.Entry{Name: "long", Inode: &erofs.Inode{Mode: erofs.TypeSymlink | 0o777, Target: strings.Repeat("l", erofs.MaxTarget)}},
		erofs.Entry{Name: "null", Inode: &erofs.Inode{Mode: erofs.TypeChar | 0o666, Rdev: erofs.Device(1, 3)}},
		erofs.Entry{Name: "disk", Inode: &erofs.Inode{Mode: erofs.TypeBlock | 0o660, Rdev: erofs.Device(259, 70000)}},
		erofs.Entry{Name: "pipe", Inode: &erofs.Inode{Mode: erofs.TypeFifo | 0o600}},
	)
}

func TestFsckAcceptsTheImage(t *testing.T) {
	fsck, err := exec.LookPath("fsck.erofs")
	if err != nil {
		t.Skip("needs fsck.erofs (package erofs-utils)")
	}
	out, err := exec.Command(fsck, build(t)).CombinedOutput()
	if err != nil || bytes.Contains(out, []byte("<E>")) {
		t.Errorf("fsck.erofs: %v\n%s", err, out)
	}
}

func TestSameInputSameBytes(t *testing.T) {
	read := func() []byte {
		f, err := os.Create(filepath.Join(t.TempDir(), "r"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		w := erofs.NewWriter(f, nil)
		a, b := store(t, w, "a"), store(t, w, "b")
		if _, err := w.Finish(dir(erofs.Entry{Name: "b", Inode: b}, erofs.Entry{Name: "a", Inode: a}), erofs.Stamp{}); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	if !bytes.Equal(read(), read()) {
		t.Error("two images of one tree differ")
	}
}

func TestWriteFileSaysWhenShort(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "r"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	_, err = erofs.NewWriter(f, nil).WriteFile(strings.NewReader("abc"), 4)
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v", err)
	}
}

// mount mounts an image for the length of a test.
func mount(t testing.TB, image string) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root to mount")
	}
	at := t.TempDir()
	if out, err := exec.Command("mount", "-t", "erofs", "-o", "ro,loop", image, at).CombinedOutput(); err != nil {
		t.Skipf("cannot mount EROFS here: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(at, 0); err != nil {
			t.Errorf("cannot unmount: %v", err)
		}
	})
	return at
}

func TestKernelReadsEverything(t *testing.T) {
	at := mount(t, build(t))
	for _, c := range []struct {
		name  string
		mode  uint32
		nlink uint64
		size  int64
		rdev  uint64
	}{
		{"suid", unix.S_IFREG | 0o6755, 5001, 20000, 0},
		{"!", unix.S_IFREG | 0o644, 1, 0, 0},
		{"block", unix.S_IFREG | 0o644, 1, 4096, 0},
		{"huge", unix.S_IFREG | 0o600, 1, huge, 0},
		{"short", unix.S_IFLNK | 0o777, 1, 4, 0},
		{"long", unix.S_IFLNK | 0o777, 1, erofs.MaxTarget, 0},
		{"null", unix.S_IFCHR | 0o666, 1, 0, unix.Mkdev(1, 3)},
		{"disk", unix.S_IFBLK | 0o660, 1, 0, unix.Mkdev(259, 70000)},
		{"pipe", unix.S_IFIFO | 0o600, 1, 0, 0},
	} {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(at, c.name), &st); err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if st.Mode != c.mode || uint64(st.Nlink) != c.nlink || st.Size != c.size || st.Rdev != c.rdev {
			t.Errorf("%s: got mode %o nlink %d size %d rdev %x", c.name, st.Mode, st.Nlink, st.Size, st.Rdev)
		}
	}
	checkContents(t, at)
	checkXattrs(t, at)
	checkCrowd(t, at)
}

func checkContents(t *testing.T, at string) {
	for name, want := range map[string]string{
		"suid": strings.Repeat("suid", 5000), "-before-dots": "x", "!": "",
		"block": strings.Repeat("b", 4096), strings.Repeat("ü", 127): "utf8",
		"deep/" + strings.Repeat("down/", 600) + "bottom": "deep",
	} {
		got, err := os.ReadFile(filepath.Join(at, name))
		if err != nil || string(got) != want {
			t.Errorf("%.40s: %d bytes, %v", name, len(got), err)
		}
	}
	if got, err := os.Readlink(filepath.Join(at, "long")); err != nil || len(got) != erofs.MaxTarget {
		t.Errorf("long: %d bytes, %v", len(got), err)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(at, "suid"), &st); err != nil || st.Uid != 100000 || st.Gid != 4294967290 ||
		st.Mtim.Sec != 1600000000 || st.Mtim.Nsec != 123456789 {
		t.Errorf("suid: %v, owner %d:%d, mtime %v", err, st.Uid, st.Gid, st.Mtim)
	}
}

func checkXattrs(t *testing.T, at string) {
	buf := make([]byte, 8192)
	for _, c := range []struct {
		path, attr string
		size       int
	}{{"suid", "security.capability", 20}, {"suid", "user.note", 3000}, {"suid", "trusted.t", 0}, {"tmp", "user.dir", 1}} {
		if n, err := unix.Getxattr(filepath.Join(at, c.path), c.attr, buf); err != nil || n != c.size {
			t.Errorf("%s of %s: %d bytes, %v", c.attr, c.path, n, err)
		}
	}
}

func checkCrowd(t *testing.T, at string) {
	entries, err := os.ReadDir(filepath.Join(at, "crowd"))
	if err != nil || len(entries) != 5000 {
		t.Fatalf("crowd: %d entries, %v", len(entries), err)
	}
	if !sort.SliceIsSorted(entries, func(i, j int) bool { return entries[i].Name() < entries[j].Name() }) {
		t.Error("crowd is not sorted")
	}
	for _, e := range entries {
		if _, err := os.Lstat(filepath.Join(at, "crowd", e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Lstat(filepath.Join(at, "crowd", "nobody")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nobody: %v", err)
	}
}
