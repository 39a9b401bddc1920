package test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/perigee-run/perigee/api"
)

// Node is a real perigeed with its own data directory, ports and devices.
type Node struct {
	T      testing.TB
	Bin    string // folder of the programs
	Dir    string // working folder; the node's data is in Dir/data
	API    string // host:port
	HTTP   string // answers for public port 80
	HTTPS  string // answers for public port 443
	Token  string
	Client *api.Client

	args []string
	cmd  *exec.Cmd
}

var prefixes atomic.Int32

// Start starts a node and stops it, its machines and its supervisor when the
// test ends. More flags for perigeed may follow.
func Start(t testing.TB, flags ...string) *Node {
	t.Helper()
	bin := Programs(t)
	dir, err := os.MkdirTemp("", "pg")
	if err != nil {
		t.Fatal(err)
	}
	n := &Node{T: t, Bin: bin, Dir: dir, API: freeAddr(t), HTTP: freeAddr(t), HTTPS: freeAddr(t)}
	nth := int(prefixes.Add(1))
	prefix := fmt.Sprintf("pt%d%s", nth, strconv.FormatInt(int64(os.Getpid()%46656), 36))
	// Other nodes may run on this host, of tests that run beside this one.
	ipv6 := fmt.Sprintf("fd%02x::/16", 0x10+(os.Getpid()*7+nth)%0x90)
	n.args = append([]string{"--data", n.Data(), "--socket", n.Socket(), "--listen", n.API, "--http", n.HTTP, "--https", n.HTTPS,
		"--alone", "--name", "node1", "--region", "lab", "--domain", "apps.localhost", "--network-prefix", prefix, "--ipv6", ipv6}, flags...)
	t.Cleanup(n.clean)
	n.Run()
	return n
}

// Programs returns the folder of the programs, or skips the test.
func Programs(t testing.TB) string {
	t.Helper()
	bin := os.Getenv("PERIGEE_BIN")
	if bin == "" {
		t.Skip("PERIGEE_BIN names no folder with the programs; make test sets it")
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root: machines are made of namespaces and mounts")
	}
	return bin
}

// Data is the node's data directory, Socket its unix socket.
func (n *Node) Data() string { return filepath.Join(n.Dir, "data") }

// Socket is the path of the API's unix socket.
func (n *Node) Socket() string { return filepath.Join(n.Dir, "api.sock") }

// Run starts the daemon, also after Kill, and waits until it answers.
func (n *Node) Run() {
	n.T.Helper()
	log, err := os.OpenFile(filepath.Join(n.Dir, "perigeed.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		n.T.Fatal(err)
	}
	defer log.Close()
	n.cmd = exec.Command(filepath.Join(n.Bin, "perigeed"), n.args...)
	n.cmd.Stdout, n.cmd.Stderr = log, log
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := n.cmd.Start(); err != nil {
		n.T.Fatal(err)
	}
	n.Client, err = api.NewClient(api.ClientConfig{Addr: "unix://" + n.Socket()})
	if err != nil {
		n.T.Fatal(err)
	}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err = n.Client.Node(context.Background()); err == nil && n.open() {
			break
		}
		if time.Now().After(end) || n.ended() {
			n.T.Fatalf("the node does not answer: %v\n%s", err, n.Log())
		}
	}
	b, err := os.ReadFile(filepath.Join(n.Data(), "token"))
	if err != nil {
		n.T.Fatal(err)
	}
	n.Token = strings.TrimSpace(string(b))
}

// open reports whether visitors are let in: that begins when the machines are known.
func (n *Node) open() bool {
	c, err := net.Dial("tcp", n.HTTP)
	if err != nil {
		return false
	}
	c.Close()
	return true
}

// ended reports whether the daemon has exited by itself.
func (n *Node) ended() bool {
	var status syscall.WaitStatus
	pid, err := syscall.Wait4(n.PID(), &status, syscall.WNOHANG, nil)
	return err == nil && pid == n.PID()
}

// Kill ends the daemon as a crash would: machines run on.
func (n *Node) Kill() {
	n.cmd.Process.Kill()
	n.cmd.Wait()
}

// Stop asks the daemon to end and waits for it.
func (n *Node) Stop() error {
	n.cmd.Process.Signal(syscall.SIGTERM)
	done := make(chan error, 1)
	go func() { done <- n.cmd.Wait() }()
	select {
	case err := <-done:
		return err
	case <-time.After(30 * time.Second):
		n.cmd.Process.Kill()
		return fmt.Errorf("the node did not stop within 30 s")
	}
}

// PID is the daemon's.
func (n *Node) PID() int { return n.cmd.Process.Pid }

// Log is what the daemon wrote.
func (n *Node) Log() string {
	b, _ := os.ReadFile(filepath.Join(n.Dir, "perigeed.log"))
	return string(b[max(0, len(b)-16000):])
}

func (n *Node) clean() {
	if n.T.Failed() {
		n.T.Logf("the node's log ends:\n%s", n.Log())
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if n.Client != nil {
		if err := n.Client.StopNode(ctx, true); err == nil {
			n.cmd.Wait()
		}
	}
	n.cmd.Process.Kill()
	os.RemoveAll(n.Dir)
}

// Perigee runs the command line against the node and returns what it printed
// and its exit code.
func (n *Node) Perigee(args ...string) (stdout, stderr string, code int) {
	n.T.Helper()
	return n.PerigeeIn(n.Dir, args...)
}

// PerigeeIn is Perigee in a folder.
func (n *Node) PerigeeIn(dir string, args ...string) (stdout, stderr string, code int) {
	n.T.Helper()
	cmd := exec.Command(filepath.Join(n.Bin, "perigee"), args...)
	cmd.Dir, cmd.Env = dir, n.Env()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		n.T.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// Must is Perigee that has to succeed.
func (n *Node) Must(args ...string) string {
	n.T.Helper()
	out, errs, code := n.Perigee(args...)
	if code != 0 {
		n.T.Fatalf("perigee %s: exit code %d\n%s%s", strings.Join(args, " "), code, out, errs)
	}
	return out
}

// Env is the environment that points the command line at the node.
func (n *Node) Env() []string {
	return append(os.Environ(), "PERIGEE_ADDR=unix://"+n.Socket(), "PERIGEE_LOGIN="+filepath.Join(n.Dir, "login.json"), "NO_COLOR=1")
}

// Visitor returns an HTTP client that finds every host name at the node's
// public ports and trusts its local CA, as a browser with the CA installed.
func (n *Node) Visitor() *http.Client {
	pool := x509.NewCertPool()
	if info, err := n.Client.Node(context.Background()); err == nil {
		pool.AppendCertsFromPEM([]byte(info.CACert))
	}
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		_, port, _ := net.SplitHostPort(addr)
		switch port {
		case "80":
			addr = n.HTTP
		case "443":
			addr = n.HTTPS
		}
		return new(net.Dialer).DialContext(ctx, network, addr)
	}
	return &http.Client{
		Timeout:       30 * time.Second,
		Transport:     &http.Transport{DialContext: dial, TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func freeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
