package buildcontext

import (
	"archive/tar"
	"bytes"
	"errors"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		p := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func names(t *testing.T, data []byte) (list []string) {
	t.Helper()
	r := tar.NewReader(bytes.NewReader(data))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return list
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Uid != 0 || h.Gid != 0 || h.Uname != "" {
			t.Errorf("%s has an owner", h.Name)
		}
		list = append(list, h.Name)
	}
}

func TestWrite(t *testing.T) {
	all := map[string]string{"Dockerfile": "FROM scratch", "a.go": "", "node_modules/x/index.js": "", "node_modules/y/keep/me": "",
		"sub/b.log": "", "sub/c.go": ""}
	cases := []struct {
		name, ignore, dockerfile, own string
		want                          string
	}{
		{name: "all", want: "Dockerfile a.go node_modules/ node_modules/x/ node_modules/x/index.js node_modules/y/ node_modules/y/keep/ node_modules/y/keep/me sub/ sub/b.log sub/c.go"},
		{name: "folder", ignore: "# comment\nnode_modules\n**/*.log", want: ".dockerignore Dockerfile a.go sub/ sub/c.go"},
		{name: "exception below", ignore: "node_modules\n!node_modules/y/keep\nsub", want: ".dockerignore Dockerfile a.go node_modules/ node_modules/y/ node_modules/y/keep/ node_modules/y/keep/me"},
		{name: "exception with wildcard", ignore: "*\n!**/me", want: ".dockerignore Dockerfile node_modules/ node_modules/y/ node_modules/y/keep/ node_modules/y/keep/me"},
		{name: "everything", ignore: "*", want: ".dockerignore Dockerfile"},
		{name: "Dockerfile in an ignored folder", ignore: "*", dockerfile: "sub/c.go", want: ".dockerignore sub/ sub/c.go"},
		{name: "own ignore file first", ignore: "*", own: "sub\nnode_modules", want: ".dockerignore Dockerfile Dockerfile.dockerignore a.go"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			dir := folder(t, all)
			for name, text := range map[string]string{".dockerignore": c.ignore, "Dockerfile.dockerignore": c.own} {
				if text != "" {
					if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
						t.Fatal(err)
					}
				}
			}
			var first, second bytes.Buffer
			if err := Write(&first, dir, c.dockerfile); err != nil {
				t.Fatal(err)
			}
			if err := Write(&second, dir, c.dockerfile); err != nil || !bytes.Equal(first.Bytes(), second.Bytes()) {
				t.Errorf("the second time differs: %v", err)
			}
			if got := strings.Join(names(t, first.Bytes()), " "); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestWriteSendsALinkedDockerfileAsAFile(t *testing.T) {
	dir := folder(t, map[string]string{"docker/prod": "FROM scratch", ".dockerignore": "docker"})
	if err := os.Symlink("docker/prod", filepath.Join(dir, "Dockerfile")); err != nil {
		t.Skipf("needs symbolic links: %v", err)
	}
	var b bytes.Buffer
	if err := Write(&b, dir, ""); err != nil {
		t.Fatal(err)
	}
	r := tar.NewReader(&b)
	for {
		h, err := r.Next()
		if err != nil {
			t.Fatal("no Dockerfile: ", err)
		}
		if h.Name != "Dockerfile" {
			continue
		}
		if data, err := io.ReadAll(r); h.Typeflag != tar.TypeReg || string(data) != "FROM scratch" {
			t.Errorf("%c %q %v", h.Typeflag, data, err)
		}
		return
	}
}

func TestWriteRefuses(t *testing.T) {
	dir := folder(t, map[string]string{"sub/Dockerfile": ""})
	for dockerfile, words := range map[string]string{"": "there is no Dockerfile", "../Dockerfile": "outside", "sub": "not a file", "/Dockerfile": "outside"} {
		err := Write(io.Discard, dir, dockerfile)
		if err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%q: got %v, want words %q", dockerfile, err, words)
		}
		if dockerfile == "" && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("not ErrNotExist: %v", err)
		}
	}
	bad := folder(t, map[string]string{"Dockerfile": "", ".dockerignore": "[a"})
	if err := Write(io.Discard, bad, ""); err == nil || !strings.Contains(err.Error(), ".dockerignore") {
		t.Errorf("bad pattern: %v", err)
	}
	full := errors.New("the disk is full")
	if err := Write(failing{full}, folder(t, map[string]string{"Dockerfile": ""}), ""); !errors.Is(err, full) {
		t.Errorf("failing writer: %v", err)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

// TestImports keeps the package light: the command line carries it to every system.
func TestImports(t *testing.T) {
	allowed := []string{"github.com/moby/patternmatcher", "github.com/moby/patternmatcher/ignorefile"}
	for _, name := range []string{"read.go", "write.go"} {
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, imp := range f.Imports {
			if path := strings.Trim(imp.Path.Value, `"`); strings.Contains(path, ".") && !slices.Contains(allowed, path) {
				t.Errorf("%s imports %s", name, path)
			}
		}
	}
}

func FuzzReaches(f *testing.F) {
	f.Add("node_modules", "node_modules/y", "node_modules/y/keep")
	f.Add("*\n!**/me", "a/b", "a/b/me")
	f.Add("a\n!a/[b-c]/d", "a/b", "a/b/d")
	f.Fuzz(func(t *testing.T, rules, dir, below string) {
		i, err := parseIgnore(strings.NewReader(rules), "rules")
		if err != nil || !fs.ValidPath(dir) || !fs.ValidPath(below) || dir == "." || !strings.HasPrefix(below, dir+"/") {
			return
		}
		skip, err := i.match(dir)
		if err != nil || !skip {
			return
		}
		if wanted, err := i.match(below); err == nil && !wanted && !i.exceptionBelow(dir) {
			t.Errorf("%q is wanted, but %q is not walked", below, dir)
		}
	})
}
