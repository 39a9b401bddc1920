package sandbox_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/perigee-run/perigee/sandbox"
)

// server is a machine with a web server, in its own network.
func (k *kit) server() (sandbox.Spec, *network) {
	w := newNetwork(k.t)
	s := k.spec("httpd", "-f", "-p", "8080", "-h", "/www")
	s.Netns = w.path
	return s, w
}

func (k *kit) state(id string) sandbox.State {
	k.t.Helper()
	infos, err := k.List(k.t.Context())
	if err != nil {
		k.t.Fatal(err)
	}
	for _, i := range infos {
		if i.ID == id {
			return i.State
		}
	}
	return ""
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestSignal(t *testing.T) {
	k := newKit(t)
	s := k.spec("sh", "-c", "trap 'echo caught; exit 3' TERM; echo ready; while :; do sleep 0.05; done")
	k.start(s)
	until(t, "the machine says ready", func() bool { return strings.Contains(k.console(s), "ready") })
	must(t, k.Signal(t.Context(), s.ID, int(syscall.SIGTERM)))
	if exit := k.ended(s.ID); exit.Code != 3 || !strings.HasSuffix(k.console(s), "caught\n") {
		t.Errorf("exit %+v, said %q", exit, k.console(s))
	}
	if err := k.Signal(t.Context(), s.ID, 15); !errors.Is(err, sandbox.ErrState) {
		t.Errorf("signal after the end: %v", err)
	}
}

func TestKill(t *testing.T) {
	k := newKit(t)
	s := k.spec("sleep", "1000")
	k.start(s)
	must(t, k.Signal(t.Context(), s.ID, int(syscall.SIGKILL)))
	if exit := k.ended(s.ID); exit.Code != 137 || exit.Signal != 9 || exit.OOM {
		t.Errorf("exit %+v", exit)
	}
}

func TestOutOfMemory(t *testing.T) {
	k := newKit(t)
	s := k.spec("sh", "-c", "x=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa; while :; do x=$x$x; done")
	s.Resources.MemoryMiB = 64
	k.start(s)
	if exit := k.ended(s.ID); !exit.OOM || exit.Signal != 9 {
		t.Errorf("exit %+v, want an OOM kill", exit)
	}
}

func TestPauseAndResume(t *testing.T) {
	k := newKit(t)
	s, w := k.server()
	k.start(s)
	w.get(t, 8080)
	for range 3 {
		must(t, k.Pause(t.Context(), s.ID))
		if err := k.Pause(t.Context(), s.ID); !errors.Is(err, sandbox.ErrState) {
			t.Errorf("second pause: %v", err)
		}
		if state := k.state(s.ID); state != sandbox.StatePaused {
			t.Errorf("state %s", state)
		}
		must(t, k.Resume(t.Context(), s.ID))
		w.get(t, 8080)
	}
	must(t, k.Pause(t.Context(), s.ID))
	must(t, k.Signal(t.Context(), s.ID, int(syscall.SIGKILL)))
	if exit := k.ended(s.ID); exit.Signal != 9 {
		t.Errorf("exit %+v", exit)
	}
}

func TestStatsAndProcesses(t *testing.T) {
	k := newKit(t)
	s := k.spec("sh", "-c", "sleep 1000 & wait")
	k.start(s)
	until(t, "two processes", func() bool {
		p, err := k.Processes(t.Context(), s.ID)
		must(t, err)
		return len(p) == 2
	})
	stats, err := k.Stats(t.Context(), s.ID)
	must(t, err)
	if stats.MemoryBytes < 1<<20 || stats.MemoryBytes > 256<<20 || stats.CPUNanos == 0 {
		t.Errorf("stats %+v", stats)
	}
}

func TestPreparedServesAnyImage(t *testing.T) {
	k := newKit(t)
	other := filepath.Join(t.TempDir(), "other.erofs")
	must(t, busyboxImage(t.TempDir(), other))
	for i, image := range []string{built.busybox, other} {
		s, w := k.server()
		s.Rootfs = image
		from := fmt.Sprintf("pool%d", i)
		must(t, k.Prepare(t.Context(), from, w.path))
		if state := k.state(from); state != sandbox.StatePrepared {
			t.Errorf("state %s", state)
		}
		must(t, k.Start(t.Context(), s, from))
		w.get(t, 8080)
		if state := k.state(from); state != "" {
			t.Errorf("%s is still there: %s", from, state)
		}
		// What the limits say is what the guest sees.
		var out bytes.Buffer
		if _, err := k.Exec(t.Context(), s.ID, sandbox.ExecSpec{Args: []string{"grep", "MemTotal", "/proc/meminfo"}}, sandbox.Streams{Stdout: &out}); err != nil {
			t.Error(err)
		}
		if !strings.Contains(out.String(), "262144 kB") {
			t.Errorf("memory %q", out.String())
		}
	}
}

func TestRefused(t *testing.T) {
	k := newKit(t)
	good := k.spec("true")
	for _, test := range []struct {
		name string
		mend func(*sandbox.Spec)
		want error
	}{
		{"id", func(s *sandbox.Spec) { s.ID = "../x" }, sandbox.ErrInvalid},
		{"no command", func(s *sandbox.Spec) { s.Args = nil }, sandbox.ErrInvalid},
		{"relative image", func(s *sandbox.Spec) { s.Rootfs = "x" }, sandbox.ErrInvalid},
		{"environment", func(s *sandbox.Spec) { s.Env = []string{"novalue"} }, sandbox.ErrInvalid},
		{"memory", func(s *sandbox.Spec) { s.Resources.MemoryMiB = 1 }, sandbox.ErrInvalid},
		{"no such image", func(s *sandbox.Spec) { s.Rootfs = "/no/such" }, os.ErrNotExist},
		{"no such program", func(s *sandbox.Spec) { s.Args = []string{"nothing"} }, nil},
		{"no such namespace", func(s *sandbox.Spec) { s.Netns = "/no/such" }, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := good
			test.mend(&s)
			err := k.Start(t.Context(), s, "")
			if err == nil || errors.Is(test.want, sandbox.ErrInvalid) && !errors.Is(err, sandbox.ErrInvalid) {
				t.Errorf("got %v, want %v", err, test.want)
			}
			t.Log(err)
			k.t = t
			k.checkNothingLeft()
		})
	}
	k.t = t
	if err := k.Start(t.Context(), good, "nobody"); !errors.Is(err, sandbox.ErrNotFound) {
		t.Errorf("start from nothing: %v", err)
	}
	k.start(good)
	if err := k.Start(t.Context(), good, ""); !errors.Is(err, sandbox.ErrExists) {
		t.Errorf("second start: %v", err)
	}
}

func TestFilesAndUsers(t *testing.T) {
	k := newKit(t)
	s := k.spec("sh", "-c", `cat /etc/resolv.conf /var/run/deep/er/x /home/app/.secret; stat -c '%n %a %u:%g' /etc /home/app /home/app/.secret /var/run/deep; id; echo new > /home/app/new && echo wrote; touch /tmp/x && echo tmp; cat /proc/self/status | grep CapEff; ls /www`)
	s.UID, s.GID, s.AdditionalGIDs = 1000, 1000, []uint32{2000}
	s.Cwd = "/home/app"
	s.Files = []sandbox.File{
		{Path: "/etc/resolv.conf", Data: []byte("nameserver 10.0.0.1\n")},
		{Path: "/var/run/deep/er/x", Data: []byte("deep\n")},
		{Path: "/home/app/.secret", Mode: 0o400, UID: 1000, GID: 1000, Data: []byte("secret\n")},
	}
	says, exit := k.run(s)
	want := `nameserver 10.0.0.1
deep
secret
/etc 755 0:0
/home/app 700 1000:1000
/home/app/.secret 400 1000:1000
/var/run/deep 755 0:0
uid=1000 gid=1000 groups=2000
wrote
tmp
CapEff:	0000000000000000
index.html
`
	if says != want || exit.Code != 0 {
		t.Errorf("said %q, exit %+v", says, exit)
	}
}

func TestReadOnly(t *testing.T) {
	k := newKit(t)
	s := k.spec("sh", "-c", "touch /www/x || echo refused; touch /dev/shm/x && echo shm; cat /etc/hosts")
	s.ReadOnly = true
	s.Files = []sandbox.File{{Path: "/etc/hosts", Data: []byte("hosts\n")}}
	says, _ := k.run(s)
	if !strings.Contains(says, "refused") || !strings.HasSuffix(says, "shm\nhosts\n") {
		t.Errorf("said %q", says)
	}
}

func TestMounts(t *testing.T) {
	k := newKit(t)
	data, conf := t.TempDir(), filepath.Join(t.TempDir(), "conf")
	must(t, os.WriteFile(conf, []byte("configured\n"), 0o644))
	s := k.spec("sh", "-c", "cat /etc/app.conf /etc/both; echo kept > /data/file; touch /etc/app.conf || echo refused")
	s.Mounts = []sandbox.Mount{{Source: data, Destination: "/data"}, {Source: conf, Destination: "/etc/app.conf", ReadOnly: true}}
	s.Files = []sandbox.File{{Path: "/etc/both", Data: []byte("both\n")}}
	says, exit := k.run(s)
	if !strings.HasPrefix(says, "configured\nboth\n") || !strings.Contains(says, "refused") {
		t.Errorf("said %q, exit %+v", says, exit)
	}
	if b, err := os.ReadFile(filepath.Join(data, "file")); string(b) != "kept\n" {
		t.Errorf("the volume has %q, %v", b, err)
	}
}

func TestWritableDirLasts(t *testing.T) {
	k := newKit(t)
	dir := filepath.Join(k.dir, "writable")
	must(t, os.Mkdir(dir, 0o755))
	for i, want := range []string{"x\n", "x\nx\n"} {
		s := k.spec("sh", "-c", "echo x >> /home/app/list; cat /home/app/list; cat /etc/conf >&2; rm -f /www/index.html; ls /www; stat -c %a:%u / >&2")
		s.WritableDir = dir
		s.Sockets = []sandbox.Socket{{Path: "/.fly/api", Host: filepath.Join(k.dir, "door")}}
		s.Files = []sandbox.File{{Path: "/etc/conf", Data: []byte{'0' + byte(i), '\n'}}}
		says, exit := k.run(s)
		if says != want+string(rune('0'+i))+"\n755:0\n" || exit.Code != 0 {
			t.Errorf("said %q, exit %+v", says, exit)
		}
		must(t, k.Destroy(t.Context(), s.ID))
		k.checkNothingLeft()
	}
}

// TestDestroyWritesBack destroys machines that run or are paused with files
// written and not synced.
func TestDestroyWritesBack(t *testing.T) {
	k := newKit(t)
	for _, paused := range []bool{false, true} {
		data, layer := t.TempDir(), filepath.Join(k.dir, fmt.Sprint("layer", paused))
		must(t, os.Mkdir(layer, 0o755))
		s := k.spec("sh", "-c", "echo volume > /data/x; echo layer > /x; echo ready; sleep 1000")
		s.Mounts, s.WritableDir = []sandbox.Mount{{Source: data, Destination: "/data"}}, layer
		k.start(s)
		until(t, "ready", func() bool { return k.console(s) == "ready\n" })
		if paused {
			must(t, k.Pause(t.Context(), s.ID))
		}
		must(t, k.Destroy(t.Context(), s.ID))
		for path, want := range map[string]string{filepath.Join(data, "x"): "volume\n", filepath.Join(layer, "upper", "x"): "layer\n"} {
			if b, err := os.ReadFile(path); string(b) != want {
				t.Errorf("paused %t: %s has %q, %v", paused, path, b, err)
			}
		}
	}
}

func TestManyAtOnce(t *testing.T) {
	k := newKit(t)
	var g sync.WaitGroup
	for range 8 {
		s := k.spec("sh", "-c", "exit 4")
		g.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if err := k.Prepare(ctx, "for-"+s.ID, ""); err != nil {
				t.Error(err)
				return
			}
			if err := k.Start(ctx, s, "for-"+s.ID); err != nil {
				t.Error(err)
				return
			}
			if exit, err := k.Wait(ctx, s.ID); err != nil || exit.Code != 4 {
				t.Errorf("exit %+v, %v", exit, err)
			}
			if err := k.Destroy(ctx, s.ID); err != nil {
				t.Error(err)
			}
		})
	}
	g.Wait()
	k.checkNothingLeft()
}

// TestNothingIsInherited: of the descriptors of the supervisor, whose number grows with the
// machines, a sandbox has those that it was given. Others lead to the control of machines,
// or stand where gVisor wants to put a machine's output, at 256.
func TestNothingIsInherited(t *testing.T) {
	k := newKit(t)
	for range 6 {
		s := k.spec("sleep", "100")
		k.start(s)
		infos, err := k.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(infos, func(i sandbox.Info) bool { return i.ID == s.ID })
		var sockets []string
		for range 50 { // calls that are being answered come and go
			if sockets = givenSockets(infos[i].Pid); len(sockets) == 1 {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		if len(sockets) != 1 {
			t.Errorf("%s has the sockets %v, want that of its control alone", s.ID, sockets)
		}
	}
}

// givenSockets are the sockets that a process did not open for itself alone.
func givenSockets(pid int) (out []string) {
	paths, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	for _, p := range paths {
		to, _ := os.Readlink(p)
		info, _ := os.ReadFile(strings.Replace(p, "/fd/", "/fdinfo/", 1))
		if strings.HasPrefix(to, "socket:") && !strings.Contains(string(info), "flags:\t02") {
			out = append(out, filepath.Base(p)+" "+to)
		}
	}
	return out
}

// TestUpgrade replaces the program; the machine does not notice.
func TestUpgrade(t *testing.T) {
	k := newKit(t)
	s, w := k.server()
	k.start(s)
	w.get(t, 8080)
	before := k.supervisor()
	next := filepath.Join(k.dir, "perigee-sandbox-next")
	b, err := os.ReadFile(built.program)
	must(t, err)
	must(t, os.WriteFile(next, b, 0o755))
	client, err := sandbox.New(sandbox.Config{Socket: filepath.Join(k.dir, "s"), StateDir: filepath.Join(k.dir, "state"), Program: next, Cgroup: k.group})
	must(t, err)
	defer client.Close()
	must(t, client.Ensure(t.Context()))
	if now := k.supervisor(); now == before || now == 0 {
		t.Errorf("the supervisor is %d, was %d", now, before)
	}
	w.get(t, 8080)
	code, err := client.Exec(t.Context(), s.ID, sandbox.ExecSpec{Args: []string{"true"}}, sandbox.Streams{})
	if code != 0 || err != nil {
		t.Errorf("exec: %d, %v", code, err)
	}
	must(t, client.Destroy(t.Context(), s.ID))
}

func TestTerminal(t *testing.T) {
	k := newKit(t)
	s := k.spec("sh", "-c", "test -t 0 && test -t 1 && echo terminal; echo done")
	s.Terminal = true
	k.start(s)
	exit := k.ended(s.ID)
	until(t, "the console is copied", func() bool { return strings.Contains(k.console(s), "done") })
	if exit.Code != 0 || !strings.Contains(k.console(s), "terminal") {
		t.Errorf("said %q, exit %+v", k.console(s), exit)
	}
}

func TestSupervisorDies(t *testing.T) {
	k := newKit(t)
	runs, w := k.server()
	paused, pw := k.server()
	dead := k.spec("sh", "-c", "exit 5")
	dies := k.spec("sh", "-c", "sleep 0.2; exit 6")
	k.start(runs)
	k.start(paused)
	k.start(dead)
	must(t, k.Pause(t.Context(), paused.ID))
	k.ended(dead.ID)
	must(t, k.Prepare(t.Context(), "lost", ""))
	waited := make(chan sandbox.Exit, 1)
	go func() {
		exit, err := k.Wait(t.Context(), runs.ID)
		if err != nil {
			t.Error(err)
		}
		waited <- exit
	}()
	k.start(dies)
	k.killSupervisor()
	w.get(t, 8080)
	time.Sleep(400 * time.Millisecond) // dies ends with nobody there
	must(t, k.Ensure(t.Context()))
	if k.state("lost") != "" {
		t.Error("a prepared sandbox is still there")
	}
	for _, want := range []struct {
		id   string
		code int
	}{{dead.ID, 5}, {dies.ID, 6}} {
		if exit := k.ended(want.id); exit.Code != want.code || exit.Unknown {
			t.Errorf("exit of %s: %+v, want %d", want.id, exit, want.code)
		}
	}
	must(t, k.Resume(t.Context(), paused.ID))
	pw.get(t, 8080)
	code, err := k.Exec(t.Context(), runs.ID, sandbox.ExecSpec{Args: []string{"true"}}, sandbox.Streams{})
	if code != 0 || err != nil {
		t.Errorf("exec: %d, %v", code, err)
	}
	must(t, k.Signal(t.Context(), runs.ID, 9))
	if exit := <-waited; exit.Signal != 9 {
		t.Errorf("the wait that began before says %+v", exit)
	}
}

func TestDestroyLeavesNothing(t *testing.T) {
	k := newKit(t)
	files := func() int {
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", k.supervisor()))
		must(t, err)
		return len(entries)
	}
	before := 0
	for i := range 20 {
		s := k.spec("sleep", "1000")
		if i%2 == 0 {
			must(t, k.Prepare(t.Context(), "p", ""))
			must(t, k.Start(t.Context(), s, "p"))
		} else {
			k.start(s)
		}
		must(t, k.Destroy(t.Context(), s.ID))
		must(t, k.Destroy(t.Context(), s.ID))
		k.checkNothingLeft()
		if i == 4 {
			before = files()
		}
	}
	if now := files(); now > before+16 {
		t.Errorf("the supervisor has %d files open, had %d", now, before)
	}
}

func TestDestroyPrepared(t *testing.T) {
	k := newKit(t)
	must(t, k.Prepare(t.Context(), "p", ""))
	must(t, k.Destroy(t.Context(), "p"))
	k.checkNothingLeft()
}

func TestWaitEndsWithItsContext(t *testing.T) {
	k := newKit(t)
	s := k.spec("sleep", "1000")
	k.start(s)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := k.Wait(ctx, s.ID); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestForkBomb(t *testing.T) {
	k := newKit(t)
	s := k.spec("sh", "-c", "sleep 1000 & b() { b & b & }; b; wait")
	bystander, w := k.server()
	k.start(bystander)
	k.start(s)
	time.Sleep(1500 * time.Millisecond)
	w.get(t, 8080)
	// The bomb may end its own machine, and nothing else.
	t.Logf("the machine with the bomb is %s", k.state(s.ID))
	if code, err := k.Exec(t.Context(), bystander.ID, sandbox.ExecSpec{Args: []string{"true"}}, sandbox.Streams{}); code != 0 || err != nil {
		t.Errorf("exec in another machine: %d, %v", code, err)
	}
	must(t, k.Destroy(t.Context(), s.ID))
}
