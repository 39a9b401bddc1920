package house

import (
	"go/ast"
	"go/doc"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const module = "github.com/perigee-run/perigee/"

// floors says how high each room stands. Imports only go down, and rooms on
// one floor do not import each other: the one with the need declares an
// interface, and node joins them. So a room can be read, tested and replaced
// alone.
var floors = map[string]int{
	// api is the ground: words that every room and program may use.
	"api": -1, "region": -1, "appconfig": 0,
	"image": 1, "sandbox": 1, "catalog": 1, "mesh": 1, "dns": 1, "anycast": 1, "handover": 1,
	"machine": 2, "volume": 2, "router": 2, "logs": 2, "app": 2, "placement": 2, "cluster": 2, "peers": 2, "token": 2, "audit": 2,
	"deploy": 3, "build": 3, "fleet": 3,
	"httpapi": 4, "flycompat": 4, "ssh": 4,
	// lab is a tool beside the node: it starts the programs, and knows only words.
	"lab":  4,
	"node": 5, "cli": 5,
	"cmd": 6, "bench": 6, "test": 6,
}

// The CLI reaches a node through the public client only: what it can do,
// every other program can do too.
var cliMayImport = map[string]bool{"api": true, "appconfig": true, "build/buildcontext": true, "region": true, "lab": true, "mesh/wire": true, "mesh/wire/dial": true, "token/caveat": true, "cli": true, "internal": true}

func TestImportsGoDown(t *testing.T) {
	eachFile(t, func(pkg string, f *ast.File, _ *token.FileSet) {
		from := room(pkg)
		for _, imp := range f.Imports {
			path := strings.Trim(imp.Path.Value, `"`)
			if !strings.HasPrefix(path, module) {
				continue
			}
			to := strings.TrimPrefix(path, module)
			if room(to) == from || room(to) == "internal" || from == "internal" {
				continue
			}
			if from == "cli" {
				if !cliMayImport[to] && !cliMayImport[room(to)] {
					t.Errorf("%s imports %s: the CLI goes through the public client", pkg, to)
				}
				continue
			}
			if floors[room(to)] >= floors[from] {
				t.Errorf("%s (floor %d) imports %s (floor %d): declare an interface and let node join them", pkg, floors[from], to, floors[room(to)])
			}
		}
	})
}

func TestEveryRoomHasAFloor(t *testing.T) {
	eachFile(t, func(pkg string, _ *ast.File, _ *token.FileSet) {
		if _, ok := floors[room(pkg)]; !ok && room(pkg) != "internal" {
			t.Errorf("%s has no floor: add it to floors and to ARCHITECTURE.md", pkg)
		}
	})
}

func TestEveryPackageHasOneDoc(t *testing.T) {
	docs, seen := map[string]int{}, map[string]bool{}
	eachFile(t, func(pkg string, f *ast.File, _ *token.FileSet) {
		seen[pkg] = true
		if f.Doc != nil && len(f.Doc.Text()) > 20 {
			docs[pkg]++
		}
	})
	for pkg := range seen {
		if docs[pkg] != 1 {
			t.Errorf("%s has %d package comments, want one that says what it is for and what it is not for", pkg, docs[pkg])
		}
	}
}

func TestExportedThingsHaveDocs(t *testing.T) {
	byDir := map[string][]*ast.File{}
	var set *token.FileSet
	eachFile(t, func(pkg string, f *ast.File, s *token.FileSet) {
		byDir[pkg], set = append(byDir[pkg], f), s
	})
	for pkg, files := range byDir {
		d, err := doc.NewFromFiles(set, files, module+pkg)
		if err != nil {
			t.Fatal(err)
		}
		for _, fn := range d.Funcs {
			need(t, pkg, fn.Name, fn.Doc)
		}
		for _, ty := range d.Types {
			need(t, pkg, ty.Name, ty.Doc)
			for _, fn := range append(ty.Funcs, ty.Methods...) {
				need(t, pkg, ty.Name+"."+fn.Name, fn.Doc)
			}
		}
	}
}

func need(t *testing.T, pkg, name, doc string) {
	t.Helper()
	if strings.TrimSpace(doc) == "" {
		t.Errorf("%s: %s has no doc comment", pkg, name)
	}
}

// eachFile visits the product's Go files (no tests) with their package folder.
func eachFile(t *testing.T, visit func(pkg string, f *ast.File, set *token.FileSet)) {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	set := token.NewFileSet()
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			switch d.Name() {
			case ".git", "bin", "dist", "testdata", "node_modules":
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		src, err := os.ReadFile(path)
		if err != nil || strings.HasPrefix(string(src), "// Code generated") {
			return err
		}
		f, err := parser.ParseFile(set, path, src, parser.ParseComments)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, filepath.Dir(path))
		if err == nil && rel != "." {
			visit(filepath.ToSlash(rel), f, set)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func room(pkg string) string {
	r, _, _ := strings.Cut(pkg, "/")
	return r
}
