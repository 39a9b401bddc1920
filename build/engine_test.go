//go:build linux

package build

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	gcrlayout "github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/perigee-run/perigee/build/progress"
)

const busybox = "/bin/busybox"

// runtimeUnderTest is runc unless PERIGEE_TEST_RUNTIME names another, such as the sandbox.
func runtimeUnderTest(t *testing.T) string {
	t.Helper()
	name := os.Getenv("PERIGEE_TEST_RUNTIME")
	if name == "" {
		name = "runc"
	}
	p, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("needs the OCI runtime %s: %v", name, err)
	}
	return p
}

// testConfig is an engine's configuration in a folder of its own, with a short path: a socket lies in it.
func testConfig(t *testing.T) Config {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: the builder mounts file systems")
	}
	dir, err := os.MkdirTemp("", "build")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return Config{Dir: dir, Command: []string{os.Args[0], "builder"}, Runtime: runtimeUnderTest(t),
		DockerConfig: t.TempDir(), Log: slog.New(slog.NewTextHandler(t.Output(), nil))}
}

func newEngine(t *testing.T, c Config) *Engine {
	t.Helper()
	e, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
		if m, err := mountsUnder(c.Dir); err != nil || len(m) > 0 {
			t.Errorf("mounts left: %v %v", m, err)
		}
		if t.Failed() {
			for _, name := range []string{e.logPath() + ".old", e.logPath()} {
				log, _ := os.ReadFile(name)
				t.Logf("%s:\n%s", name, log)
			}
		}
	})
	return e
}

// project writes files, given as name and text, and the static busybox as "busybox", into a folder.
func project(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		write(t, filepath.Join(dir, name), text)
	}
	bb, err := os.ReadFile(busybox)
	if err != nil {
		t.Skipf("needs the static busybox: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "busybox"), bb, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// recorder keeps a build's events.
type recorder struct {
	mu     sync.Mutex
	events []progress.Event
	hook   func(progress.Event)
}

func (r *recorder) add(e progress.Event) {
	r.mu.Lock()
	r.events = append(r.events, e)
	r.mu.Unlock()
	if r.hook != nil {
		r.hook(e)
	}
}

func (r *recorder) text() string {
	var b strings.Builder
	p := progress.NewRenderer(&b)
	for _, e := range r.events {
		p.Render(e)
	}
	return b.String()
}

func (r *recorder) kind(name string, k progress.Kind) bool {
	for _, e := range r.events {
		if e.Kind == k && strings.Contains(e.Name+e.Text, name) {
			return true
		}
	}
	return false
}

// build builds and gives the files of the image's layers, the later ones over the earlier ones.
func build(t *testing.T, e *Engine, req Request) (Result, map[string]string, *recorder, error) {
	t.Helper()
	var rec recorder
	files := map[string]string{}
	req.Import = func(_ context.Context, _ string, r io.Reader) error { return unpackArchive(r, files) }
	res, err := e.Build(t.Context(), req, rec.add)
	return res, files, &rec, err
}

func mustBuild(t *testing.T, e *Engine, req Request) (Result, map[string]string, *recorder) {
	t.Helper()
	res, files, rec, err := build(t, e, req)
	if err != nil {
		t.Fatalf("%v\n%s", err, rec.text())
	}
	return res, files, rec
}

// unpackArchive reads the uncompressed layers of an OCI archive; good enough for images from scratch with one layer
// for each file.
func unpackArchive(r io.Reader, files map[string]string) error {
	t := tar.NewReader(r)
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		data, err := io.ReadAll(t)
		if err != nil {
			return err
		}
		files[h.Name] = string(data)
		if strings.HasPrefix(h.Name, "blobs/") {
			layer := tar.NewReader(strings.NewReader(string(data)))
			for {
				f, err := layer.Next()
				if err != nil {
					break
				}
				text, _ := io.ReadAll(layer)
				files["/"+f.Name] = string(text)
			}
		}
	}
}

const runnable = "FROM scratch\nCOPY busybox /bin/busybox\nSHELL [\"/bin/busybox\", \"sh\", \"-c\"]\n"

func TestBuildStagesArgsLabelsAndCache(t *testing.T) {
	e := newEngine(t, testConfig(t))
	dir := project(t, map[string]string{
		"Dockerfile": "FROM scratch AS files\nARG WHO=nobody\nCOPY hello /hello\nFROM files AS last\nARG WHO\n" +
			"COPY --from=files /hello /copy\nLABEL who=$WHO\nFROM scratch AS other\nCOPY other /other\n",
		"hello": "hello", "other": "other",
	})
	req := Request{ContextDir: dir, Target: "last", Args: map[string]string{"WHO": "me"}, Labels: map[string]string{"a": "b"}}
	res, files, rec := mustBuild(t, e, req)
	if files["/hello"] != "hello" || files["/copy"] != "hello" || files["/other"] != "" {
		t.Errorf("wrong files: %v", keys(files))
	}
	conf := files["blobs/sha256/"+strings.TrimPrefix(res.ConfigDigest, "sha256:")]
	if !strings.Contains(conf, `"who":"me"`) || !strings.Contains(conf, `"a":"b"`) {
		t.Errorf("labels are missing: %s", conf)
	}
	if !res.Imported || files["index.json"] == "" || !strings.Contains(files["index.json"], res.Digest) {
		t.Errorf("result %+v does not fit index %s", res, files["index.json"])
	}
	if !rec.kind("COPY hello", progress.Done) {
		t.Errorf("no COPY step told:\n%s", rec.text())
	}

	have := ""
	req.Have = func(d string) bool { have = d; return true }
	again, _, rec := mustBuild(t, e, req)
	if again.Digest != res.Digest || have != res.Digest || again.Imported {
		t.Errorf("built again: %+v (asked for %s), want %s and no import", again, have, res.Digest)
	}
	if !rec.kind("COPY hello", progress.Cached) {
		t.Errorf("not cached:\n%s", rec.text())
	}
	t.Logf("first %v, again %v", res.Duration, again.Duration)

	req.NoCache = true
	if _, _, rec = mustBuild(t, e, req); rec.kind("COPY hello", progress.Cached) {
		t.Errorf("cached against the request:\n%s", rec.text())
	}

	if u, err := e.Usage(t.Context()); err != nil || u.Bytes == 0 || u.Records == 0 {
		t.Errorf("usage %+v, %v", u, err)
	}
	if n, err := e.Prune(t.Context()); err != nil || n == 0 {
		t.Errorf("pruned %d, %v", n, err)
	}
}

func keys(m map[string]string) (k []string) {
	for n := range m {
		k = append(k, n)
	}
	return k
}

func TestBuildRun(t *testing.T) {
	e := newEngine(t, testConfig(t))
	dir := project(t, map[string]string{"Dockerfile": runnable +
		"RUN echo to-stdout; echo to-stderr >&2; echo made > /made\n" +
		"RUN --mount=type=secret,id=key,target=/key /bin/busybox md5sum < /key > /sum\n"})
	_, files, rec := mustBuild(t, e, Request{ContextDir: dir, Secrets: map[string][]byte{"key": []byte("secret\n")}})
	if files["/made"] != "made\n" || !strings.HasPrefix(files["/sum"], "dd02c7c2232759874e1c205587017bed") {
		t.Errorf("made %q, sum %q", files["/made"], files["/sum"])
	}
	var out, errOut bool
	for _, ev := range rec.events {
		out = out || ev.Kind == progress.Log && ev.Text == "to-stdout" && ev.Stream == "stdout"
		errOut = errOut || ev.Kind == progress.Log && ev.Text == "to-stderr" && ev.Stream == "stderr"
	}
	if !out || !errOut {
		t.Errorf("output is missing:\n%s", rec.text())
	}
	for name, text := range files {
		if strings.Contains(text, "secret\n") {
			t.Errorf("the secret is in %s", name)
		}
	}
	write(t, filepath.Join(dir, "more"), "a changed context")
	_, _, rec = mustBuild(t, e, Request{ContextDir: dir, Secrets: map[string][]byte{"key": []byte("secret\n")}})
	if !rec.kind("RUN echo", progress.Cached) {
		t.Errorf("RUN ran again:\n%s", rec.text())
	}
}

func TestBuildErrors(t *testing.T) {
	e := newEngine(t, testConfig(t))
	cases := []struct {
		name, dockerfile string
		req              Request
		want             Error
		words            []string
	}{
		{name: "failing run", dockerfile: runnable + "\n\nRUN echo first; echo last words; \\\n  exit 7\n",
			want: Error{Dockerfile: "Dockerfile", Line: 6, ExitCode: 7, Command: "RUN echo first; echo last words; exit 7"}, words: []string{"exit code 7"}},
		{name: "unknown instruction", dockerfile: "FROM scratch\n\nCOPI a b\n", want: Error{Dockerfile: "Dockerfile", Line: 3, Command: "COPI a b"},
			words: []string{"unknown instruction"}},
		{name: "no such file", dockerfile: "FROM scratch\nCOPY nothing /\n", want: Error{Dockerfile: "Dockerfile", Line: 2, Command: "COPY nothing /"},
			words: []string{`"/nothing" is not there`}},
		{name: "registry away", dockerfile: "FROM 127.0.0.1:1/no/such:1\nCOPY a /\n",
			want: Error{Dockerfile: "Dockerfile", Line: 1, Command: "FROM 127.0.0.1:1/no/such:1"}, words: []string{"127.0.0.1:1/no/such:1", "cannot be reached"}},
		{name: "no such target", dockerfile: "FROM scratch AS a\nCOPY busybox /\n", req: Request{Target: "nope"}, words: []string{"nope"}},
		{name: "no Dockerfile", req: Request{Dockerfile: "sub/Dockerfile"}, want: Error{Dockerfile: "sub/Dockerfile"}, words: []string{"no such file"}},
		{name: "empty", dockerfile: "\n", want: Error{Dockerfile: "Dockerfile"}, words: []string{"empty"}},
		{name: "outside", req: Request{Dockerfile: "../Dockerfile"}, words: []string{"not in the context"}},
		{name: "foreign frontend", dockerfile: "# syntax=example.com/own:1\nFROM scratch\n", want: Error{Dockerfile: "Dockerfile", Line: 1},
			words: []string{"example.com/own:1"}},
		{name: "platform", dockerfile: "FROM scratch\n", req: Request{Platform: "a/b/c/d/e"}, words: []string{"a/b/c/d/e"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			c.req.ContextDir = project(t, map[string]string{"Dockerfile": c.dockerfile})
			_, _, rec, err := build(t, e, c.req)
			var got *Error
			if !errors.As(err, &got) {
				t.Fatalf("got %v, want an *Error\n%s", err, rec.text())
			}
			if got.Dockerfile != c.want.Dockerfile || got.Line != c.want.Line || got.ExitCode != c.want.ExitCode || got.Command != c.want.Command {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
			for _, w := range c.words {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%q lacks %q", err, w)
				}
			}
			if strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "failed to") {
				t.Errorf("not one plain line: %q", err)
			}
			if c.want.ExitCode != 0 && fmt.Sprint(got.Log) != "[first last words]" {
				t.Errorf("log %q", got.Log)
			}
			t.Log(err, "| hint:", got.Hint)
		})
	}
}

func TestDockerfileLinkOutOfTheContext(t *testing.T) {
	e := newEngine(t, testConfig(t))
	dir := project(t, nil)
	for _, target := range []string{"/proc/kmsg", "/dev/zero", "nowhere", "busybox/.."} {
		os.Remove(filepath.Join(dir, "Dockerfile"))
		if err := os.Symlink(target, filepath.Join(dir, "Dockerfile")); err != nil {
			t.Fatal(err)
		}
		var got *Error
		if _, err := e.Build(t.Context(), Request{ContextDir: dir}, nil); !errors.As(err, &got) {
			t.Errorf("%s: got %v", target, err)
		}
	}
}

func TestBuildHonoursIgnoreFileAndSyntaxLine(t *testing.T) {
	e := newEngine(t, testConfig(t))
	dir := project(t, map[string]string{
		"Dockerfile": "# syntax=docker/dockerfile:1\nFROM scratch\nCOPY . /\n", ".dockerignore": "busybox\n*.log\n!keep.log\n",
		"a.log": "a", "keep.log": "keep",
	})
	_, files, _ := mustBuild(t, e, Request{ContextDir: dir})
	if files["/keep.log"] != "keep" || files["/a.log"] != "" || files["/busybox"] != "" {
		t.Errorf("wrong files: %v", keys(files))
	}
}

func TestConcurrentBuilds(t *testing.T) {
	e := newEngine(t, testConfig(t))
	var wg sync.WaitGroup
	for i := range 3 {
		dir := project(t, map[string]string{"Dockerfile": runnable + fmt.Sprintf("RUN echo %d > /number\n", i)})
		wg.Go(func() {
			_, files, rec, err := build(t, e, Request{ContextDir: dir})
			if err != nil || files["/number"] != fmt.Sprintf("%d\n", i) {
				t.Errorf("build %d: %v, %q\n%s", i, err, files["/number"], rec.text())
			}
		})
	}
	wg.Wait()
}

const endless = runnable + "RUN echo begun; while true; do /bin/busybox sleep 1; done\n"

// whenBegun calls f once the endless step runs.
func whenBegun(f func()) ProgressFunc {
	var once sync.Once
	return func(e progress.Event) {
		if e.Kind == progress.Log && e.Text == "begun" {
			once.Do(f)
		}
	}
}

func TestCancel(t *testing.T) {
	e := newEngine(t, testConfig(t))
	dir := project(t, map[string]string{"Dockerfile": endless})
	cause := errors.New("a newer commit")
	ctx, cancel := context.WithCancelCause(t.Context())
	_, err := e.Build(ctx, Request{ContextDir: dir}, whenBegun(func() { cancel(cause) }))
	if !errors.Is(err, cause) {
		t.Errorf("got %v, want %v", err, cause)
	}
	write(t, filepath.Join(dir, "Dockerfile"), runnable+"RUN echo after\n")
	mustBuild(t, e, Request{ContextDir: dir})
}

func TestBuilderKilledInTheMiddle(t *testing.T) {
	e := newEngine(t, testConfig(t))
	dir := project(t, map[string]string{"Dockerfile": runnable + "RUN echo kept > /kept\n"})
	mustBuild(t, e, Request{ContextDir: dir})
	pid := e.link.pid

	long := project(t, map[string]string{"Dockerfile": endless})
	_, err := e.Build(t.Context(), Request{ContextDir: long}, whenBegun(func() { kill(t, pid) }))
	var lost *Error
	if !errors.As(err, &lost) || !lost.Lost {
		t.Errorf("got %v, want a lost build", err)
	}
	_, files, rec := mustBuild(t, e, Request{ContextDir: dir})
	if e.link.pid == pid || files["/kept"] != "kept\n" || !rec.kind("RUN echo kept", progress.Cached) {
		t.Errorf("the cache is not usable: %v\n%s", keys(files), rec.text())
	}
	if left, _ := filepath.Glob(filepath.Join(statePath(e.cfg.Dir), "runc-*", "executor", "*", "rootfs")); len(left) > 0 {
		t.Errorf("steps left: %v", left)
	}
	if p := processesOf(t, "/bin/busybox sleep 1"); len(p) > 0 {
		t.Errorf("processes of the step left: %v", p)
	}
	write(t, filepath.Join(long, "Dockerfile"), runnable+"RUN echo now it ends\n")
	mustBuild(t, e, Request{ContextDir: long})
}

// TestBuilderKilledAtAnyMoment kills the builder a little later in each round and builds on with what is left.
// PERIGEE_TEST_KILLS asks for more rounds.
func TestBuilderKilledAtAnyMoment(t *testing.T) {
	rounds, err := strconv.Atoi(cmp.Or(os.Getenv("PERIGEE_TEST_KILLS"), "4"))
	if err != nil {
		t.Fatal(err)
	}
	e := newEngine(t, testConfig(t))
	for i := range rounds {
		dir := project(t, map[string]string{"Dockerfile": runnable + fmt.Sprintf("RUN echo %d > /number\nRUN echo more > /more\n", i)})
		if _, err := e.connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		pid := e.link.pid
		killer := time.AfterFunc(time.Duration(rand.IntN(300))*time.Millisecond, func() { kill(t, pid) })
		_, err := e.Build(t.Context(), Request{ContextDir: dir}, nil)
		if killer.Stop() {
			kill(t, pid)
		}
		t.Logf("round %d: %v", i, err)
		// At once, while the one before is still being cleaned up after.
		_, files, _ := mustBuild(t, e, Request{ContextDir: dir})
		if files["/number"] != fmt.Sprintf("%d\n", i) || files["/more"] != "more\n" {
			t.Fatalf("round %d: wrong files %v", i, keys(files))
		}
	}
}

func kill(t *testing.T, pid int) {
	p, err := os.FindProcess(pid)
	if err == nil {
		err = p.Kill()
	}
	if err != nil {
		t.Error(err)
	}
}

func processesOf(t *testing.T, args string) (pids []string) {
	t.Helper()
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		data, _ := os.ReadFile(f)
		if strings.ReplaceAll(strings.TrimRight(string(data), "\x00"), "\x00", " ") == args {
			pids = append(pids, f)
		}
	}
	return pids
}

func TestBuilderIsFoundAgainAndReplaced(t *testing.T) {
	c := testConfig(t)
	first := newEngine(t, c)
	dir := project(t, map[string]string{"Dockerfile": "FROM scratch\nCOPY busybox /\n"})
	mustBuild(t, first, Request{ContextDir: dir})
	pid := first.link.pid

	second := newEngine(t, c) // as after a kill -9 of the daemon
	mustBuild(t, second, Request{ContextDir: dir})
	if second.link.pid != pid {
		t.Errorf("a second builder was started")
	}
	c.PlainHTTP = []string{"registry.example:5000"}
	third := newEngine(t, c)
	_, _, rec := mustBuild(t, third, Request{ContextDir: dir})
	if third.link.pid == pid || !rec.kind("COPY", progress.Cached) {
		t.Errorf("the builder was not replaced, or lost its cache:\n%s", rec.text())
	}
}

func TestBuilderEndsWhenIdle(t *testing.T) {
	c := testConfig(t)
	c.IdleTimeout = 300 * time.Millisecond
	e := newEngine(t, c)
	dir := project(t, map[string]string{"Dockerfile": runnable + "RUN /bin/busybox sleep 1\n"})
	mustBuild(t, e, Request{ContextDir: dir}) // longer than the idle time: it must not end meanwhile
	e.reaped.Wait()
	if _, err := os.Stat(socketPath(c.Dir)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
	mustBuild(t, e, Request{ContextDir: dir})
}

func TestDamagedCacheIsEmptied(t *testing.T) {
	e := newEngine(t, testConfig(t))
	dir := project(t, map[string]string{"Dockerfile": "FROM scratch\nCOPY busybox /\n"})
	mustBuild(t, e, Request{ContextDir: dir})
	e.mu.Lock()
	err := e.retire(e.link)
	e.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	dbs, _ := filepath.Glob(filepath.Join(statePath(e.cfg.Dir), "runc-*", "containerdmeta.db"))
	if len(dbs) != 1 {
		t.Fatalf("databases: %v", dbs)
	}
	if err := os.WriteFile(dbs[0], []byte(strings.Repeat("rubbish ", 8192)), 0o600); err != nil {
		t.Fatal(err)
	}
	mustBuild(t, e, Request{ContextDir: dir})
}

func TestImportErrors(t *testing.T) {
	e := newEngine(t, testConfig(t))
	dir := project(t, map[string]string{"Dockerfile": "FROM scratch\nCOPY busybox /\n"})
	full := errors.New("the disk is full")
	_, err := e.Build(t.Context(), Request{ContextDir: dir, Import: func(context.Context, string, io.Reader) error { return full }}, nil)
	if !errors.Is(err, full) {
		t.Errorf("got %v, want %v", err, full)
	}
	_, err = e.Build(t.Context(), Request{ContextDir: dir, ImportLayout: func(context.Context, string, string) error { return full }}, nil)
	if !errors.Is(err, full) {
		t.Errorf("got %v, want %v", err, full)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var got error
	_, err = e.Build(ctx, Request{ContextDir: dir, Import: func(_ context.Context, _ string, r io.Reader) error {
		cancel()
		_, got = io.Copy(io.Discard, r)
		return got
	}}, nil)
	if !errors.Is(err, context.Canceled) || got == nil {
		t.Errorf("got %v, and the importer saw %v", err, got)
	}
	if left, _ := filepath.Glob(filepath.Join(outPath(e.cfg.Dir), "*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestImportLayout(t *testing.T) {
	e := newEngine(t, testConfig(t))
	dir := project(t, map[string]string{"Dockerfile": "FROM scratch\nCOPY hello /\n", "hello": "hello"})
	var seen v1.Hash
	res, err := e.Build(t.Context(), Request{ContextDir: dir, ImportLayout: func(_ context.Context, _, dir string) error {
		index, err := gcrlayout.ImageIndexFromPath(dir)
		if err != nil {
			return err
		}
		m, err := index.IndexManifest()
		if err != nil {
			return err
		}
		seen = m.Manifests[0].Digest
		img, err := index.Image(seen)
		if err != nil {
			return err
		}
		manifest, err := img.Manifest()
		if err != nil {
			return err
		}
		for _, d := range append(manifest.Layers, manifest.Config) {
			data, err := os.ReadFile(filepath.Join(dir, "blobs", "sha256", d.Digest.Hex))
			if h, _, _ := v1.SHA256(bytes.NewReader(data)); err != nil || h != d.Digest || !strings.HasSuffix(string(d.MediaType), "tar") && d.Digest != manifest.Config.Digest {
				t.Errorf("blob %v: %s, %v", d, h, err)
			}
		}
		return nil
	}}, nil)
	if err != nil || seen.String() != res.Digest {
		t.Errorf("%v, %s, want %s", err, seen, res.Digest)
	}
}

func TestBuilderCannotStart(t *testing.T) {
	c := testConfig(t)
	c.Runtime = "/no/such/runtime"
	e := newEngine(t, c)
	dir := project(t, map[string]string{"Dockerfile": "FROM scratch\nCOPY busybox /\n"})
	_, err := e.Build(t.Context(), Request{ContextDir: dir}, nil)
	if err == nil || !strings.Contains(err.Error(), "/no/such/runtime") {
		t.Errorf("got %v", err)
	}
	c = testConfig(t)
	c.Command = []string{"/bin/false"}
	e = newEngine(t, c)
	if _, err = e.Build(t.Context(), Request{ContextDir: dir}, nil); err == nil || !strings.Contains(err.Error(), "ended at once") {
		t.Errorf("got %v", err)
	}
}
