package mesh

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// TestSandbox runs this program in gVisor, whose own network stack takes over the
// slot's device, and tries every way in and out.
func TestSandbox(t *testing.T) {
	inet := newInternet(t)
	runsc := newRunsc(t)
	n := newNetwork(t, Config{})
	a1, a2, b1 := machineSlot(t, n, "acme", "a1"), machineSlot(t, n, "acme", "a2"), machineSlot(t, n, "bold", "b1")
	for _, s := range []*Slot{a1, a2, b1} {
		runsc.start(t, s)
	}
	serveHTTP(t, inet.place, addrPort(inet.v4))
	serveHTTP(t, inet.place, addrPort(inet.v6))
	resolver6, resolver4 := n.ResolverAddrs()[0], n.ResolverAddrs()[1]
	serveHTTP(t, "", addrPort(resolver4))
	serveName(t, resolver4)
	serveName(t, resolver6)

	t.Run("host to machine", func(t *testing.T) {
		for _, s := range []*Slot{a1, a2, b1} {
			for _, a := range []netip.Addr{s.IPv4, s.IPv6} {
				began := time.Now()
				if got := awaitHTTP(t, addrPort(a)); strings.TrimSpace(got) != s.Identity.Machine {
					t.Errorf("%s says %q", a, got)
				}
				t.Logf("%s answered after %v", a, time.Since(began))
			}
		}
	})
	tests := []struct {
		name string
		to   netip.Addr
		want string // part of the answer, "" if blocked
	}{
		{"same org, IPv4", a2.IPv4, "a2"},
		{"same org, IPv6", a2.IPv6, "a2"},
		{"other org, IPv4", b1.IPv4, ""},
		{"other org, IPv6", b1.IPv6, ""},
		{"internet, IPv4", inet.v4, inet.host4.String()},
		{"internet, IPv6", inet.v6, inet.host6.String()},
		{"host's port", resolver4, ""},
		{"metadata", netip.MustParseAddr("169.254.169.254"), ""},
		{"nobody", n.PrivateIPv6(Identity{Org: "acme", Machine: "nobody"}), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			began := time.Now()
			out, err := runsc.exec(a1, "get", "http://"+addrPort(tt.to).String()+"/")
			t.Logf("%q, %v after %v", out, err, time.Since(began))
			if blocked := err != nil; blocked != (tt.want == "") || !strings.Contains(out, tt.want) {
				t.Errorf("got %q, %v", out, err)
			}
		})
	}
	t.Run("bulk", func(t *testing.T) { // large segments cross the veth, and are cut on the way out
		const size = 32 << 20
		for _, to := range []netip.Addr{a1.IPv4, a1.IPv6} {
			began := time.Now()
			resp, err := http.Post("http://"+addrPort(to).String()+"/", "", io.LimitReader(zeros{}, size))
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			t.Logf("in: %.0f MB/s", size/1e6/time.Since(began).Seconds())
		}
		for _, from := range []netip.Addr{inet.v4, inet.v6} {
			began := time.Now()
			out, err := runsc.exec(a1, "size", "http://"+addrPort(from).String()+"/big")
			if err != nil || out != strconv.Itoa(size) {
				t.Errorf("%s bytes, %v", out, err)
			}
			t.Logf("from the internet: %.0f MB/s", size/1e6/time.Since(began).Seconds())
		}
	})
	for _, resolver := range []netip.Addr{resolver4, resolver6} {
		out, err := runsc.exec(b1, "resolve", "hello.internal", netip.AddrPortFrom(resolver, 53).String())
		if err != nil || !strings.Contains(out, "fdaa::77") {
			t.Errorf("%s: %q, %v", resolver, out, err)
		}
	}
}

// runsc is a stock gVisor, named by the environment.
type runsc struct{ path, root string }

func newRunsc(t *testing.T) runsc {
	t.Helper()
	path := os.Getenv("PERIGEE_TEST_RUNSC")
	if path == "" {
		t.Skip("needs gVisor: set PERIGEE_TEST_RUNSC to a runsc program")
	}
	self, err := elf.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	if slices.ContainsFunc(self.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
		t.Skip("needs a static test program: set CGO_ENABLED=0")
	}
	return runsc{path, t.TempDir()}
}

func (r runsc) command(args ...string) *exec.Cmd {
	return exec.Command(r.path, append([]string{"--root", r.root, "--platform=systrap", "--ignore-cgroups", "--network=sandbox"}, args...)...)
}

func (r runsc) exec(s *Slot, args ...string) (string, error) {
	out, err := r.command(append([]string{"exec", "--env", guestEnv + "=1", s.HostDevice, "/guest"}, args...)...).CombinedOutput()
	return string(out), err
}

func (r runsc) start(t *testing.T, s *Slot) {
	t.Helper()
	bundle := t.TempDir()
	rootfs := filepath.Join(bundle, "rootfs")
	if err := os.Mkdir(rootfs, 0o755); err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(rootfs, "guest"), program, 0o755); err != nil {
		t.Fatal(err)
	}
	spec, err := json.Marshal(map[string]any{
		"ociVersion": "1.0.0",
		"process":    map[string]any{"cwd": "/", "args": []string{"/guest", "serve", s.Identity.Machine}, "env": []string{guestEnv + "=1"}},
		"root":       map[string]any{"path": "rootfs"},
		"linux": map[string]any{"namespaces": []map[string]string{
			{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}, {"type": "network", "path": s.NetnsPath}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), spec, 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	cmd := r.command("run", "-bundle", bundle, s.HostDevice)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.command("kill", s.HostDevice, "KILL").Run()
		cmd.Wait()
		r.command("delete", "-force", s.HostDevice).Run()
		if t.Failed() {
			t.Log(out.String())
		}
	})
}

// awaitHTTP asks until the server is up.
func awaitHTTP(t *testing.T, to netip.AddrPort) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for {
		began := time.Now()
		req, _ := http.NewRequestWithContext(ctx, "GET", "http://"+to.String()+"/", nil)
		resp, err := http.DefaultClient.Do(req)
		if ctx.Err() != nil {
			t.Fatalf("%s: %v", to, err)
		}
		if err == nil {
			defer resp.Body.Close()
			body, _ := io.ReadAll(resp.Body)
			t.Logf("%s: this request took %v", to, time.Since(began))
			return string(body)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func serveHTTP(t *testing.T, p place, addr netip.AddrPort) {
	t.Helper()
	l := listenTCP(t, p, addr)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/big" {
			io.CopyN(w, zeros{}, 32<<20)
			return
		}
		fmt.Fprint(w, r.RemoteAddr)
	})}
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

func serveName(t *testing.T, addr netip.Addr) {
	t.Helper()
	udp := listenUDP(t, "", netip.AddrPortFrom(addr, 53))
	srv := &dns.Server{PacketConn: udp, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		rr, _ := dns.NewRR("hello.internal. 5 IN AAAA fdaa::77")
		m.Answer = []dns.RR{rr}
		w.WriteMsg(m)
	})}
	go srv.ActivateAndServe()
	t.Cleanup(func() { srv.Shutdown() })
}
