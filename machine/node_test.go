package machine

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/catalog"
	"github.com/perigee-run/perigee/image"
	"github.com/perigee-run/perigee/mesh"
	"github.com/perigee-run/perigee/sandbox"
)

// This file is a node with everything real: gVisor, networks, images, catalog.

// busyboxRef is the image that the tests run: busybox, with a web page.
const busyboxRef = "perigee.local/busybox:1"

// node is what outlives a daemon on a real node.
type node struct {
	t       testing.TB
	dir     string
	sandbox *sandbox.Client
	images  *image.Store
	nets    *mesh.Network
	records *catalog.Table[Record]
	said    *said
	secrets Secrets
	group   string
}

var (
	program string // perigee-sandbox, built once
	nodes   atomic.Int32
)

// lacking says what this machine lacks to run sandboxes, or "".
func lacking() string {
	if os.Getenv(insideEnv) == "" {
		return "needs root, to make network namespaces and sandboxes"
	}
	for _, tool := range []string{"busybox", "go"} {
		if _, err := exec.LookPath(tool); err != nil {
			return "needs " + tool
		}
	}
	return ""
}

func newNode(t testing.TB) *node {
	t.Helper()
	if why := lacking(); why != "" {
		t.Skip(why)
	}
	buildProgram(t)
	hostUp(t)
	// Short, for the supervisor's socket has a short path.
	dir, err := os.MkdirTemp("", "pm")
	ok(t, err)
	n := &node{t: t, dir: dir, said: &said{}, secrets: noSecrets{}, group: fmt.Sprintf("perigee-mtest-%d-%d", os.Getpid(), nodes.Add(1))}
	t.Cleanup(func() { ok(t, os.RemoveAll(dir)) })
	n.openSandbox()
	n.openNets()
	n.openImages()
	n.openRecords()
	return n
}

func buildProgram(t testing.TB) {
	t.Helper()
	if program != "" {
		return
	}
	if bin := os.Getenv("PERIGEE_BIN"); bin != "" {
		program = filepath.Join(bin, "perigee-sandbox")
		return
	}
	dir, err := os.MkdirTemp("", "pmbin")
	ok(t, err)
	out := filepath.Join(dir, "perigee-sandbox")
	cmd := exec.Command("go", "build", "-ldflags", "-X gvisor.dev/gvisor/runsc/version.version=test", "-o", out, ".")
	cmd.Dir = filepath.Join("..", "cmd", "perigee-sandbox")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cannot build perigee-sandbox: %v\n%s", err, b)
	}
	program = out
}

// endKit removes what the tests share.
func endKit() {
	if program != "" && os.Getenv("PERIGEE_BIN") == "" {
		os.RemoveAll(filepath.Dir(program))
	}
}

func hostUp(t testing.TB) {
	t.Helper()
	ok(t, syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""))
	lo, err := netlink.LinkByName("lo")
	ok(t, err)
	ok(t, netlink.LinkSetUp(lo))
}

func (n *node) openSandbox() {
	c, err := sandbox.New(sandbox.Config{Socket: filepath.Join(n.dir, "s"), StateDir: filepath.Join(n.dir, "sandbox"),
		Program: program, Cgroup: n.group, Logger: discard})
	ok(n.t, err)
	ok(n.t, c.Ensure(n.t.Context()))
	n.sandbox = c
	n.t.Cleanup(n.endSandbox)
}

func (n *node) endSandbox() {
	ctx := context.Background()
	infos, err := n.sandbox.List(ctx)
	ok(n.t, err)
	for _, i := range infos {
		ok(n.t, n.sandbox.Destroy(ctx, i.ID))
	}
	if n.t.Failed() {
		log, _ := os.ReadFile(filepath.Join(n.dir, "sandbox", "supervisor.log"))
		n.t.Logf("supervisor's log:\n%s", log)
	}
	n.killSupervisor()
	n.sandbox.Close()
	roots, _ := filepath.Glob("/sys/fs/cgroup/*")
	for _, r := range append(roots, "/sys/fs/cgroup") {
		_ = filepath.WalkDir(filepath.Join(r, n.group), func(string, os.DirEntry, error) error { return nil })
		removeGroups(filepath.Join(r, n.group))
	}
}

func removeGroups(dir string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if e.IsDir() {
			removeGroups(filepath.Join(dir, e.Name()))
		}
	}
	_ = unix.Rmdir(dir)
}

// supervisor is the process id of this node's supervisor.
func (n *node) supervisor() int {
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, l := range lines {
		b, _ := os.ReadFile(l)
		args := strings.Split(string(b), "\x00")
		if len(args) > 3 && args[1] == "serve" && args[3] == filepath.Join(n.dir, "sandbox") {
			pid := 0
			fmt.Sscan(filepath.Base(filepath.Dir(l)), &pid)
			return pid
		}
	}
	return 0
}

func (n *node) killSupervisor() {
	pid := n.supervisor()
	if pid == 0 {
		return
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	_ = unix.Kill(pid, unix.SIGKILL)
	_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 5000)
}

func (n *node) openNets() {
	nets, err := mesh.New(mesh.Config{Dir: filepath.Join(n.dir, "net"), Prefix: "pgm", Node: "n1"})
	ok(n.t, err)
	n.t.Cleanup(func() {
		ok(n.t, nets.Teardown(context.Background()))
		nets.Close()
	})
	ok(n.t, nets.Setup(n.t.Context()))
	n.nets = nets
}

func (n *node) openImages() {
	s, err := image.New(image.Config{Dir: filepath.Join(n.dir, "images"), MinFree: 1, Logger: discard})
	ok(n.t, err)
	n.t.Cleanup(s.Close)
	_, err = s.Import(n.t.Context(), busyboxArchive(n.t), busyboxRef, nil)
	ok(n.t, err)
	n.images = s
}

func (n *node) openRecords() {
	cat, err := catalog.Open(n.t.Context(), catalog.Config{Dir: filepath.Join(n.dir, "state"), Node: "n1", Logger: discard})
	ok(n.t, err)
	n.t.Cleanup(func() { cat.Close() })
	n.records, err = catalog.NewLocal[Record](cat, "machines")
	ok(n.t, err)
}

// busyboxArchive is an image as docker save writes it.
func busyboxArchive(t testing.TB) io.Reader {
	t.Helper()
	path, err := exec.LookPath("busybox")
	ok(t, err)
	program, err := os.ReadFile(path)
	ok(t, err)
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	put := func(h tar.Header, content string) {
		h.Size = int64(len(content))
		ok(t, w.WriteHeader(&h))
		_, err := io.WriteString(w, content)
		ok(t, err)
	}
	for _, d := range []string{"bin", "etc", "home", "www", "tmp"} {
		put(tar.Header{Typeflag: tar.TypeDir, Name: d, Mode: 0o777}, "")
	}
	put(tar.Header{Typeflag: tar.TypeDir, Name: "home/app", Mode: 0o700, Uid: 1000, Gid: 1000}, "")
	put(tar.Header{Typeflag: tar.TypeReg, Name: "bin/busybox", Mode: 0o755}, string(program))
	for _, a := range strings.Fields("sh httpd sleep cat echo id env touch ls dd tail true false") {
		put(tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + a, Linkname: "busybox"}, "")
	}
	put(tar.Header{Typeflag: tar.TypeReg, Name: "www/index.html", Mode: 0o644}, "hello")
	put(tar.Header{Typeflag: tar.TypeReg, Name: "etc/passwd", Mode: 0o644}, "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n")
	put(tar.Header{Typeflag: tar.TypeReg, Name: "etc/group", Mode: 0o644}, "root:x:0:\napp:x:1000:\nextra:x:77:app\n")
	ok(t, w.Close())
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layer.Bytes())), nil })
	ok(t, err)
	img, err := mutate.AppendLayers(empty.Image, l)
	ok(t, err)
	c, err := img.ConfigFile()
	ok(t, err)
	c = c.DeepCopy()
	c.OS, c.Architecture = "linux", runtime.GOARCH
	c.Config = v1.Config{Cmd: []string{"httpd", "-f", "-p", "8080", "-h", "/www"}, Env: []string{"PATH=/bin", "FROM=image"}, StopSignal: "SIGTERM"}
	img, err = mutate.ConfigFile(img, c)
	ok(t, err)
	var out bytes.Buffer
	tag, err := name.NewTag("busybox:1")
	ok(t, err)
	ok(t, tarball.Write(tag, img, &out))
	return &out
}

// run starts a daemon on the node.
func (n *node) run(change ...func(*Config)) *daemon {
	n.t.Helper()
	g := newGate()
	cfg := Config{
		Dir: filepath.Join(n.dir, "machines"), Node: "n1", Region: "fra", Sandbox: gatedSandbox{n.sandbox, g}, Images: n.images,
		Networks: gatedNets{n.nets, g}, Records: gatedRecords{n.records, g}, Apps: fakeApps{}, Secrets: n.secrets, Console: n.said,
		PoolDelay: 50 * time.Millisecond, SinkAfter: -1, MinFreeMB: 1, Logger: discard, backoff: 10 * time.Millisecond,
		removeAll: func(path string) error { return g.call(func() error { return os.RemoveAll(path) }) },
	}
	for _, c := range change {
		c(&cfg)
	}
	return runHost(n.t, cfg, g)
}

// web is the configuration of a web server with a check.
func web() *api.MachineConfig {
	return &api.MachineConfig{
		Image: busyboxRef, Guest: &api.Guest{MemoryMB: 128},
		Services: []api.Service{{Protocol: "tcp", InternalPort: 8080, Checks: []api.Check{{Type: "http", Path: "/"}}}},
	}
}

func shell(script string) *api.MachineConfig {
	return &api.MachineConfig{Image: busyboxRef, Guest: &api.Guest{MemoryMB: 128}, Init: &api.Init{Exec: []string{"sh", "-c", script}}}
}

// get asks the machine's web server as the router would: again and again until
// it answers.
func get(addr netip.Addr) (string, error) {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: (&net.Dialer{Timeout: 20 * time.Millisecond}).DialContext}, Timeout: 5 * time.Second}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(200 * time.Microsecond) {
		res, err := client.Get("http://" + net.JoinHostPort(addr.String(), "8080") + "/")
		if err != nil && time.Now().Before(end) {
			continue
		}
		if err != nil {
			return "", err
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		return string(b), err
	}
}

func (n *node) answers(d *daemon, id string) {
	n.t.Helper()
	s, _ := d.Status(id)
	if page, err := get(s.Addr); page != "hello" || err != nil {
		n.t.Fatalf("machine at %s answered %q, %v", s.Addr, page, err)
	}
}

// console waits until the machine has said the words.
func (n *node) console(d *daemon, id, words string) {
	n.t.Helper()
	until(n.t, fmt.Sprintf("the console says %q", words), func() bool {
		b, err := os.ReadFile(d.consoleFile(id))
		return err == nil && strings.Contains(string(b), words)
	})
}

// expectEmpty fails unless all machines, and the pool, are gone without a trace.
func (n *node) expectEmpty() {
	n.t.Helper()
	infos, err := n.sandbox.List(context.Background())
	ok(n.t, err)
	entries, _ := os.ReadDir(filepath.Join(n.dir, "machines"))
	if len(infos) != 0 || len(n.nets.Slots()) != 0 || len(entries) != 0 || len(n.records.List("")) != 0 {
		n.t.Errorf("left: sandboxes %v, slots %v, folders %v, records %d", infos, n.nets.Slots(), entries, len(n.records.List("")))
	}
}
