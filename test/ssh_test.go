package test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/internal/debian"
)

// shells is a node with an app of Debian's, "web", and one that is nothing but a
// program, "bare", and a certificate for all of them.
type shells struct {
	*Node
	home string
	web  string // machines
	bare string
}

func newShells(t *testing.T) *shells {
	for _, p := range []string{"ssh", "scp", "sftp"} {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("needs %s of openssh-client: %v", p, err)
		}
	}
	n := Start(t)
	n.deploy(app(t, "web", 80, ""), "--image", archive(t, "userland:test", userland()))
	n.deploy(app(t, "bare", 8080, ""), "--image", App(t))
	s := &shells{Node: n, home: t.TempDir(), web: n.machine("web").ID, bare: n.machine("bare").ID}
	s.Must("ssh", "issue", s.key("perigee"))
	return s
}

// userland is a Debian with a shell that serves HTTP on port 80.
func userland() debian.Recipe {
	return debian.Recipe{
		Packages: []string{"bash", "dash", "coreutils", "busybox-static"},
		Users:    map[string]int{"www-data": 33},
		Files:    map[string][]byte{"/www/index.html": []byte("hello from within\n")},
		Config:   v1.Config{Cmd: []string{"/bin/sh", "-c", "/bin/busybox httpd -p 127.0.0.1:5432 -h /www; exec /bin/busybox httpd -f -p 80 -h /www"}, WorkingDir: "/"},
	}
}

func (s *shells) key(name string) string { return filepath.Join(s.home, name) }

// run runs one of OpenSSH's programs with the configuration that goes with a key.
func (s *shells) run(key string, stdin []byte, program string, args ...string) (stdout, stderr string, code int) {
	s.T.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, append([]string{"-F", s.key(key) + ".conf", "-o", "BatchMode=yes"}, args...)...)
	cmd.Env, cmd.Dir = s.Env(), s.home
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &out, &errs
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		s.T.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// ssh runs a command in the machine with ssh.
func (s *shells) ssh(host string, args ...string) (stdout, stderr string, code int) {
	s.T.Helper()
	return s.run("perigee", nil, "ssh", append([]string{host}, args...)...)
}

// TestSSH lets OpenSSH's own programs in.
func TestSSH(t *testing.T) {
	s := newShells(t)
	for _, step := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"commands", s.commands}, {"pipes", s.pipes}, {"no shell", s.noShell}, {"terminal", s.terminal}, {"scp", s.scp}, {"sftp", s.sftp},
		{"perigee sftp", s.perigeeSFTP}, {"forward", s.forward}, {"refused", s.refused}, {"tokens", s.tokens}, {"agent", s.agent}, {"asleep", s.asleep}, {"events", s.events}, {"kill", s.kill},
	} {
		t.Run(step.name, step.run)
	}
}

func (s *shells) commands(t *testing.T) {
	for _, c := range []struct {
		host, command, stdout, stderr string
		code                          int
	}{
		{"web.internal", "echo hello; id -un; pwd", "hello\nroot\n/\n", "", 0},
		{"root@" + s.web + ".vm.web.internal", "exit 3", "", "", 3},
		{"web.internal", "kill -9 $$", "", "", 137},
		{"web.internal", "cat /none", "", "No such file", 1},
		{"web.internal", "no-such-program", "", "not found", 127},
		{"www-data@web.internal", "true", "", "not for user", 255},
	} {
		out, errs, code := s.ssh(c.host, c.command)
		if out != c.stdout || !strings.Contains(errs, c.stderr) || code != c.code {
			t.Errorf("%s %q: exit code %d\n%s%s", c.host, c.command, code, out, errs)
		}
	}
	if out, _, code := s.Perigee("ssh", "console", "-a", "web", "-C", "echo $0 $USER; exit 4"); code != 4 || !strings.HasSuffix(out, "root\n") {
		t.Errorf("perigee ssh console: exit code %d, %q", code, out)
	}
}

func (s *shells) pipes(t *testing.T) {
	data := make([]byte, 12<<20)
	rand.Read(data)
	sum := fmt.Sprintf("%x", sha256.Sum256(data))
	out, errs, code := s.run("perigee", data, "ssh", "web.internal", "tee ~/copy | sha256sum")
	if code != 0 || !strings.HasPrefix(out, sum) {
		t.Fatalf("in: exit code %d, %s%s, want %s", code, out, errs, sum)
	}
	out, errs, code = s.ssh("web.internal", "cat ~/copy")
	if code != 0 || fmt.Sprintf("%x", sha256.Sum256([]byte(out))) != sum {
		t.Fatalf("out: exit code %d, %d bytes, %s", code, len(out), errs)
	}
}

func (s *shells) noShell(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
		code int
	}{
		{nil, "has no shell; run a program that is in it", 127},
		{[]string{"no-such-program"}, "has no program \"no-such-program\", and its image has no shell", 127},
	} {
		if out, errs, code := s.ssh("bare.internal", c.args...); code != c.code || !strings.Contains(errs, c.want) {
			t.Errorf("%q: exit code %d\n%s%s", c.args, code, out, errs)
		}
	}
}

// terminal types into ssh and into perigee ssh console, and changes the window.
func (s *shells) terminal(t *testing.T) {
	for _, args := range [][]string{
		{"ssh", "-F", s.key("perigee") + ".conf", "web.internal"},
		{filepath.Join(s.Bin, "perigee"), "ssh", "console", "-a", "web"},
	} {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Env = append(s.Env(), "TERM=vt100")
		tty, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 24, Cols: 80})
		if err != nil {
			t.Fatal(err)
		}
		said := watchTerminal(tty)
		expect := func(typed, want string) {
			t.Helper()
			fmt.Fprint(tty, typed)
			for end := time.Now().Add(20 * time.Second); !strings.Contains(said(), want); time.Sleep(10 * time.Millisecond) {
				if time.Now().After(end) {
					t.Fatalf("%s: no %q after %q in\n%s", args[0], want, typed, said())
				}
			}
		}
		expect("echo $TERM-$((40+2)); stty size\n", "vt100-42\r\n24 80")
		if err := pty.Setsize(tty, &pty.Winsize{Rows: 50, Cols: 132}); err != nil {
			t.Fatal(err)
		}
		expect("sleep 0.3; stty size\n", "50 132")
		expect("sleep 1000\n\x03echo went-$((1+1))\n", "went-2")
		fmt.Fprint(tty, "exit 5\n")
		_ = cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != 5 {
			t.Errorf("%s: exit code %d\n%s", args[0], code, said())
		}
		tty.Close()
	}
}

// watchTerminal returns what came so far.
func watchTerminal(tty *os.File) func() string {
	var mu sync.Mutex
	var all bytes.Buffer
	go func() {
		b := make([]byte, 4096)
		for {
			n, err := tty.Read(b)
			mu.Lock()
			all.Write(b[:n])
			mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return func() string {
		mu.Lock()
		defer mu.Unlock()
		return all.String()
	}
}

// random writes a file and returns its content.
func (s *shells) random(name string, size int, mode os.FileMode) []byte {
	s.T.Helper()
	b := make([]byte, size)
	rand.Read(b)
	path := filepath.Join(s.home, name)
	if err := errors.Join(os.WriteFile(path, b, mode), os.Chmod(path, mode)); err != nil {
		s.T.Fatal(err)
	}
	return b
}

// same fails unless the file has the content and the mode.
func (s *shells) same(t *testing.T, name string, want []byte, mode os.FileMode) {
	t.Helper()
	path := filepath.Join(s.home, name)
	got, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s: %d bytes, %v; want the %d that went", name, len(got), err, len(want))
	}
	if i, err := os.Stat(path); err == nil && i.Mode().Perm() != mode {
		t.Errorf("%s has mode %v, want %v", name, i.Mode(), mode)
	}
}

// scp copies there and back, also where the image has no shell.
func (s *shells) scp(t *testing.T) {
	data := s.random("up", 5<<20+7, 0o640)
	for _, host := range []string{"web.internal", "bare.internal"} {
		if _, errs, code := s.run("perigee", nil, "scp", "-p", "up", host+":/copied"); code != 0 {
			t.Fatalf("scp up to %s: exit code %d\n%s", host, code, errs)
		}
		if _, errs, code := s.run("perigee", nil, "scp", "-p", host+":/copied", "down"); code != 0 {
			t.Fatalf("scp down from %s: exit code %d\n%s", host, code, errs)
		}
		s.same(t, "down", data, 0o640)
		os.Remove(filepath.Join(s.home, "down"))
	}
	if out, _, _ := s.ssh("web.internal", "stat -c '%a %U' /copied; sha256sum < /copied"); out != fmt.Sprintf("640 root\n%x  -\n", sha256.Sum256(data)) {
		t.Errorf("in the machine it is %q", out)
	}
	if _, errs, code := s.run("perigee", nil, "scp", "web.internal:/none", "down"); code == 0 || !strings.Contains(errs, "No such file") {
		t.Errorf("a file that is not there: exit code %d\n%s", code, errs)
	}
}

func (s *shells) sftp(t *testing.T) {
	data := s.random("batch", 1<<20, 0o600)
	batch := "mkdir /dir\nput batch /dir/a\nchmod 400 /dir/a\nrename /dir/a /dir/b\nls -l /dir\nget -p /dir/b back\nrm /dir/b\nrmdir /dir\nbye\n"
	out, errs, code := s.run("perigee", []byte(batch), "sftp", "-b", "-", "bare.internal")
	if code != 0 || !strings.Contains(out, "-r--------") {
		t.Fatalf("sftp: exit code %d\n%s%s", code, out, errs)
	}
	s.same(t, "back", data, 0o400)
}

// perigeeSFTP moves a folder there and back, and walks through it.
func (s *shells) perigeeSFTP(t *testing.T) {
	if err := os.MkdirAll(filepath.Join(s.home, "tree/sub"), 0o750); err != nil {
		t.Fatal(err)
	}
	top, deep := s.random("tree/top", 100, 0o600), s.random("tree/sub/deep file", 3<<20, 0o755)
	must := func(args ...string) string {
		t.Helper()
		out, errs, code := s.PerigeeIn(s.home, append([]string{"ssh", "sftp"}, args...)...)
		if code != 0 {
			t.Fatalf("perigee ssh sftp %q: exit code %d\n%s%s", args, code, out, errs)
		}
		return out
	}
	must("put", "-r", "tree", "/tree", "-a", "bare")
	must("get", "-r", "/tree", "returned", "-a", "bare")
	s.same(t, "returned/top", top, 0o600)
	s.same(t, "returned/sub/deep file", deep, 0o755)
	if out := must("find", "/tree", "-a", "bare"); out != "/tree\n/tree/sub\n/tree/sub/deep file\n/tree/top\n" {
		t.Errorf("find: %q", out)
	}
	if out := must("ls", "/tree", "-a", "bare", "--json"); !strings.Contains(out, `"mode": "-rw-------"`) {
		t.Errorf("ls: %s", out)
	}
	cmd := exec.Command(filepath.Join(s.Bin, "perigee"), "ssh", "sftp", "shell", "-a", "bare")
	cmd.Env, cmd.Dir = s.Env(), s.home
	cmd.Stdin = strings.NewReader("cd /tree/sub\nmv 'deep file' d\nrm d\ncd ..\nrmdir sub\nls\npwd\n")
	if out, err := cmd.CombinedOutput(); err != nil || strings.Contains(string(out), "sub") || !strings.HasSuffix(string(out), "/tree\n") {
		t.Errorf("shell: %v\n%s", err, out)
	}
	for _, c := range [][]string{{"get", "/none"}, {"put", "none"}, {"get", "/tree"}, {"ls", "/none"}} {
		if _, errs, code := s.PerigeeIn(s.home, append([]string{"ssh", "sftp", "-a", "bare"}, c...)...); code == 0 || !strings.Contains(errs, "Error:") {
			t.Errorf("%q: exit code %d\n%s", c, code, errs)
		}
	}
}

// forward reaches a machine's port through ssh -L, and nothing else.
func (s *shells) forward(t *testing.T) {
	for _, c := range []struct{ to, want string }{
		{"localhost:80", "hello from within"}, {"127.0.0.1:80", "hello from within"}, {"localhost:5432", "hello from within"}, {"localhost:81", ""}, {"192.0.2.1:80", ""}, {s.bare + ".vm.bare.internal:8080", ""},
	} {
		out, errs, code := s.run("perigee", []byte("GET /index.html HTTP/1.0\r\n\r\n"), "ssh", "-W", c.to, "web.internal")
		if c.want == "" && (code == 0 || !strings.Contains(errs, "perigee: ")) || !strings.Contains(out, c.want) {
			t.Errorf("-W %s: exit code %d\n%s%s", c.to, code, out, errs)
		}
	}
	local := freeAddr(t)
	cmd := exec.Command("ssh", "-F", s.key("perigee")+".conf", "-N", "-o", "ExitOnForwardFailure=yes", "-L", local+":localhost:80", "web.internal")
	cmd.Env = s.Env()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		resp, err := http.Get("http://" + local + "/index.html")
		if err == nil {
			b, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if string(b) != "hello from within\n" {
				t.Errorf("through -L: %q", b)
			}
			return
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// refused tries certificates that are too narrow or not ours.
func (s *shells) refused(t *testing.T) {
	s.Must("ssh", "issue", s.key("narrow"), "-a", "bare")
	s.Must("ssh", "issue", s.key("other"), "-m", s.bare)
	s.Must("orgs", "create", "elsewhere")
	s.Must("ssh", "issue", s.key("foreign"), "--org", "elsewhere")
	for key, want := range map[string]string{"narrow": "not for app", "other": "not for machine", "foreign": "not of org"} {
		// The host's certificate is of the right org everywhere but in the last.
		out, errs, code := s.run(key, nil, "ssh", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "web.internal", "echo in")
		if code != 255 || out != "" || !strings.Contains(errs, want) {
			t.Errorf("%s: exit code %d, %q\n%s", key, code, out, errs)
		}
	}
	if _, errs, code := s.run("foreign", nil, "ssh", "web.internal", "true"); code != 255 || !strings.Contains(errs, "Host key verification failed") {
		t.Errorf("a machine of another org than the one that is known: exit code %d\n%s", code, errs)
	}
	for _, c := range [][]string{{"ssh", "issue", s.key("x"), "--hours", "100"}, {"ssh", "issue", s.key("x"), "-a", "none"}, {"ssh", "issue", "/proc/x/y"}, {"ssh", "proxy", "example.com"}} {
		if _, errs, code := s.Perigee(c...); code == 0 || !strings.Contains(errs, "Error:") {
			t.Errorf("%q: exit code %d\n%s", c, code, errs)
		}
	}
}

// tokens enters with a token that is for one app's machines, and shuts it out.
func (s *shells) tokens(t *testing.T) {
	made, err := s.Client.CreateToken(context.Background(), "personal", api.CreateTokenRequest{Kind: api.TokenSSH, App: "web"})
	if err != nil {
		t.Fatal(err)
	}
	as := func(args ...string) (string, string, int) {
		return s.Perigee(append(args, "--addr", "http://"+s.API, "--token", made.Token)...)
	}
	if out, errs, code := as("ssh", "console", "-a", "web", "-C", "echo in"); code != 0 || out != "in\n" {
		t.Errorf("into its app: exit code %d, %q\n%s", code, out, errs)
	}
	for _, args := range [][]string{{"ssh", "console", "-a", "bare", "-C", "/testapp"}, {"ssh", "issue", s.key("wide"), "-a", "bare"}, {"machine", "stop", s.web, "-a", "web"}} {
		if _, errs, code := as(args...); code != 4 {
			t.Errorf("%q: exit code %d\n%s", args, code, errs)
		}
	}
	if out, errs, code := as("ssh", "issue", s.key("wide"), "--json"); code != 0 || !strings.Contains(out, `"web"`) {
		t.Errorf("for what the token reaches: exit code %d, %s\n%s", code, out, errs)
	}
	s.oneMachine(t)
	if _, errs, code := as("ssh", "issue", s.key("lent"), "-a", "web"); code != 0 {
		t.Fatalf("issue: exit code %d\n%s", code, errs)
	}
	enter := func() (string, string, int) {
		way := fmt.Sprintf("ProxyCommand=%s ssh proxy --addr unix://%s %%h", filepath.Join(s.Bin, "perigee"), s.Socket())
		return s.run("lent", nil, "ssh", "-o", way, "web.internal", "echo in")
	}
	if out, errs, code := enter(); code != 0 || out != "in\n" {
		t.Errorf("by its certificate: exit code %d, %q\n%s", code, out, errs)
	}
	s.Must("tokens", "revoke", made.ID)
	if _, errs, code := enter(); code != 255 || !strings.Contains(errs, "was revoked") {
		t.Errorf("after it was revoked: exit code %d\n%s", code, errs)
	}
	if out := s.Must("audit", "--json"); strings.Count(out, "SSH_session") < 2 || !strings.Contains(out, "SSH_issue_app") {
		t.Errorf("the audit log says\n%s", out)
	}
}

// oneMachine enters with tokens that are for a single machine, named or found.
func (s *shells) oneMachine(t *testing.T) {
	for kind, verb := range map[string][]string{api.TokenSSH: {"console", "-C", "echo in"}, api.TokenMachineExec: {"exec", "--", "echo", "in"}} {
		made, err := s.Client.CreateToken(context.Background(), "personal", api.CreateTokenRequest{Kind: kind, App: "web", Machines: []string{s.web}})
		if err != nil {
			t.Fatal(err)
		}
		for _, where := range [][]string{{"-a", "web"}, {"-a", "web", "-m", s.web}} {
			args := slices.Concat([]string{"--addr", "http://" + s.API, "--token", made.Token}, verb[:1], where, verb[1:])
			if out, errs, code := s.Perigee(args...); code != 0 || out != "in\n" {
				t.Errorf("%q: exit code %d, %q\n%s", args, code, out, errs)
			}
		}
		if _, _, code := s.Perigee("ssh", "console", "-a", "bare", "-C", "/testapp", "--addr", "http://"+s.API, "--token", made.Token); code != 4 {
			t.Errorf("a token of kind %s for another's machine: exit code %d", kind, code)
		}
	}
}

// agent has the ssh-agent hold key and certificate.
func (s *shells) agent(t *testing.T) {
	sock := filepath.Join(s.home, "agent")
	agent, err := exec.LookPath("ssh-agent")
	if err != nil {
		t.Skip("needs ssh-agent, of OpenSSH's client; scripts/deps.sh test installs it")
	}
	cmd := exec.Command(agent, "-D", "-a", sock)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(sock); err == nil {
			break
		}
	}
	t.Setenv("SSH_AUTH_SOCK", sock)
	s.Must("ssh", "issue", "--agent", "-a", "web")
	out, errs, code := s.run("perigee", nil, "ssh", "-F", "none", "-o", "UserKnownHostsFile="+s.key("perigee")+".known_hosts", "-o", "HostKeyAlgorithms=ssh-ed25519-cert-v01@openssh.com",
		"-o", "ProxyCommand="+filepath.Join(s.Bin, "perigee")+" ssh proxy %h", "root@web.internal", "echo in")
	if code != 0 || out != "in\n" {
		t.Errorf("exit code %d, %q\n%s", code, out, errs)
	}
}

// asleep enters machines that sleep, and one that is stopped.
func (s *shells) asleep(t *testing.T) {
	for _, how := range []string{"pause", "suspend", "stop"} {
		s.Must("machine", how, s.web, "-a", "web")
		if out, errs, code := s.run("perigee", nil, "ssh", s.web+".vm.web.internal", "echo awake"); code != 0 || out != "awake\n" {
			t.Errorf("%s: exit code %d, %q\n%s", how, code, out, errs)
		}
	}
	if _, err := s.Client.CreateMachine(context.Background(), "web", api.CreateMachineRequest{
		Name: "job", SkipLaunch: true, Config: &api.MachineConfig{Image: s.machine("bare").Config.Image},
	}); err != nil {
		t.Fatal(err)
	}
	out, errs, code := s.Perigee("ssh", "console", "-a", "web", "-m", "job", "-C", "/testapp")
	if code != 255 || !strings.Contains(errs, "perigee machine start") {
		t.Errorf("one that was never started: exit code %d\n%s%s", code, out, errs)
	}
	s.Must("machine", "destroy", "job", "-a", "web", "--force")
}

func (s *shells) events(t *testing.T) {
	s.ssh("web.internal", "exit 6 # secret-word")
	list, err := s.Client.Events(context.Background(), "web", s.web)
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, e := range list {
		if e.Type != "ssh" {
			continue
		}
		seen++
		if text := fmt.Sprint(e.Detail); strings.Contains(text, "secret-word") || seen == 1 && (e.Detail["who"] == "" || e.Detail["user"] != "root" || e.Detail["did"] != "exit" || fmt.Sprint(e.Detail["exit_code"]) != "6") {
			t.Errorf("event %s", text)
		}
	}
	if seen == 0 || seen > 10 {
		t.Errorf("%d events of sessions", seen)
	}
}

// kill ends the daemon under a session.
func (s *shells) kill(t *testing.T) {
	cmd := exec.Command("ssh", "-F", s.key("perigee")+".conf", "web.internal", "echo begun; sleep 100")
	cmd.Env = s.Env()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line := make([]byte, 6); func() bool { _, err := io.ReadFull(out, line); return err != nil }() {
		t.Fatal("the session does not begin")
	}
	s.Kill()
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case <-done:
		if code := cmd.ProcessState.ExitCode(); code != 255 {
			t.Errorf("the session ends with %d", code)
		}
	case <-time.After(20 * time.Second):
		cmd.Process.Kill()
		t.Fatal("the session does not end with the daemon")
	}
	s.Run()
	if out, errs, code := s.ssh("web.internal", "echo again"); code != 0 || out != "again\n" {
		t.Errorf("afterwards: exit code %d, %q\n%s", code, out, errs)
	}
	if m := s.machine("web"); m.State != api.StateStarted {
		t.Errorf("the machine is %s", m.State)
	}
}
