package sandbox_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/perigee-run/perigee/sandbox"
)

// built is what TestMain makes once: the program and a root file system of
// busybox. Empty where this machine cannot run sandboxes.
var built struct {
	dir, program, busybox string
	why                   string // why the tests skip
}

func TestMain(m *testing.M) {
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	dir, err := os.MkdirTemp("", "psbx")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	built.dir = dir
	if built.why = lacking(); built.why == "" {
		if err := build(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	code := m.Run()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// lacking says what this machine lacks to run sandboxes, or "".
func lacking() string {
	if os.Geteuid() != 0 {
		return "needs root"
	}
	for _, tool := range []string{"busybox", "mkfs.erofs", "go", "true"} {
		if _, err := exec.LookPath(tool); err != nil {
			return "needs " + tool
		}
	}
	cmd := exec.Command("true")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWUSER}
	if err := cmd.Run(); err != nil {
		return "needs the right to make namespaces: " + err.Error()
	}
	return ""
}

func build(dir string) error {
	built.program = filepath.Join(dir, "perigee-sandbox")
	if p := os.Getenv("PERIGEE_SANDBOX"); p != "" {
		built.program = p
	} else {
		cmd := exec.Command("go", "build", "-ldflags", "-X gvisor.dev/gvisor/runsc/version.version=test", "-o", built.program, ".")
		cmd.Dir = filepath.Join("..", "cmd", "perigee-sandbox")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("cannot build perigee-sandbox: %w\n%s", err, out)
		}
	}
	built.busybox = filepath.Join(dir, "busybox.erofs")
	return busyboxImage(dir, built.busybox)
}

// busyboxImage makes an image whose only program is busybox.
func busyboxImage(dir, image string) error {
	root := filepath.Join(dir, "busybox")
	script := `set -e
mkdir -p $0/bin $0/www $0/tmp $0/etc $0/home/app $0/run
cp "$(command -v busybox)" $0/bin/busybox
for a in sh httpd echo cat ls sleep id ps kill true false head dd stat mkdir touch date env grep hexdump tail stty wc tty od su; do ln -sf busybox $0/bin/$a; done
echo hello > $0/www/index.html
echo root:x:0:0:root:/:/bin/sh > $0/etc/passwd
mkdir -p $0/var; ln -s /run $0/var/run
chmod 1777 $0/tmp; chown 1000:1000 $0/home/app; chmod 700 $0/home/app
mkfs.erofs -E noinline_data $1 $0
truncate -s %4096 $1`
	if out, err := exec.Command("sh", "-c", script, root, image).CombinedOutput(); err != nil {
		return fmt.Errorf("cannot make the image: %w\n%s", err, out)
	}
	return nil
}

// bareImage makes an image that holds one program: busybox by the name sleep.
func bareImage(t testing.TB) string {
	t.Helper()
	image := filepath.Join(built.dir, "bare.erofs")
	if _, err := os.Stat(image); err == nil {
		return image
	}
	script := `mkdir $0 && cp "$(command -v busybox)" $0/sleep && mkfs.erofs -E noinline_data $1 $0 && truncate -s %4096 $1`
	if out, err := exec.Command("sh", "-ec", script, filepath.Join(built.dir, "bare"), image).CombinedOutput(); err != nil {
		t.Fatalf("cannot make the image: %v\n%s", err, out)
	}
	return image
}

// kit is one supervisor with a state directory of its own.
type kit struct {
	*sandbox.Client
	t     testing.TB
	dir   string
	group string
}

var kits atomic.Int32

func newKit(t testing.TB) *kit {
	t.Helper()
	if built.why != "" {
		t.Skip(built.why)
	}
	dir, err := os.MkdirTemp(built.dir, "k")
	if err != nil {
		t.Fatal(err)
	}
	k := &kit{t: t, dir: dir, group: fmt.Sprintf("perigee-test-%d-%d", os.Getpid(), kits.Add(1))}
	k.Client = k.client()
	if err := k.Ensure(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.end)
	return k
}

func (k *kit) client() *sandbox.Client {
	c, err := sandbox.New(sandbox.Config{
		Socket: filepath.Join(k.dir, "s"), StateDir: filepath.Join(k.dir, "state"), Program: built.program,
		Cgroup: k.group, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		k.t.Fatal(err)
	}
	return c
}

// end destroys what is left, ends the supervisor and checks that nothing stays.
func (k *kit) end() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	infos, err := k.List(ctx)
	if err != nil {
		k.t.Error(err)
	}
	for _, i := range infos {
		if err := k.Destroy(ctx, i.ID); err != nil {
			k.t.Error(err)
		}
	}
	k.checkNothingLeft()
	k.killSupervisor()
	k.Close()
	for _, root := range groupRoots() {
		removeGroups(filepath.Join(root, k.group))
	}
	if k.t.Failed() {
		log, _ := os.ReadFile(filepath.Join(k.dir, "state", "supervisor.log"))
		k.t.Logf("supervisor's log:\n%s", log)
	}
	if err := os.RemoveAll(k.dir); err != nil {
		k.t.Error(err)
	}
}

// checkNothingLeft looks for what a destroyed sandbox may have left behind.
func (k *kit) checkNothingLeft() {
	k.t.Helper()
	for _, d := range []string{"boxes", "gvisor"} {
		entries, err := os.ReadDir(filepath.Join(k.dir, "state", d))
		if err != nil {
			k.t.Error(err)
		}
		for _, e := range entries {
			k.t.Errorf("left in %s: %s", d, e.Name())
		}
	}
	if pids := k.processes(); len(pids) > 0 {
		k.t.Errorf("left processes: %v", pids)
	}
	mounts, _ := os.ReadFile("/proc/self/mounts")
	if strings.Contains(string(mounts), k.dir) {
		k.t.Errorf("left mounts under %s", k.dir)
	}
	for _, root := range groupRoots() {
		groups, _ := filepath.Glob(filepath.Join(root, k.group, "*", "*"))
		for _, g := range groups {
			if info, err := os.Stat(g); err == nil && info.IsDir() {
				k.t.Errorf("left control group %s", g)
			}
		}
	}
}

// processes are the sandboxes and gofers of this kit.
func (k *kit) processes() []string {
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	var pids []string
	for _, l := range lines {
		b, _ := os.ReadFile(l)
		if strings.HasPrefix(string(b), "runsc") && strings.Contains(string(b), k.dir) {
			pids = append(pids, filepath.Base(filepath.Dir(l)))
		}
	}
	return pids
}

func groupRoots() []string {
	roots, _ := filepath.Glob("/sys/fs/cgroup/*")
	return append(roots, "/sys/fs/cgroup")
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

// supervisor is the process id of the kit's supervisor.
func (k *kit) supervisor() int {
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, l := range lines {
		b, _ := os.ReadFile(l)
		args := strings.Split(string(b), "\x00")
		if len(args) > 3 && args[1] == "serve" && args[3] == filepath.Join(k.dir, "state") {
			var pid int
			fmt.Sscan(filepath.Base(filepath.Dir(l)), &pid)
			return pid
		}
	}
	return 0
}

// killSupervisor ends it as a crash would, and waits until it is gone.
func (k *kit) killSupervisor() {
	pid := k.supervisor()
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

var machines atomic.Int32

// spec is a busybox machine that runs args.
func (k *kit) spec(args ...string) sandbox.Spec {
	id := fmt.Sprintf("m%d", machines.Add(1))
	return sandbox.Spec{
		ID: id, Rootfs: built.busybox, Args: args, Env: []string{"PATH=/bin", "NAME=value"}, Hostname: id,
		Console:   filepath.Join(k.dir, id+".log"),
		Resources: sandbox.Resources{MemoryMiB: 256, PIDs: 64},
	}
}

func (k *kit) start(s sandbox.Spec) {
	k.t.Helper()
	if err := k.Start(k.t.Context(), s, ""); err != nil {
		k.t.Fatal(err)
	}
}

// ended waits for the end of a machine.
func (k *kit) ended(id string) sandbox.Exit {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(k.t.Context(), 30*time.Second)
	defer cancel()
	exit, err := k.Wait(ctx, id)
	if err != nil {
		k.t.Fatal(err)
	}
	return exit
}

func (k *kit) console(s sandbox.Spec) string {
	k.t.Helper()
	b, err := os.ReadFile(s.Console)
	if err != nil {
		k.t.Fatal(err)
	}
	return string(b)
}

// run starts a machine, waits for its end and returns what it said.
func (k *kit) run(s sandbox.Spec) (string, sandbox.Exit) {
	k.t.Helper()
	k.start(s)
	exit := k.ended(s.ID)
	return k.console(s), exit
}

// until waits for a condition of the outside world.
func until(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if is() {
			return
		}
	}
	t.Fatalf("waited too long: %s", what)
}

// network is a namespace with one end of a veth pair in it.
type network struct {
	path string
	ip   string
	name string
	n    int
}

var networks atomic.Int32

// newNetwork makes one; its addresses are set by address.
func newNetwork(t testing.TB) *network {
	t.Helper()
	n := int(networks.Add(1))
	w := &network{n: n, name: fmt.Sprintf("psb%d-%d", os.Getpid()%10000, n)}
	w.path = filepath.Join(built.dir, w.name)
	// The addresses are this test process's own: others may run beside it.
	w.ip = fmt.Sprintf("10.%d.%d.%d", 100+os.Getpid()%150, os.Getpid()/150%128+n/60%128, n%60*4+2)
	if err := w.make(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		w.unlink()
		_ = unix.Unmount(w.path, unix.MNT_DETACH)
		_ = os.Remove(w.path)
	})
	w.address(t)
	return w
}

func (w *network) unlink() {
	if l, err := netlink.LinkByName(w.name); err == nil {
		_ = netlink.LinkDel(l)
	}
}

// make runs on a thread of its own, which ends with it.
func (w *network) make() error {
	if err := os.WriteFile(w.path, nil, 0o600); err != nil {
		return err
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- unix.Mount("/proc/thread-self/ns/net", w.path, "", unix.MS_BIND, "")
	}()
	return <-done
}

// mac is the machine's hardware address: known beforehand, nobody has to ask.
func (w *network) mac() net.HardwareAddr {
	return net.HardwareAddr{2, 0x73, 0, 0, byte(w.n >> 8), byte(w.n)}
}

// address makes the veth pair and gives both ends their addresses; a sandbox
// takes those in the namespace away.
func (w *network) address(t testing.TB) {
	t.Helper()
	if err := w.link(); err != nil {
		t.Fatal(err)
	}
}

func (w *network) link() error {
	w.unlink()
	ns, err := netns.GetFromPath(w.path)
	if err != nil {
		return err
	}
	defer ns.Close()
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: w.name}, PeerName: "eth0", PeerHardwareAddr: w.mac(), PeerNamespace: netlink.NsFd(ns)}
	if err := netlink.LinkAdd(veth); err != nil {
		return err
	}
	host, err := netlink.LinkByName(w.name)
	if err != nil {
		return err
	}
	ip := net.ParseIP(w.ip).To4()
	gateway := net.IPv4(ip[0], ip[1], ip[2], ip[3]-1)
	if err := addressLink(nil, host, gateway); err != nil {
		return err
	}
	inside, err := netlink.NewHandleAt(ns)
	if err != nil {
		return err
	}
	defer inside.Close()
	eth0, err := inside.LinkByName("eth0")
	if err != nil {
		return err
	}
	lo, err := inside.LinkByName("lo")
	if err != nil {
		return err
	}
	return errors.Join(
		netlink.NeighSet(&netlink.Neigh{LinkIndex: host.Attrs().Index, State: netlink.NUD_PERMANENT, IP: ip, HardwareAddr: w.mac()}),
		inside.LinkSetUp(lo),
		addressLink(inside, eth0, ip),
		inside.NeighSet(&netlink.Neigh{LinkIndex: eth0.Attrs().Index, State: netlink.NUD_PERMANENT, IP: gateway, HardwareAddr: host.Attrs().HardwareAddr}),
		inside.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: gateway}),
	)
}

func addressLink(h *netlink.Handle, l netlink.Link, ip net.IP) error {
	if h == nil {
		var err error
		if h, err = netlink.NewHandle(); err != nil {
			return err
		}
		defer h.Close()
	}
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: ip, Mask: net.CIDRMask(30, 32)}}
	return errors.Join(h.AddrAdd(l, addr), h.LinkSetUp(l))
}

// get asks the machine's web server for its page, quickly again and again
// until it answers.
func (w *network) get(t testing.TB, port int) string {
	t.Helper()
	address := net.JoinHostPort(w.ip, fmt.Sprint(port))
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); {
		conn, err := net.DialTimeout("tcp", address, 4*time.Millisecond)
		if err != nil {
			if errors.Is(err, syscall.ECONNREFUSED) {
				time.Sleep(200 * time.Microsecond)
			}
			continue
		}
		page := ask(conn)
		conn.Close()
		if page != "" {
			return page
		}
	}
	t.Fatalf("no answer from %s", address)
	return ""
}

func ask(conn net.Conn) string {
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	fmt.Fprint(conn, "GET / HTTP/1.0\r\n\r\n")
	b := make([]byte, 4096)
	n, _ := conn.Read(b)
	return string(b[:n])
}
