//go:build linux

package test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// TestUpgrade puts other programs in the place of a running node's: the same one
// again, one that is of no use, and one that is killed in the middle. Visitors of
// all kinds must notice nothing of it.
func TestUpgrade(t *testing.T) {
	bin := ownPrograms(t)
	told := systemd(t)
	n := Start(t)
	t.Cleanup(func() { n.stopSuccessor() })
	n.deploy(appWithChecks(t, "shop", ""), "--image", App(t))
	n.deploy(appWithChecks(t, "sleeper", ""), "--image", n.machine("shop").Config.Image)

	v := n.visit("shop.apps.localhost")
	t.Cleanup(v.stop)
	first := n.lockPID()
	n.whileItHappens("sleeper", "a new program takes over", func() { n.Must("node", "upgrade") })
	if n.lockPID() == first {
		t.Error("the process is the same")
	}
	if at := listener(t, n.Socket()); at != n.lockPID() {
		t.Errorf("the API's socket is of process %d, not %d", at, n.lockPID())
	}
	if got, want := told(), fmt.Sprintf("READY=1 MAINPID=%d", n.lockPID()); !strings.HasPrefix(got, "READY=1") || !strings.Contains(got, want[8:]) {
		t.Errorf("systemd was told %q", got)
	}
	t.Logf("upgraded: %s", n.said(`the new program serves.*`))
	v.check(t, "the upgrade")
	n.awaitGone(first)

	second := n.lockPID()
	replaceProgram(t, bin, "/bin/false")
	if _, errs, code := n.Perigee("node", "upgrade"); code == 0 || !strings.Contains(errs, "nothing has changed") || !strings.Contains(errs, "exit status 1") {
		t.Errorf("with a program that fails: exit code %d\n%s", code, errs)
	}
	if n.lockPID() != second {
		t.Error("a program that fails was taken")
	}
	v.check(t, "a program that fails")

	replaceProgram(t, bin, filepath.Join(bin, "perigeed.good"))
	n.whileItHappens("sleeper", "version=.* pid=", func() {
		_, errs, code := n.Perigee("node", "upgrade")
		if code == 0 || !strings.Contains(errs, "did not take over") {
			t.Errorf("with a program that is killed: exit code %d\n%s", code, errs)
		}
	}, func() {
		pid, _ := strconv.Atoi(regexp.MustCompile(`\d+$`).FindString(n.said(`takes over.* pid=\d+`)))
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Error(err)
		}
	})
	if n.lockPID() != second {
		t.Error("the process is another one")
	}
	v.check(t, "a program that was killed")

	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) { // and it can be done still
		_, errs, code := n.Perigee("node", "upgrade")
		if code == 0 {
			break
		}
		if !strings.Contains(errs, "connections of the program before this one") || time.Now().After(end) {
			t.Fatalf("another upgrade: exit code %d\n%s", code, errs)
		}
	}
	v.check(t, "the second upgrade")
	v.end(t)
	n.awaitGone(second)
}

// systemd listens as it does, and returns what it was told so far.
func systemd(t *testing.T) (told func() string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	var mu sync.Mutex // guards all
	var all []string
	go func() { // ends with the socket
		var b [512]byte
		for {
			n, err := c.Read(b[:])
			if err != nil {
				return
			}
			mu.Lock()
			all = append(all, string(b[:n]))
			mu.Unlock()
		}
	}()
	return func() string {
		mu.Lock()
		defer mu.Unlock()
		return strings.Join(all, " ")
	}
}

// listener is the process that a unix socket is of.
func listener(t *testing.T, path string) int {
	t.Helper()
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	pid := 0
	if err := raw.Control(func(fd uintptr) {
		if cred, err := syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED); err == nil {
			pid = int(cred.Pid)
		}
	}); err != nil {
		t.Fatal(err)
	}
	return pid
}

// ownPrograms gives the test a folder of programs that it may replace.
func ownPrograms(t *testing.T) string {
	t.Helper()
	from, dir := Programs(t), t.TempDir()
	for _, name := range []string{"perigee", "perigee-sandbox"} {
		if err := os.Symlink(filepath.Join(from, name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	copyFile(t, filepath.Join(from, "perigeed"), filepath.Join(dir, "perigeed.good"))
	replaceProgram(t, dir, filepath.Join(dir, "perigeed.good"))
	t.Setenv("PERIGEE_BIN", dir)
	return dir
}

// replaceProgram is what installers do: another file under the name.
func replaceProgram(t *testing.T, dir, with string) {
	t.Helper()
	tmp := filepath.Join(dir, "perigeed.new")
	copyFile(t, with, tmp)
	if err := os.Rename(tmp, filepath.Join(dir, "perigeed")); err != nil {
		t.Fatal(err)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, b, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// lockPID is the process that the data directory belongs to.
func (n *Node) lockPID() int {
	b, _ := os.ReadFile(filepath.Join(n.Data(), "perigeed.pid"))
	pid, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	return pid
}

// said is the last of the node's words that match, "" if there are none.
func (n *Node) said(pattern string) string {
	all := regexp.MustCompile(pattern).FindAllString(n.Log(), -1)
	if len(all) == 0 {
		return ""
	}
	return all[len(all)-1]
}

// whileItHappens puts an app to sleep and has a visitor wake it in the middle of
// what do does: when the log says so anew.
func (n *Node) whileItHappens(app, sign string, do func(), also ...func()) {
	n.T.Helper()
	n.Must("machine", "suspend", "--app", app, n.machine(app).ID)
	seen := regexp.MustCompile(sign)
	before := len(seen.FindAllString(n.Log(), -1))
	var wg sync.WaitGroup
	wg.Go(func() {
		for end := time.Now().Add(30 * time.Second); len(seen.FindAllString(n.Log(), -1)) <= before; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				n.T.Error("it did not begin")
				return
			}
		}
		for _, f := range also {
			f()
		}
		resp, err := n.Visitor().Get("http://" + app + ".apps.localhost/")
		if err != nil {
			n.T.Errorf("who woke a machine meanwhile: %v", err)
			return
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			n.T.Errorf("who woke a machine meanwhile: %s", resp.Status)
		}
	})
	do()
	wg.Wait()
}

// awaitGone waits for the end of a process: its connections have ended.
func (n *Node) awaitGone(pid int) {
	n.T.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || strings.Contains(string(b), ") Z ") {
			return
		}
		if time.Now().After(end) {
			n.T.Errorf("the former process, %d, does not end", pid)
			return
		}
	}
}

// stopSuccessor ends a node that is not the process that Run started.
func (n *Node) stopSuccessor() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	pid := n.lockPID()
	if err := n.Client.StopNode(ctx, true); err == nil {
		n.awaitGone(pid)
	}
	n.cmd.Process.Kill()
	n.cmd.Wait()
}

// visitors ask a node in all the ways there are.
type visitors struct {
	quit  chan struct{}
	stop  func() // may be called again
	wg    sync.WaitGroup
	asked atomic.Int64

	mu     sync.Mutex // guards faults
	faults []string
}

// visit has visitors ask the host until end is called.
func (n *Node) visit(host string) *visitors {
	v := &visitors{quit: make(chan struct{})}
	v.stop = sync.OnceFunc(func() { close(v.quit); v.wg.Wait() })
	fresh := n.Visitor()
	fresh.Transport.(*http.Transport).DisableKeepAlives = true
	v.again("a kept connection", 5*time.Millisecond, asking(n.Visitor(), "http://"+host+"/release", ""))
	v.again("new connections", 20*time.Millisecond, asking(fresh, "http://"+host+"/release", ""))
	v.again("HTTP/2", 5*time.Millisecond, asking(n.Visitor(), "https://"+host+"/release", ""))
	v.again("a slow stream", 0, asking(fresh, "http://"+host+"/slow?for=2s", "begin\nend\n"))
	v.again("a slow stream by HTTP/2", 0, asking(n.Visitor(), "https://"+host+"/slow?for=2s", "begin\nend\n"))
	v.again("a WebSocket", 0, func() error { return talk(n, host) })
	return v
}

func (v *visitors) again(how string, pause time.Duration, do func() error) {
	v.wg.Go(func() {
		for {
			if err := do(); err != nil {
				v.mu.Lock()
				v.faults = append(v.faults, fmt.Sprintf("%s: %v", how, err))
				v.mu.Unlock()
			}
			v.asked.Add(1)
			select {
			case <-v.quit:
				return
			case <-time.After(pause):
			}
		}
	})
}

func asking(c *http.Client, url, want string) func() error {
	return func() error {
		resp, err := c.Get(url)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK || string(b) != want {
			return fmt.Errorf("%s, %q, %w", resp.Status, b, err)
		}
		return nil
	}
}

// talk keeps a WebSocket for three seconds, and says something now and then.
func talk(n *Node, host string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, _, err := websocket.Dial(ctx, "ws://"+host+"/ws", &websocket.DialOptions{HTTPClient: n.Visitor()})
	if err != nil {
		return err
	}
	defer c.CloseNow()
	for i := range 30 {
		if err := c.Write(ctx, websocket.MessageText, []byte(strconv.Itoa(i))); err != nil {
			return err
		}
		if _, b, err := c.Read(ctx); err != nil || string(b) != strconv.Itoa(i) {
			return fmt.Errorf("%q, %w", b, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
	return nil
}

// check reports what failed so far, and lets some more visitors come.
func (v *visitors) check(t *testing.T, during string) {
	t.Helper()
	for was := v.asked.Load(); v.asked.Load() < was+50; {
		time.Sleep(10 * time.Millisecond)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.faults) > 0 {
		t.Errorf("with %s %d of %d visits failed: %s", during, len(v.faults), v.asked.Load(), strings.Join(v.faults[:min(5, len(v.faults))], "; "))
	}
	v.faults = nil
}

func (v *visitors) end(t *testing.T) {
	t.Helper()
	v.stop()
	if len(v.faults) > 0 {
		t.Errorf("at the end: %v", v.faults)
	}
	t.Logf("%d visits", v.asked.Load())
}
