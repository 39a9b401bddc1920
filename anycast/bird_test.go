package anycast

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"go.uber.org/goleak"
)

// TestMain runs the tests in a network namespace of their own, where root may do
// as it likes. As a child with a configuration it is an announcer to be killed.
func TestMain(m *testing.M) {
	if conf := os.Getenv("ANYCAST_TEST_ANNOUNCE"); conf != "" {
		announce(conf)
		return
	}
	if os.Getuid() != 0 || os.Getenv("ANYCAST_TEST_NETNS") != "" {
		// The BGP library never closes the queue of a server that has stopped.
		goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/eapache/channels.(*InfiniteChannel).infiniteBuffer"))
		return
	}
	c := exec.Command("/proc/self/exe", os.Args[1:]...)
	c.Env = append(os.Environ(), "ANYCAST_TEST_NETNS=1")
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if err := c.Run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// announce is an edge until it is told to end.
func announce(conf string) {
	var cfg Config
	if err := json.Unmarshal([]byte(conf), &cfg); err != nil {
		panic(err)
	}
	a, err := New(cfg)
	if err != nil {
		panic(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	a.SetHealthy(true, "test")
	if err := a.Run(ctx); err != nil {
		panic(err)
	}
}

// link is the cable to the router: 10.99.0.1 and fd99::1 are ours, .2 and ::2
// the router's.
type link struct{ router netns.NsHandle }

func newLink(t *testing.T) *link {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root for network namespaces")
	}
	for _, tool := range []string{"bird", "birdc"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip("needs BIRD: apt-get install bird2")
		}
	}
	l := new(link)
	var err error
	l.within(t, netns.None(), func() { l.router, err = netns.New() })
	must(t, err)
	v := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "up0"}, PeerName: "edge0", PeerNamespace: netlink.NsFd(l.router)}
	must(t, netlink.LinkAdd(v))
	t.Cleanup(func() {
		_ = netlink.LinkDel(v)
		l.router.Close()
	})
	raise(t, "lo")
	raise(t, "up0", "10.99.0.1/24", "fd99::1/64")
	l.within(t, l.router, func() {
		raise(t, "lo")
		raise(t, "edge0", "10.99.0.2/24", "fd99::2/64")
	})
	return l
}

// within runs f in a namespace; none is any, to be changed by f.
func (l *link) within(t *testing.T, ns netns.NsHandle, f func()) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	here, err := netns.Get()
	must(t, err)
	defer here.Close()
	defer func() { must(t, netns.Set(here)) }()
	if ns.IsOpen() {
		must(t, netns.Set(ns))
	}
	f()
}

func raise(t *testing.T, name string, addrs ...string) {
	t.Helper()
	dev, err := netlink.LinkByName(name)
	must(t, err)
	for _, s := range addrs {
		a, err := netlink.ParseAddr(s)
		must(t, err)
		a.Flags = 0x02 // no duplicate address detection
		must(t, netlink.AddrAdd(dev, a))
	}
	must(t, netlink.LinkSetUp(dev))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// bird is a router.
type bird struct {
	t      *testing.T
	socket string
}

// bird starts a router whose BGP protocol "edge" has these lines.
func (l *link) bird(t *testing.T, lines ...string) *bird {
	t.Helper()
	dir := t.TempDir()
	conf := filepath.Join(dir, "bird.conf")
	text := "router id 10.99.0.2;\nprotocol device {}\nprotocol static { ipv4; route 198.18.0.0/24 blackhole; route 198.18.1.0/24 blackhole; route 198.18.2.0/24 blackhole; }\nprotocol bgp edge {\n" +
		"connect delay time 1; error wait time 1,2;\n" + strings.Join(lines, "\n") + "\n}\n"
	must(t, os.WriteFile(conf, []byte(text), 0o600))
	b := &bird{t, filepath.Join(dir, "ctl")}
	c := exec.Command("bird", "-f", "-c", conf, "-s", b.socket, "-P", filepath.Join(dir, "pid"))
	var log strings.Builder
	c.Stdout, c.Stderr = &log, &log
	l.within(t, l.router, func() { must(t, c.Start()) })
	t.Cleanup(func() {
		_ = c.Process.Kill()
		_ = c.Wait()
		if t.Failed() {
			t.Logf("BIRD: %s", log.String())
		}
	})
	eventually(t, 5*time.Second, func() bool { return strings.Contains(b.ask("show status"), "up and running") })
	return b
}

func (b *bird) ask(command string) string {
	out, _ := exec.Command("birdc", append([]string{"-s", b.socket}, strings.Fields(command)...)...).CombinedOutput()
	return string(out)
}

func (b *bird) has(prefix string) bool {
	return strings.Contains(b.ask("show route protocol edge for "+prefix), "unicast")
}

// waits returns how long it takes until the router has the prefix, or not.
func (b *bird) waits(prefix string, there bool, most time.Duration) time.Duration {
	b.t.Helper()
	start := time.Now()
	eventually(b.t, most, func() bool { return b.has(prefix) == there })
	return time.Since(start)
}

func eventually(t *testing.T, most time.Duration, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(most); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it did not happen within ", most)
		}
	}
}

const (
	four = "192.0.2.1/32"
	six  = "2001:db8:5::/48"
	// classic is an upstream as most are.
	classic = "local 10.99.0.2 as 64500; neighbor 10.99.0.1 as 64512; ipv4 { import all; export all; }; ipv6 { import all; export none; };"
)

func config() Config {
	return Config{
		ASN: 64512, RouterID: netip.MustParseAddr("10.99.0.1"), Prefixes: prefixes(four, six),
		Neighbors: []Neighbor{{Address: netip.MustParseAddr("10.99.0.2"), ASN: 64500}}, MinInterval: time.Millisecond,
	}
}

func prefixes(ss ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range ss {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func run(t *testing.T, cfg Config) *Announcer {
	t.Helper()
	if testing.Verbose() {
		cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo}))
	}
	a, err := New(cfg)
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		must(t, <-done)
	})
	return a
}

func established(a *Announcer) bool {
	for _, s := range a.Status().Sessions {
		if !s.Established {
			return false
		}
	}
	return true
}

// TestRunAgain: what could not be announced at first is at the next try.
func TestRunAgain(t *testing.T) {
	l := newLink(t)
	b := l.bird(t, classic)
	cfg := config()
	cfg.Listen = 1790
	a, err := New(cfg)
	must(t, err)
	a.SetHealthy(true, "all is well")
	taken, err := net.Listen("tcp", ":1790")
	must(t, err)
	if err := a.Run(t.Context()); err == nil {
		t.Fatal("it runs without its port")
	}
	must(t, taken.Close())
	for range 2 {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- a.Run(ctx) }()
		b.waits(four, true, 10*time.Second)
		cancel()
		must(t, <-done)
		b.waits(four, false, 10*time.Second)
	}
}

// TestLife: one edge's day beside a router.
func TestLife(t *testing.T) {
	l := newLink(t)
	b := l.bird(t, classic)
	cfg := config()
	cfg.Communities = []string{"64512:7", "64512:8:9"}
	cfg.GracefulShutdown, cfg.DrainWait = true, 500*time.Millisecond
	a := run(t, cfg)
	start := time.Now()
	eventually(t, 10*time.Second, func() bool { return established(a) })
	t.Logf("session up after %v", time.Since(start).Round(time.Millisecond))
	time.Sleep(300 * time.Millisecond)
	if b.has(four) || len(a.Status().Announced) != 0 {
		t.Fatal("announced before anybody said that the edge is healthy")
	}
	a.SetHealthy(true, "all is well")
	t.Logf("announced in %v", b.waits(four, true, 5*time.Second))
	b.waits(six, true, 5*time.Second)
	all := b.ask("show route all protocol edge")
	for _, want := range []string{"BGP.next_hop: 10.99.0.1", "BGP.next_hop: fd99::1", "(64512,7)", "(64512, 8, 9)", "BGP.as_path: 64512"} {
		if !strings.Contains(all, want) {
			t.Errorf("%q is not in %s", want, all)
		}
	}
	if got := a.Status().Announced; len(got) != 2 {
		t.Errorf("announced: %v", got)
	}
	t.Run("unhealthy", func(t *testing.T) {
		a.SetHealthy(false, "router does not answer")
		t.Logf("gone %v after SetHealthy(false)", b.waits(four, false, time.Second))
		a.SetHealthy(true, "it does")
		b.waits(four, true, time.Second)
	})
	t.Run("drain", func(t *testing.T) {
		drained := make(chan error, 1)
		begun := time.Now()
		go func() { drained <- a.Drain(t.Context()) }()
		eventually(t, time.Second, func() bool {
			return strings.Contains(b.ask("show route all protocol edge for "+four), "(65535,0)")
		})
		marked := time.Since(begun)
		must(t, <-drained)
		took := time.Since(begun)
		b.waits(four, false, time.Second)
		t.Logf("marked within %v, withdrawn after %v", marked, took)
		if took < cfg.DrainWait || took > cfg.DrainWait+500*time.Millisecond {
			t.Errorf("withdrawn after %v, the wait is %v", took, cfg.DrainWait)
		}
		a.Undrain()
		b.waits(four, true, time.Second)
		if strings.Contains(b.ask("show route all protocol edge for "+four), "(65535,0)") {
			t.Error("still marked")
		}
	})
	t.Run("nothing in", func(t *testing.T) {
		routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
		must(t, err)
		for _, r := range routes {
			if strings.HasPrefix(r.Dst.String(), "198.18.") {
				t.Errorf("took a route: %v", r)
			}
		}
	})
}

// TestFamilies: both families over one session of either.
func TestFamilies(t *testing.T) {
	l := newLink(t)
	b := l.bird(t, "local fd99::2 as 64500; neighbor fd99::1 as 64512; ipv4 { import all; export none; }; ipv6 { import all; export none; };")
	cfg := config()
	cfg.Neighbors[0].Address = netip.MustParseAddr("fd99::2")
	a := run(t, cfg)
	a.SetHealthy(true, "test")
	b.waits(six, true, 10*time.Second)
	b.waits(four, true, time.Second)
	if all := b.ask("show route all protocol edge"); !strings.Contains(all, "BGP.next_hop: 10.99.0.1") || !strings.Contains(all, "BGP.next_hop: fd99::1") {
		t.Errorf("next hops: %s", all)
	}
}

// TestInternal: inside one AS a drain also takes the preference away.
func TestInternal(t *testing.T) {
	l := newLink(t)
	b := l.bird(t, "local 10.99.0.2 as 64512; neighbor 10.99.0.1 as 64512; direct; ipv4 { import all; export none; };")
	cfg := config()
	cfg.Prefixes, cfg.Neighbors[0].ASN = prefixes(four), 64512
	cfg.GracefulShutdown, cfg.DrainWait = true, 300*time.Millisecond
	a := run(t, cfg)
	a.SetHealthy(true, "test")
	b.waits(four, true, 10*time.Second)
	go func() { _ = a.Drain(context.Background()) }()
	eventually(t, time.Second, func() bool {
		all := b.ask("show route all protocol edge for " + four)
		return strings.Contains(all, "BGP.local_pref: 0") && strings.Contains(all, "(65535,0)")
	})
	b.waits(four, false, 2*time.Second)
}

// TestSecured: a signed session over packets from the same link only.
func TestSecured(t *testing.T) {
	l := newLink(t)
	b := l.bird(t, classic, `password "s3cret"; ttl security on;`)
	cfg := config()
	cfg.Neighbors[0].Password, cfg.Neighbors[0].TTLSecurity = "s3cret", true
	a := run(t, cfg)
	a.SetHealthy(true, "test")
	b.waits(four, true, 10*time.Second)
}

// TestWrong: what is wrong is said in words.
func TestWrong(t *testing.T) {
	l := newLink(t)
	tests := []struct {
		name   string
		lines  []string
		change func(*Config)
		want   string
	}{
		{"their AS", []string{classic}, func(c *Config) { c.Neighbors[0].ASN = 64999 }, "it is not of AS 64999"},
		{"our AS", []string{classic}, func(c *Config) { c.ASN = 64999 }, "may expect another AS from us than 64999"},
		{"password", []string{classic, `password "right";`}, func(c *Config) { c.Neighbors[0].Password = "wrong" }, "another one, or none"},
		{"nobody there", []string{classic}, func(c *Config) { c.Neighbors[0].Port = 1790 }, "refused"},
		{"too many", []string{classic}, func(c *Config) { c.MaxReceived = 2 }, "more than 2 prefixes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l.bird(t, tt.lines...)
			cfg := config()
			tt.change(&cfg)
			a := run(t, cfg)
			a.SetHealthy(true, "test")
			var last string
			defer func() { t.Log(last) }()
			eventually(t, 12*time.Second, func() bool {
				s := a.Status().Sessions[0]
				if s.Error != "" {
					last = s.Error
				}
				return strings.Contains(s.Error, tt.want)
			})
		})
	}
}

// TestKilled: by the closed connection, and when the whole server is silent by
// the hold time; a new start takes over what is left in the kernel.
func TestKilled(t *testing.T) {
	l := newLink(t)
	b := l.bird(t, classic)
	cfg := config()
	cfg.HoldTime = 3 * time.Second
	for _, how := range []struct {
		name        string
		kill        syscall.Signal
		least, most time.Duration
	}{
		{"kill -9", syscall.SIGKILL, 0, time.Second},
		{"silence", syscall.SIGSTOP, time.Second, 4500 * time.Millisecond},
		{"clean end", syscall.SIGINT, 0, time.Second},
	} {
		child := start(t, cfg)
		b.waits(four, true, 10*time.Second)
		must(t, child.Signal(how.kill))
		took := b.waits(four, false, how.most)
		t.Logf("%s: gone after %v", how.name, took.Round(time.Millisecond))
		if took < how.least {
			t.Errorf("%s: gone after %v already", how.name, took)
		}
		_ = child.Signal(syscall.SIGCONT)
		_ = child.Signal(how.kill)
		if how.kill == syscall.SIGSTOP {
			_ = child.Kill()
		}
		_, _ = child.Wait()
		if got := local(t); how.kill == syscall.SIGINT && got != 0 || how.kill != syscall.SIGINT && got != 2 {
			t.Errorf("%s: %d local routes are left", how.name, got)
		}
	}
}

func start(t *testing.T, cfg Config) *os.Process {
	t.Helper()
	conf, err := json.Marshal(cfg)
	must(t, err)
	c := exec.Command("/proc/self/exe")
	c.Env = append(os.Environ(), "ANYCAST_TEST_ANNOUNCE="+string(conf))
	c.Stderr = os.Stderr
	must(t, c.Start())
	t.Cleanup(func() { _ = c.Process.Kill() })
	return c.Process
}

// local counts our routes in the kernel.
func local(t *testing.T) int {
	t.Helper()
	n := 0
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := netlink.RouteListFiltered(family, &netlink.Route{Table: 255, Protocol: ours}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL)
		must(t, err)
		n += len(routes)
	}
	return n
}
