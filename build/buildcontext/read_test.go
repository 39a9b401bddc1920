package buildcontext

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// pack makes a tar; the Size of every header is that of its text.
func pack(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		e.h.Size = int64(len(e.text))
		if err := w.WriteHeader(&e.h); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, e.text)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

type entry struct {
	h    tar.Header
	text string
}

func file(name, text string) entry {
	return entry{tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, ModTime: time.Unix(1_000_000_000, 0)}, text}
}

func dirEntry(name string, mode int64) entry {
	return entry{tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: mode, ModTime: time.Unix(1_100_000_000, 0)}, ""}
}

func linkEntry(kind byte, name, target string) entry {
	return entry{tar.Header{Name: name, Typeflag: kind, Linkname: target, Mode: 0o777}, ""}
}

func TestRead(t *testing.T) {
	script := file("./sub/run.sh", "#!/bin/sh\n")
	script.h.Mode = 0o4755
	data := pack(t, dirEntry("./", 0o755), dirEntry("sub", 0o555), script, file("a", "first"), file("a", "second"),
		file("deep/er/b", "b"), linkEntry(tar.TypeSymlink, "link", "/etc/passwd"), linkEntry(tar.TypeLink, "hard", "deep/er/b"))
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	z.Write(data)
	z.Close()
	for name, in := range map[string][]byte{"tar": data, "gzip": zipped.Bytes()} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "ctx")
			if name == "gzip" {
				dir = t.TempDir() // an empty folder will do
			}
			if err := Read(t.Context(), bytes.NewReader(in), dir, Limits{}); err != nil {
				t.Fatal(err)
			}
			if err := Read(t.Context(), bytes.NewReader(in), dir, Limits{}); err == nil || !strings.Contains(err.Error(), "not empty") {
				t.Errorf("into a full folder: %v", err)
			}
			for file, want := range map[string]string{"a": "second", "deep/er/b": "b", "hard": "b", "sub/run.sh": "#!/bin/sh\n"} {
				if got, err := os.ReadFile(filepath.Join(dir, file)); err != nil || string(got) != want {
					t.Errorf("%s: %q, %v", file, got, err)
				}
			}
			st, err := os.Stat(filepath.Join(dir, "sub/run.sh"))
			if err != nil || st.Mode() != 0o755 || st.ModTime().Unix() != 1_000_000_000 {
				t.Errorf("run.sh: %v %v", st, err)
			}
			st, err = os.Stat(filepath.Join(dir, "sub"))
			if err != nil || st.Mode().Perm() != 0o755 || st.ModTime().Unix() != 1_100_000_000 {
				t.Errorf("sub: %v %v", st, err)
			}
			if l, err := os.Readlink(filepath.Join(dir, "link")); err != nil || l != "/etc/passwd" {
				t.Errorf("link: %q, %v", l, err)
			}
		})
	}
}

func TestReadRefuses(t *testing.T) {
	good := pack(t, file("a", strings.Repeat("a", 10_000)))
	zipped := func(data []byte) []byte {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		z.Write(data)
		z.Close()
		return b.Bytes()
	}
	badSum := zipped(good)
	badSum[len(badSum)-6] ^= 1
	cases := map[string]struct {
		in    []byte
		words string
	}{
		"up":                       {pack(t, file("../a", "")), "leaves the folder"},
		"up in the midst":          {pack(t, file("a/../../b", "")), "leaves the folder"},
		"absolute":                 {pack(t, file("/etc/passwd", "")), "absolute"},
		"device":                   {pack(t, entry{tar.Header{Name: "null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}, ""}), "files, folders and links"},
		"pipe":                     {pack(t, entry{tar.Header{Name: "p", Typeflag: tar.TypeFifo}, ""}), "files, folders and links"},
		"through a link":           {pack(t, linkEntry(tar.TypeSymlink, "out", ".."), file("out/escaped", "x")), "out/escaped"},
		"through a long link":      {pack(t, linkEntry(tar.TypeSymlink, "out", "/tmp"), file("out/a/b/escaped", "x")), "escaped"},
		"hard link out":            {pack(t, linkEntry(tar.TypeLink, "h", "../../../../etc/passwd")), "etc/passwd"},
		"hard link through a link": {pack(t, linkEntry(tar.TypeSymlink, "out", "/etc"), linkEntry(tar.TypeLink, "h", "out/passwd")), "h"},
		"hard link to a link":      {pack(t, linkEntry(tar.TypeSymlink, "s", "/etc/passwd"), linkEntry(tar.TypeLink, "h", "s")), "not a file"},
		"file for folder":          {pack(t, dirEntry("d", 0o755), file("d", "")), "two things"},
		"folder for file":          {pack(t, file("d", ""), dirEntry("d", 0o755)), "two things"},
		"too many bytes":           {pack(t, file("a", strings.Repeat("a", 20_000)), file("b", strings.Repeat("a", 20_000))), "too large"},
		"too many files":           {pack(t, file("1/1/1/1/1", ""), file("2/2/2/2/2/2", "")), "too large"},
		"a bomb":                   {zipped(append(good[:len(good)-1024], make([]byte, 1<<20)...)), "too large"},
		"cut":                      {good[:5000], "unexpected EOF"},
		"bad checksum":             {badSum, "checksum"},
		"not a tar":                {bytes.Repeat([]byte("not a tar "), 200), "tar"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			parent := t.TempDir()
			err := Read(t.Context(), bytes.NewReader(c.in), filepath.Join(parent, "ctx"), Limits{Bytes: 30_000, Files: 10})
			if err == nil || !strings.Contains(err.Error(), c.words) {
				t.Errorf("got %v, want words %q", err, c.words)
			}
			if strings.Contains(c.words, "too large") != errors.Is(err, ErrTooLarge) {
				t.Errorf("wrong kind of error: %v", err)
			}
			if left, _ := os.ReadDir(parent); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

func TestReadIsCalledOff(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := Read(ctx, bytes.NewReader(pack(t, file("a", "a"))), filepath.Join(t.TempDir(), "ctx"), Limits{})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// TestContextRoundTrip sends a folder as the command line does and reads it as the node does.
func TestContextRoundTrip(t *testing.T) {
	src := folder(t, map[string]string{"Dockerfile": "FROM scratch\n", "a/b/c": "c"})
	if err := os.Symlink("b/c", filepath.Join(src, "a/link")); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := Write(&b, src, ""); err != nil {
		t.Fatal(err)
	}
	dst := filepath.Join(t.TempDir(), "ctx")
	if err := Read(t.Context(), &b, dst, Limits{}); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(dst, "a/link")); err != nil || string(got) != "c" {
		t.Errorf("%q, %v", got, err)
	}
}

func FuzzRead(f *testing.F) {
	f.Add(pack(f, file("a", "a"), dirEntry("d", 0o755), file("d/b", "b")))
	f.Add(pack(f, linkEntry(tar.TypeSymlink, "out", ".."), file("out/escaped", "x")))
	f.Add(pack(f, linkEntry(tar.TypeSymlink, "s", "s"), linkEntry(tar.TypeLink, "h", "s"), file("s/x", "")))
	f.Add([]byte{0x1f, 0x8b, 8, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		parent := t.TempDir()
		limits := Limits{Bytes: 1 << 16, Files: 64}
		err := Read(t.Context(), bytes.NewReader(data), filepath.Join(parent, "ctx"), limits)
		var size int64
		var count int
		walkErr := filepath.WalkDir(parent, func(path string, d fs.DirEntry, err error) error {
			if err != nil || path == parent {
				return err
			}
			if rel, _ := filepath.Rel(parent, path); rel != "ctx" && !strings.HasPrefix(rel, "ctx/") {
				t.Errorf("%q was written outside", rel)
			}
			if !d.Type().IsRegular() && !d.IsDir() && d.Type() != fs.ModeSymlink {
				t.Errorf("%q is a %v", path, d.Type())
			}
			st, err := d.Info()
			if err == nil && d.Type().IsRegular() {
				size += st.Size()
				if st.Mode()&(fs.ModeSetuid|fs.ModeSetgid) != 0 {
					t.Errorf("%q has mode %v", path, st.Mode())
				}
			}
			count++
			return err
		})
		if walkErr != nil {
			t.Error(walkErr)
		}
		if err != nil && count > 0 {
			t.Errorf("%d things are left after %v", count, err)
		}
		if count > limits.Files+1 {
			t.Errorf("%d files", count)
		}
	})
}
