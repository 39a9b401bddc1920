package mesh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/perigee-run/perigee/mesh/wire"
	"github.com/perigee-run/perigee/mesh/wire/dial"
	"golang.zx2c4.com/wireguard/conn"
	wgdevice "golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/ipc"
	"golang.zx2c4.com/wireguard/tun/netstack"
)

// laptop is somebody's own machine that enters at a node.
type laptop struct {
	key  wire.PrivateKey
	addr netip.Addr
	org  string
}

func newLaptop(t testing.TB, n *node, org, name string) laptop {
	t.Helper()
	return laptop{mustKey(t), PeerAddr(defaultIPv6, n.Number, testNumbers(org), name), org}
}

func (l laptop) peer() wire.Peer {
	return wire.Peer{Name: "laptop", Key: l.key.Public(), Allowed: []netip.Prefix{netip.PrefixFrom(l.addr, 128)}}
}

// enter is what the command line does: the test itself is the laptop.
func (l laptop) enter(t testing.TB, n *node) *dial.Net {
	t.Helper()
	d, err := dial.Open(t.Context(), dial.Config{PrivateKey: l.key, Address: l.addr, DNS: resolver6(defaultIPv6), Gateway: n.Key,
		Endpoint: n.port().String(), Allowed: []netip.Prefix{defaultIPv6}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), patient)
	defer cancel()
	if err := d.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	return d
}

// ask connects from the laptop, and returns the address that the other end saw.
func ask(d *dial.Net, network string, to netip.AddrPort, timeout time.Duration) (netip.Addr, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	c, err := d.DialContext(ctx, network, to.String())
	if err != nil {
		return netip.Addr{}, err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(timeout))
	if network == "udp" {
		c.Write([]byte("who am I"))
	}
	buf := make([]byte, 128)
	k, err := c.Read(buf)
	if err != nil && !errors.Is(err, io.EOF) {
		return netip.Addr{}, err
	}
	seen, err := netip.ParseAddrPort(string(buf[:k]))
	return seen.Addr(), err
}

// TestLaptop enters at one node and reaches its org on all of them, and no more.
func TestLaptop(t *testing.T) {
	u := newUnderlay(t)
	one, two := u.node(t), u.node(t)
	acme, bold, late := newLaptop(t, one, "acme", "lap"), newLaptop(t, one, "bold", "lap"), newLaptop(t, one, "acme", "late")
	one.call(nodeCall{Op: "laptops", Laptops: []Peer{{Org: "acme", Addr: acme.addr}, {Org: "bold", Addr: bold.addr}}})
	one.call(nodeCall{Op: "peers", Peers: []wire.Peer{two.peer(), acme.peer(), bold.peer()}})
	two.call(nodeCall{Op: "peers", Peers: []wire.Peer{one.peer()}})
	a1, a2, b2 := one.machine("acme", "a1"), two.machine("acme", "a2"), two.machine("bold", "b2")
	for _, s := range []*Slot{a1, a2, b2} {
		serve(t, in(s), addrPort(s.IPv6))
	}
	for _, n := range []*node{one, two} {
		serve(t, n.place, netip.AddrPortFrom(n.addr(), HostRouterPort))
		serve(t, n.place, netip.AddrPortFrom(resolver6(defaultIPv6), testPort))
	}
	la, lb := acme.enter(t, one), bold.enter(t, one)
	none := netip.Addr{}
	tests := []struct {
		name string
		from *dial.Net
		to   netip.AddrPort
		want netip.Addr
	}{
		{"its org, same node", la, addrPort(a1.IPv6), acme.addr},
		{"its org, other node", la, addrPort(a2.IPv6), acme.addr},
		{"its org, alone there", lb, addrPort(b2.IPv6), bold.addr},
		{"other org, same node", lb, addrPort(a1.IPv6), none},
		{"other org, other node", la, addrPort(b2.IPv6), none},
		{"the node", la, netip.AddrPortFrom(one.addr(), HostRouterPort), none},
		{"another node", la, netip.AddrPortFrom(two.addr(), HostRouterPort), none},
		{"the resolver's other ports", la, netip.AddrPortFrom(resolver6(defaultIPv6), testPort), none},
	}
	for _, tt := range tests {
		for _, network := range []string{"tcp", "udp"} {
			t.Run(tt.name+", "+network, func(t *testing.T) {
				timeout := brief
				if tt.want.IsValid() {
					timeout = patient
				}
				if got, err := ask(tt.from, network, tt.to, timeout); got != tt.want {
					t.Errorf("other end saw %v, want %v (%v)", got, tt.want, err)
				}
			})
		}
	}
	t.Run("apps of its org", func(t *testing.T) {
		router := netip.AddrPortFrom(resolver6(defaultIPv6), servicePort)
		var l net.Listener
		err := one.place.do(func() (err error) {
			l, err = (&net.ListenConfig{Control: transparent}).Listen(t.Context(), "tcp", router.String())
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		go serveTCP(l)
		shop := netip.AddrPortFrom(ServiceAddr(defaultIPv6, testNumbers("acme"), "shop"), 5432)
		if got, err := ask(la, "tcp", shop, patient); got != acme.addr {
			t.Errorf("the router sees %v, want %v (%v)", got, acme.addr, err)
		}
		if got, err := ask(lb, "tcp", shop, brief); err == nil {
			t.Errorf("the other org reaches it: %v", got)
		}
		if got, err := ask(la, "tcp", router, brief); err == nil {
			t.Errorf("the router's socket is open by itself: %v", got)
		}
	})
	t.Run("names are those of its org", func(t *testing.T) {
		got, err := la.LookupHost(t.Context(), "acme-laptop._peer.internal")
		if err != nil || len(got) != 1 || got[0] != one.addr().String() {
			t.Errorf("%v, %v", got, err)
		}
		if got, err := lb.LookupHost(t.Context(), "acme-laptop._peer.internal"); err == nil {
			t.Errorf("the other org sees it: %v", got)
		}
	})
	t.Run("a machine calls the laptop", func(t *testing.T) {
		for _, s := range []*Slot{a1, a2} {
			if err := ping(in(s), acme.addr, patient); err != nil {
				t.Errorf("%s: %v", s.Identity.Machine, err)
			}
		}
		if err := ping(in(b2), acme.addr, brief); err == nil {
			t.Error("so does one of another org")
		}
	})
	t.Run("1 MB through two nodes", func(t *testing.T) { laptopMegabyte(t, la, in(a2), netip.AddrPortFrom(a2.IPv6, 9000)) })
	t.Run("let in while it knocks", func(t *testing.T) {
		go func() {
			time.Sleep(300 * time.Millisecond)
			one.call(nodeCall{Op: "laptops", Laptops: []Peer{{Org: "acme", Addr: acme.addr}, {Org: "acme", Addr: late.addr}}})
			one.call(nodeCall{Op: "peers", Peers: []wire.Peer{two.peer(), acme.peer(), late.peer()}})
		}()
		began := time.Now()
		d := late.enter(t, one)
		t.Logf("entered after %v", time.Since(began).Round(time.Millisecond))
		if got, err := ask(d, "tcp", addrPort(a2.IPv6), patient); got != late.addr {
			t.Errorf("%v, %v", got, err)
		}
	})
	t.Run("shut out", func(t *testing.T) {
		if got, err := ask(lb, "tcp", addrPort(b2.IPv6), brief); err == nil {
			t.Errorf("it is still in: %v", got)
		}
	})
	t.Run("never let in", func(t *testing.T) {
		l := newLaptop(t, one, "acme", "thief")
		d, err := dial.Open(t.Context(), dial.Config{PrivateKey: l.key, Address: acme.addr, DNS: resolver6(defaultIPv6), Gateway: one.Key,
			Endpoint: one.port().String(), Allowed: []netip.Prefix{defaultIPv6}})
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := d.Ready(ctx); !errors.Is(err, dial.ErrSilent) {
			t.Errorf("%v", err)
		}
	})
}

func laptopMegabyte(t *testing.T, d *dial.Net, to place, addr netip.AddrPort) {
	l := listenTCP(t, to, addr)
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		io.Copy(c, io.LimitReader(c, 1<<20))
	}()
	ctx, cancel := context.WithTimeout(t.Context(), patient)
	defer cancel()
	c, err := d.DialContext(ctx, "tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patient))
	go c.Write(make([]byte, 1<<20))
	if k, err := io.Copy(io.Discard, c); k != 1<<20 || err != nil {
		t.Errorf("%d bytes came back, %v", k, err)
	}
}

// TestStockTools gives our configuration to wg and wg-quick as they come with Debian.
func TestStockTools(t *testing.T) {
	needHost(t)
	for _, tool := range []string{"wg", "wg-quick"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip("needs wireguard-tools")
		}
	}
	own, gateway := mustKey(t), mustKey(t).Public()
	addr := PeerAddr(defaultIPv6, 7, 9, "lap")
	text, err := wire.ClientConfig(wire.Client{Name: "lap", PrivateKey: own.Text(), Address: addr, DNS: resolver6(defaultIPv6),
		Gateway: gateway, Endpoint: "203.0.113.7:51820", Allowed: []netip.Prefix{defaultIPv6}})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "perigee.conf")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	stripped, err := exec.Command("wg-quick", "strip", path).Output()
	if err != nil {
		t.Fatalf("wg-quick strip: %v", err)
	}
	for _, gone := range []string{"Address", "DNS", "MTU"} {
		if strings.Contains(string(stripped), gone) {
			t.Errorf("wg-quick did not take %s for its own:\n%s", gone, stripped)
		}
	}
	bare := filepath.Join(t.TempDir(), "bare.conf")
	if err := os.WriteFile(bare, stripped, 0o600); err != nil {
		t.Fatal(err)
	}
	wgDevice(t, "pgtest0")
	if out, err := exec.Command("wg", "setconf", "pgtest0", bare).CombinedOutput(); err != nil {
		t.Fatalf("wg setconf: %v\n%s", err, out)
	}
	out, err := exec.Command("wg", "showconf", "pgtest0").CombinedOutput()
	if err != nil {
		t.Fatalf("wg showconf: %v\n%s", err, out)
	}
	for _, want := range []string{own.Text(), gateway.String(), "fdaa::/16", "203.0.113.7:51820", "PersistentKeepalive = 25"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("wg does not show %q:\n%s", want, out)
		}
	}
	pub := exec.Command("wg", "pubkey")
	pub.Stdin = strings.NewReader(own.Text() + "\n")
	if out, err := pub.Output(); err != nil || strings.TrimSpace(string(out)) != own.Public().String() {
		t.Errorf("wg pubkey says %q, %v; we say %s", out, err, own.Public())
	}
}

// wgDevice is a device that wg can speak to by its socket.
func wgDevice(t *testing.T, name string) {
	t.Helper()
	tun, _, err := netstack.CreateNetTUN([]netip.Addr{netip.MustParseAddr("fd00::1")}, nil, 1420)
	if err != nil {
		t.Fatal(err)
	}
	dev := wgdevice.NewDevice(tun, conn.NewDefaultBind(), wgdevice.NewLogger(wgdevice.LogLevelSilent, ""))
	t.Cleanup(dev.Close)
	if err := os.MkdirAll("/var/run/wireguard", 0o700); err != nil {
		t.Fatal(err)
	}
	file, err := ipc.UAPIOpen(name)
	if err != nil {
		t.Fatal(err)
	}
	l, err := ipc.UAPIListen(name, file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close(); file.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go dev.IpcHandle(c)
		}
	}()
}

// BenchmarkWire is TCP between machines of two nodes, one stream, and a round
// trip of a small datagram with WireGuard and without.
func BenchmarkWire(b *testing.B) {
	u := newUnderlay(b)
	one, two := u.node(b), u.node(b)
	link([]*node{one, two})
	a1, a2 := one.machine("acme", "a1"), two.machine("acme", "a2")
	addr := netip.AddrPortFrom(a2.IPv6, 9000)
	l := listenTCP(b, in(a2), addr)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buf := make([]byte, 256<<10)
				for {
					k, err := c.Read(buf)
					if err != nil {
						return
					}
					if k == 1 { // a ping
						c.Write(buf[:1])
					}
				}
			}()
		}
	}()
	var c net.Conn
	if err := in(a1).do(func() (err error) { c, err = net.DialTimeout("tcp", addr.String(), patient); return err }); err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	b.Run("transfer", func(b *testing.B) {
		buf := make([]byte, 1<<20)
		b.SetBytes(int64(len(buf)))
		before := cpu(one) + cpu(two)
		for b.Loop() {
			if _, err := c.Write(buf); err != nil {
				b.Fatal(err)
			}
		}
		used := cpu(one) + cpu(two) - before
		b.ReportMetric(used.Seconds()/b.Elapsed().Seconds(), "cores")
		b.ReportMetric(float64(b.N)*8*1.048576/b.Elapsed().Seconds(), "Mbit/s")
	})
	time.Sleep(time.Second)
	for _, way := range []struct {
		name string
		from place
		to   netip.AddrPort
	}{{"ping/wire", in(a1), netip.AddrPortFrom(a2.IPv6, 9100)}, {"ping/underlay", one.place, netip.AddrPortFrom(two.Underlay, 9100)}} {
		b.Run(way.name, func(b *testing.B) { pingPong(b, way.from, way.to, two, in(a2)) })
	}
	b.Logf("RSS: %s", rss(one))
}

func pingPong(b *testing.B, from place, to netip.AddrPort, far *node, slot place) {
	where := far.place
	if to.Addr().Is6() {
		where = slot
	}
	u := listenUDP(b, where, to)
	go func() {
		buf := make([]byte, 64)
		for {
			k, from, err := u.ReadFrom(buf)
			if err != nil {
				return
			}
			u.WriteTo(buf[:k], from)
		}
	}()
	var c net.Conn
	if err := from.do(func() (err error) { c, err = net.Dial("udp", to.String()); return err }); err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	buf := make([]byte, 64)
	for b.Loop() {
		c.SetDeadline(time.Now().Add(time.Second))
		c.Write(buf)
		if _, err := c.Read(buf); err != nil {
			b.Fatal(err)
		}
	}
	u.Close()
}

// cpu is what the node's process has used.
func cpu(n *node) time.Duration {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", n.cmd.Process.Pid))
	_, rest, _ := strings.Cut(string(b), ") ")
	f := strings.Fields(rest)
	var ticks, sys time.Duration
	fmt.Sscan(f[11], &ticks)
	fmt.Sscan(f[12], &sys)
	return (ticks + sys) * 10 * time.Millisecond
}

func rss(n *node) string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.cmd.Process.Pid))
	for l := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(l, "VmRSS:"); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}
