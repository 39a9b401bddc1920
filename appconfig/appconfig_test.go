package appconfig

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
)

var update = flag.Bool("update", false, "write what Parse gives into testdata")

// TestGolden reads the first file of each archive in testdata and compares what
// it becomes: machines.json, config.toml (the canonical form), errors, warnings.
// A new case is a new file: write the first part, run with -update, and read.
func TestGolden(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatal("no cases", err)
	}
	for _, path := range paths {
		t.Run(filepath.Base(path), func(t *testing.T) {
			want, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			got := &txtar.Archive{Comment: want.Comment, Files: append(want.Files[:1:1], outcome(t, want.Files[0])...)}
			if *update {
				if err := os.WriteFile(path, txtar.Format(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			compare(t, want, got)
		})
	}
}

func compare(t *testing.T, want, got *txtar.Archive) {
	t.Helper()
	for _, f := range want.Files[1:] {
		if !slices.ContainsFunc(got.Files, func(g txtar.File) bool { return g.Name == f.Name }) {
			t.Errorf("%s is wanted and does not come:\n%s", f.Name, f.Data)
		}
	}
	for _, f := range got.Files[1:] {
		i := slices.IndexFunc(want.Files, func(w txtar.File) bool { return w.Name == f.Name })
		if i < 0 {
			t.Errorf("%s comes and is not wanted:\n%s", f.Name, f.Data)
		} else if !bytes.Equal(want.Files[i].Data, f.Data) {
			t.Errorf("%s is\n%s\nwant\n%s", f.Name, f.Data, want.Files[i].Data)
		}
	}
}

func outcome(t *testing.T, in txtar.File) (out []txtar.File) {
	t.Helper()
	add := func(name string, data []byte) { out = append(out, txtar.File{Name: name, Data: data}) }
	cfg, warnings, err := Parse(in.Name, in.Data)
	if err == nil {
		machines, err := MachineConfigs(cfg, "testdata")
		if err != nil {
			t.Fatal(err)
		}
		b, err := json.MarshalIndent(machines, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		add("machines.json", append(b, '\n'))
		add("config.toml", roundTrip(t, cfg))
	} else {
		add("errors", []byte(err.Error()+"\n"))
	}
	var lines bytes.Buffer
	for _, w := range warnings {
		lines.WriteString(w.String() + "\n")
	}
	if lines.Len() > 0 {
		add("warnings", lines.Bytes())
	}
	return out
}

// roundTrip writes the configuration, reads that and writes it again.
func roundTrip(t *testing.T, cfg *Config) []byte {
	t.Helper()
	text, err := cfg.TOML()
	if err != nil {
		t.Fatal(err)
	}
	again, _, err := Parse("written", text)
	if err != nil {
		t.Fatalf("what was written cannot be read: %v\n%s", err, text)
	}
	second, err := again.TOML()
	if err != nil {
		t.Fatal(err)
	}
	a, _ := json.Marshal(cfg)
	b, _ := json.Marshal(again)
	if !bytes.Equal(text, second) || !bytes.Equal(a, b) {
		t.Fatalf("written and read again is another configuration:\n%s\n%s\n%s\n%s", text, second, a, b)
	}
	return text
}

func FuzzParse(f *testing.F) {
	paths, _ := filepath.Glob("testdata/*.txtar")
	for _, path := range paths {
		if a, err := txtar.ParseFile(path); err == nil {
			f.Add(a.Files[0].Data)
		}
	}
	f.Add([]byte("a.b.\"c.d\" = [1, {x = 2}]\n[[services]]\nports = [{port = 1}]\n[services.concurrency]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		cfg, _, err := Parse("fuzz", data)
		if (cfg == nil) == (err == nil) {
			t.Fatal("a configuration and an error, or neither")
		}
		if err == nil {
			roundTrip(t, cfg)
			if _, err := MachineConfigs(cfg, t.TempDir()); err != nil && len(cfg.Files) == 0 {
				t.Fatal(err)
			}
		}
	})
}

func TestFindAndLoad(t *testing.T) {
	dir := t.TempDir()
	if _, err := Find(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("empty folder: %v", err)
	}
	for _, name := range []string{"fly.toml", "perigee.toml"} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("app = \"shop\"\nprot = 1\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := Find(dir); err != nil || got != path {
			t.Fatalf("found %q %v, want %q", got, err, path)
		}
		_, _, err := Load(path)
		if want := path + ":2:1: prot: unknown key"; err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Fatalf("got %v, want %s", err, want)
		}
	}
	if _, _, err := Load(filepath.Join(dir, "none.toml")); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("missing file: %v", err)
	}
	if _, _, err := Parse("x", []byte("app = \"\xff\"")); err == nil {
		t.Error("bytes that are not UTF-8 were taken")
	}
	if _, _, err := Parse("x", bytes.Repeat([]byte("#\n"), maxSize)); err == nil {
		t.Error("a huge file was taken")
	}
}

func TestLocalFiles(t *testing.T) {
	cfg, _, err := Parse("perigee.toml", []byte("[[files]]\nguest_path = \"/etc/app\"\nlocal_path = \"conf/app\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if _, err := MachineConfigs(cfg, dir); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "conf/app") {
		t.Fatalf("missing file: %v", err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "conf"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "conf/app"), []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	groups, err := MachineConfigs(cfg, dir)
	if err != nil || *groups["app"].Files[0].RawValue != "aGVsbG8=" {
		t.Fatalf("%+v %v", groups, err)
	}
}

func TestSplitWords(t *testing.T) {
	for in, want := range map[string]string{
		"":                          "",
		"node server.js":            "node|server.js",
		"  a\t b\n":                 "a|b",
		`sh -c "echo 'hi' \"x\""`:   `sh|-c|echo 'hi' "x"`,
		`a '' b\ c 'd\e' "f\g"`:     `a||b c|d\e|f\g`,
		"printf 'é' --x=\"1 2\"'3'": "printf|é|--x=1 23",
	} {
		got, err := splitWords(in)
		if err != nil || strings.Join(got, "|") != want {
			t.Errorf("%q: got %q %v, want %q", in, got, err, want)
		}
	}
	for _, in := range []string{`a "b`, "a 'b", `a\`} {
		if _, err := splitWords(in); err == nil {
			t.Errorf("%q was split", in)
		}
	}
}

func TestCheckAppName(t *testing.T) {
	for _, name := range []string{"a", "7", "my-shop", "a--b", strings.Repeat("a", 63)} {
		if err := CheckAppName(name); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"", "-a", "a-", "A", "a_b", "a.b", "ä", "api", "www", strings.Repeat("a", 64), "a b", "a/b"} {
		if CheckAppName(name) == nil {
			t.Errorf("%q was taken", name)
		}
	}
}

func TestSpread(t *testing.T) {
	for text, want := range map[string]string{
		`regions = ["iad", "fra"]`:                   `null [iad fra]`,
		`regions = {}`:                               `null []`,
		`regions = {iad = 2, x1 = 0}`:                `{"app":{"iad":2,"x1":0},"worker":{"iad":2,"x1":0}} [iad]`,
		`regions = {worker = {syd = 1}}`:             `{"worker":{"syd":1}} [syd]`,
		`regions = {iad = 2, worker = {syd = 1}}`:    `{"app":{"iad":2},"worker":{"syd":1}} [iad syd]`,
		"[regions]\niad = 1\n[regions.app]\nfra = 3": `{"app":{"fra":3},"worker":{"iad":1}} [fra iad]`,
	} {
		c, _, err := Parse("perigee.toml", []byte("processes = {app = \"\", worker = \"\"}\n"+text))
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		b, _ := json.Marshal(c.Spread())
		if got := fmt.Sprint(string(b), " ", c.Regions.Names()); got != want {
			t.Errorf("%s: got %s, want %s", text, got, want)
		}
		whole, _ := json.Marshal(c)
		var again Config
		if err := json.Unmarshal(whole, &again); err != nil || fmt.Sprint(again.Regions) != fmt.Sprint(c.Regions) && !c.Regions.IsZero() {
			t.Errorf("%s: as JSON and back: %v %v", text, again.Regions, err)
		}
	}
}

// TestEveryKeyKeepsItsNames: JSON, TOML and the reference are one language.
func TestEveryKeyKeepsItsNames(t *testing.T) {
	for key, tables := range homes() {
		if key != strings.ToLower(key) || len(tables) == 0 {
			t.Errorf("key %q of %v", key, tables)
		}
	}
}
