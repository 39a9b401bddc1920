package layer_test

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/perigee-run/perigee/image/erofs"
	"github.com/perigee-run/perigee/image/layer"
)

// tape makes layers in the order in which a test states their entries.
type tape []tar.Header

func file(name, content string) tar.Header {
	return tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(content)), Uname: content}
}

func dir(name string) tar.Header {
	return tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755}
}

func symlink(name, target string) tar.Header {
	return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target}
}

func hardlink(name, target string) tar.Header {
	return tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target}
}

// bytes writes the archive; a file's content travels in Uname.
func (e tape) bytes(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range e {
		content := h.Uname
		h.Uname = ""
		if h.ModTime.IsZero() {
			h.ModTime = time.Unix(1700000000, 0)
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatalf("cannot write header %q: %v", h.Name, err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// memory is a sink that keeps contents by block.
type memory struct {
	data map[uint32]string
	next uint32
}

func (m *memory) WriteFile(r io.Reader, size int64) (uint32, error) {
	var b strings.Builder
	if _, err := io.CopyN(&b, r, size); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return 0, err
	}
	if m.data == nil {
		m.data = map[uint32]string{}
	}
	m.next++
	m.data[m.next] = b.String()
	return m.next, nil
}

var roomy = layer.Limits{Files: 10000, Bytes: 1 << 30}

// apply merges layers and lists the outcome: "path type content", sorted.
func apply(t testing.TB, limits layer.Limits, layers ...tape) (string, error) {
	t.Helper()
	sink := &memory{}
	tree := layer.New(limits, sink)
	for _, l := range layers {
		if err := tree.Apply(context.Background(), bytes.NewReader(l.bytes(t))); err != nil {
			return "", err
		}
	}
	var out strings.Builder
	list(&out, sink, "", tree.Finish(true).Root)
	return out.String(), nil
}

func list(out *strings.Builder, sink *memory, path string, n *erofs.Inode) {
	entries := append([]erofs.Entry(nil), n.Entries...)
	for i := range entries { // few entries: insertion sort keeps the test plain
		for j := i; j > 0 && entries[j].Name < entries[j-1].Name; j-- {
			entries[j], entries[j-1] = entries[j-1], entries[j]
		}
	}
	for _, e := range entries {
		p := path + "/" + e.Name
		switch e.Inode.Mode & erofs.TypeMask {
		case erofs.TypeDir:
			fmt.Fprintf(out, "%s/\n", p)
			list(out, sink, p, e.Inode)
		case erofs.TypeSymlink:
			fmt.Fprintf(out, "%s -> %s\n", p, e.Inode.Target)
		case erofs.TypeFile:
			fmt.Fprintf(out, "%s = %s\n", p, sink.data[e.Inode.Block])
		default:
			fmt.Fprintf(out, "%s %o\n", p, e.Inode.Mode)
		}
	}
}

func TestApplyMergesLayers(t *testing.T) {
	for name, c := range map[string]struct {
		layers []tape
		want   string
	}{
		"upper file replaces lower": {
			[]tape{{file("a", "1")}, {file("a", "2")}}, "/a = 2\n"},
		"leading slash and dot are the root": {
			[]tape{{file("/a", "1"), file("./b", "2"), dir("./")}}, "/a = 1\n/b = 2\n"},
		"missing parents are made": {
			[]tape{{file("x/y/z", "1")}}, "/x/\n/x/y/\n/x/y/z = 1\n"},
		"directory over directory keeps content": {
			[]tape{{dir("d"), file("d/a", "1")}, {dir("d"), file("d/b", "2")}}, "/d/\n/d/a = 1\n/d/b = 2\n"},
		"file over directory": {
			[]tape{{file("d/a", "1")}, {file("d", "2")}}, "/d = 2\n"},
		"directory over file": {
			[]tape{{file("d", "1")}, {dir("d"), file("d/a", "2")}}, "/d/\n/d/a = 2\n"},
		"directory over symlink": {
			[]tape{{dir("real"), symlink("d", "real")}, {dir("d"), file("d/a", "2")}}, "/d/\n/d/a = 2\n/real/\n"},
		"whiteout": {
			[]tape{{file("d/a", "1"), file("d/b", "1")}, {file("d/.wh.a", "")}}, "/d/\n/d/b = 1\n"},
		"whiteout of a directory": {
			[]tape{{file("d/e/a", "1")}, {file("d/.wh.e", "")}}, "/d/\n"},
		"whiteout spares its own layer, in both orders": {
			[]tape{{file("d/a", "1"), file("e/a", "1")}, {file("d/a", "2"), file("d/.wh.a", ""), file("e/.wh.a", ""), file("e/a", "2")}},
			"/d/\n/d/a = 2\n/e/\n/e/a = 2\n"},
		"whiteout and new directory of the same name": {
			[]tape{{file("d/a", "1")}, {dir("d"), file("d/b", "2"), file(".wh.d", "")}}, "/d/\n/d/b = 2\n"},
		"whiteout of what is not there": {
			[]tape{{file("a", "1")}, {file(".wh.b", ""), file("no/.wh.c", "")}}, "/a = 1\n"},
		"opaque": {
			[]tape{{file("d/a", "1"), file("d/s/a", "1")}, {file("d/s/b", "2"), file("d/.wh..wh..opq", ""), file("d/c", "2")}},
			"/d/\n/d/c = 2\n/d/s/\n/d/s/b = 2\n"},
		"opaque root": {
			[]tape{{file("a", "1")}, {file(".wh..wh..opq", ""), file("b", "2")}}, "/b = 2\n"},
		"opaque twice, one layer apart": {
			[]tape{{file("d/a", "1")}, {file("d/.wh..wh..opq", ""), file("d/b", "2")}, {file("d/.wh..wh..opq", ""), file("d/c", "3")}},
			"/d/\n/d/c = 3\n"},
		"aufs bookkeeping is left out": {
			[]tape{{file(".wh..wh.aufs", ""), dir(".wh..wh.plnk"), file(".wh..wh.plnk/1.2", "x"), file("a", "1")}}, "/a = 1\n"},
		"hard link to a lower layer survives the whiteout": {
			[]tape{{file("a", "1")}, {hardlink("b", "a"), file(".wh.a", "")}}, "/b = 1\n"},
		"hard link to a symlink is the symlink": {
			[]tape{{symlink("a", "nowhere"), hardlink("b", "a")}}, "/a -> nowhere\n/b -> nowhere\n"},
		"symlinked parent stays inside": {
			[]tape{{symlink("etc", "/real/etc"), file("etc/passwd", "1")}}, "/etc -> /real/etc\n/real/\n/real/etc/\n/real/etc/passwd = 1\n"},
		"symlinked parent that climbs ends at the root": {
			[]tape{{symlink("up", "../../../../etc"), file("up/shadow", "1")}}, "/etc/\n/etc/shadow = 1\n/up -> ../../../../etc\n"},
		"relative symlinked parent": {
			[]tape{{dir("usr/lib"), symlink("usr/lib64", "lib"), file("usr/lib64/x", "1")}}, "/usr/\n/usr/lib/\n/usr/lib/x = 1\n/usr/lib64 -> lib\n"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := apply(t, roomy, c.layers...)
			if err != nil || got != c.want {
				t.Errorf("got %v\n%swant\n%s", err, got, c.want)
			}
		})
	}
}

func TestApplyRefusesHostileEntries(t *testing.T) {
	long := strings.Repeat("n", 256)
	for name, c := range map[string]struct {
		layers []tape
		want   string
	}{
		"dot dot":                    {[]tape{{file("../a", "1")}}, "a .. step"},
		"dot dot inside":             {[]tape{{file("a/../../b", "1")}}, "a .. step"},
		"dot dot after slash":        {[]tape{{file("/../b", "1")}}, "a .. step"},
		"hard link outside":          {[]tape{{hardlink("a", "../../etc/passwd")}}, "a .. step"},
		"hard link to nothing":       {[]tape{{hardlink("a", "/etc/passwd")}}, "no such file"},
		"hard link to itself":        {[]tape{{hardlink("a", "a")}}, "no such file"},
		"hard link to a directory":   {[]tape{{dir("d"), hardlink("a", "d")}}, "is a directory"},
		"hard link to the root":      {[]tape{{hardlink("a", "/")}}, "the root"},
		"hard link through the host": {[]tape{{symlink("x", "/etc"), hardlink("a", "x/passwd")}}, "no such file"},
		"symlink loop":               {[]tape{{symlink("a", "b"), symlink("b", "a"), file("a/c", "1")}}, "too many symlinks"},
		"parent is a file":           {[]tape{{file("a", "1"), file("a/b", "2")}}, "not a directory"},
		"long name":                  {[]tape{{file(long, "1")}}, "longer than 255"},
		"long path":                  {[]tape{{file(strings.Repeat("a/", 2100)+"b", "1")}}, "longer than 4096"},
		"long symlink":               {[]tape{{symlink("a", strings.Repeat("x", 5000))}}, "1 to 4095"},
		"empty symlink":              {[]tape{{symlink("a", "")}}, "1 to 4095"},
		"long name by symlink":       {[]tape{{symlink("a", long), file("a/b", "1")}}, "longer than 255"},
		"empty whiteout":             {[]tape{{file("d/.wh.", "")}}, "names nothing"},
		"dot dot whiteout":           {[]tape{{file("d/.wh...", "")}}, "names nothing"},
		"root is a file":             {[]tape{{file(".", "1")}}, "the root must be"},
		"device out of range":        {[]tape{{{Typeflag: tar.TypeChar, Name: "a", Devmajor: 5000}}}, "out of range"},
		"unknown type":               {[]tape{{{Typeflag: 'V', Name: "a"}}}, "not one that images have"},
		"owner out of range":         {[]tape{{{Typeflag: tar.TypeDir, Name: "a", Uid: 1 << 33}}}, "out of range"},
		"huge attribute": {[]tape{{{Typeflag: tar.TypeDir, Name: "a", PAXRecords: map[string]string{
			"SCHILY.xattr.user.a": strings.Repeat("x", 70000)}}}}, "malformed"},
		"many attributes": {[]tape{{{Typeflag: tar.TypeDir, Name: "a", PAXRecords: map[string]string{
			"SCHILY.xattr.user.a": strings.Repeat("x", 40000), "SCHILY.xattr.user.b": strings.Repeat("x", 40000)}}}}, "more than 65536"},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := apply(t, roomy, c.layers...)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v and tree\n%swant an error with %q", err, out, c.want)
			}
		})
	}
}

func TestApplyKeepsLimits(t *testing.T) {
	var many tape
	for i := range 60 {
		many = append(many, file(fmt.Sprintf("f%d", i), ""))
	}
	for name, c := range map[string]struct {
		limits layer.Limits
		layer  tape
		want   string
	}{
		"entries":             {layer.Limits{Files: 50, Bytes: 1 << 20}, many, "more than 50 files"},
		"implied directories": {layer.Limits{Files: 50, Bytes: 1 << 20}, tape{file(strings.Repeat("a/", 60)+"b", "")}, "more than 50 files"},
		"bytes":               {layer.Limits{Files: 50, Bytes: 2000}, tape{file("a", strings.Repeat("x", 1000)), file("b", strings.Repeat("x", 1000))}, "larger than 2000 bytes"},
		"metadata":            {layer.Limits{Files: 2, Bytes: 1 << 20}, tape{symlink("a", strings.Repeat("x", 4000))}, "too much memory"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := apply(t, c.limits, c.layer)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
		})
	}
}

func TestApplySaysWhenTruncated(t *testing.T) {
	whole := tape{file("a", strings.Repeat("x", 5000))}.bytes(t)
	for _, n := range []int{100, 600, 2000} {
		err := layer.New(roomy, &memory{}).Apply(context.Background(), bytes.NewReader(whole[:n]))
		if err == nil || !strings.Contains(err.Error(), "truncated") {
			t.Errorf("first %d bytes: got %v, want an error that says truncated", n, err)
		}
	}
}

func TestTreeBakesAndPreparesMounts(t *testing.T) {
	sink := &memory{}
	tree := layer.New(roomy, sink)
	in := tape{symlink("etc/resolv.conf", "../run/x"), file("proc", "no"), symlink("tmp", "var/tmp"), dir("var/tmp"), symlink("sys", "/var")}
	if err := tree.Apply(context.Background(), bytes.NewReader(in.bytes(t))); err != nil {
		t.Fatal(err)
	}
	tree.MountPoint("proc", 0o755, false)
	tree.MountPoint("sys", 0o755, false)
	tree.MountPoint("tmp", 0o1777, true)
	if err := tree.Bake("/etc/resolv.conf", []byte("ns")); err != nil {
		t.Fatal(err)
	}
	if err := tree.MakeDir("/srv/app"); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	done := tree.Finish(true)
	list(&out, sink, "", done.Root)
	want := "/etc/\n/etc/resolv.conf = ns\n/proc/\n/srv/\n/srv/app/\n/sys/\n/tmp -> var/tmp\n/var/\n/var/tmp/\n"
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
	if len(done.Dead) != 1 || sink.data[done.Dead[0].Block] != "no" {
		t.Errorf("the replaced file should be the only dead one, got %v", done.Dead)
	}
}

func TestFileFollowsSymlinksInside(t *testing.T) {
	sink := &memory{}
	tree := layer.New(roomy, sink)
	in := tape{symlink("etc", "nix/etc"), symlink("nix/etc/passwd", "../../../store/passwd"), file("store/passwd", "root"), symlink("loop", "loop")}
	if err := tree.Apply(context.Background(), bytes.NewReader(in.bytes(t))); err != nil {
		t.Fatal(err)
	}
	if at, ok := tree.File("/etc/passwd"); !ok || sink.data[at.Block] != "root" {
		t.Errorf("got %v %v", at, ok)
	}
	for _, p := range []string{"/loop", "/store", "/none", "/"} {
		if _, ok := tree.File(p); ok {
			t.Errorf("%s: got a file", p)
		}
	}
}

// FuzzLayer: whatever the bytes are, merging ends, keeps its limits, and what
// it accepts can be written.
func FuzzLayer(f *testing.F) {
	f.Add(tape{file("a/b", "x"), hardlink("c", "a/b"), symlink("d", "/a"), file("d/e", "y"), file("a/.wh.b", "")}.bytes(f))
	f.Add(tape{{Typeflag: tar.TypeChar, Name: "dev/null", Devmajor: 1, Devminor: 3}, dir("dev")}.bytes(f))
	f.Add(tape{{Typeflag: tar.TypeDir, Name: "x", PAXRecords: map[string]string{"SCHILY.xattr.user.k": "v"}}}.bytes(f))
	f.Fuzz(func(t *testing.T, data []byte) {
		out, err := os.Create(filepath.Join(t.TempDir(), "rootfs"))
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		w := erofs.NewWriter(out, nil)
		tree := layer.New(layer.Limits{Files: 2000, Bytes: 4 << 20}, w)
		for range 2 { // the second time over itself
			if tree.Apply(context.Background(), bytes.NewReader(data)) != nil {
				return
			}
		}
		done := tree.Finish(true)
		if err := w.Drop(done.Dead); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Finish(done.Root, erofs.Stamp{}); err != nil {
			t.Fatal(err)
		}
	})
}
