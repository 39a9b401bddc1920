//go:build linux

package lab

import (
	"context"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func newLab(t testing.TB, cities ...string) *Lab {
	t.Helper()
	return newLabWith(t, Config{Cities: cities})
}

func newLabWith(t testing.TB, cfg Config) *Lab {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root to make namespaces")
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		t.Skip("needs /dev/net/tun")
	}
	if cfg.Dir == "" {
		dir, err := os.MkdirTemp("", "lab") // t.TempDir is too long for sockets
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		cfg.Dir = filepath.Join(dir, "l")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	l, err := New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(cfg.Dir); err == nil && !cfg.Keep {
			left, _ := os.ReadDir(cfg.Dir)
			t.Errorf("the lab left %v", left)
		}
	})
	return l
}

func addHost(t testing.TB, l *Lab, name, city string) *Host {
	t.Helper()
	h, err := l.AddHost(name, city)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// echo answers every datagram at an address with its name.
func echo(t testing.TB, h *Host, at netip.Addr) {
	t.Helper()
	c, err := h.ListenPacket("udp", netip.AddrPortFrom(at, 7).String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		b := make([]byte, 64)
		for {
			_, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			c.WriteTo([]byte(h.Name), from)
		}
	}()
}

// ask sends one datagram and returns who answered, and after how long; "" is
// nobody.
func ask(t testing.TB, h *Host, to netip.Addr, patience time.Duration) (string, time.Duration) {
	t.Helper()
	c, err := h.Dial(t.Context(), "udp", netip.AddrPortFrom(to, 7).String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	b := make([]byte, 64)
	began := time.Now()
	c.Write([]byte("who?"))
	n, err := c.Read(b)
	if err != nil {
		return "", time.Since(began)
	}
	return string(b[:n]), time.Since(began)
}

// eventually waits until who answers is the wanted one.
func eventually(t testing.TB, h *Host, to netip.Addr, want string, within time.Duration) time.Duration {
	t.Helper()
	began := time.Now()
	for {
		got, _ := ask(t, h, to, 400*time.Millisecond)
		if got == want {
			return time.Since(began)
		}
		if time.Since(began) > within {
			t.Fatalf("%s is answered by %q after %s, want %q", h.Name, got, within, want)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestDelay(t *testing.T) {
	l := newLab(t, "iad", "fra", "syd")
	iad, fra, syd := addHost(t, l, "a", "iad"), addHost(t, l, "b", "fra"), addHost(t, l, "c", "syd")
	for _, h := range []*Host{iad, fra, syd} {
		echo(t, h, h.Addr4)
		echo(t, h, h.Addr6)
	}
	var errs []time.Duration
	for range 8 {
		for _, p := range []struct {
			from, to *Host
			addr     netip.Addr
		}{{iad, fra, fra.Addr4}, {fra, iad, iad.Addr6}, {iad, iad, iad.Addr4}} {
			who, took := ask(t, p.from, p.addr, time.Second)
			if who != p.to.Name {
				t.Fatalf("no answer from %s", p.to.Name)
			}
			if p.from != p.to { // a host speaks to itself without the internet
				errs = append(errs, took-l.RTT(p.from.City, p.to.City))
			}
		}
	}
	if _, took := ask(t, iad, syd.Addr4, time.Second); took < l.RTT("iad", "syd") || took > l.RTT("iad", "syd")+20*time.Millisecond {
		t.Errorf("iad to syd took %s, want %s", took, l.RTT("iad", "syd"))
	}
	slices.Sort(errs)
	t.Logf("error of a round trip: median %s, worst %s", errs[len(errs)/2], errs[len(errs)-1])
	// The figure is 0.3 ms on a quiet machine; tests share theirs.
	if m := errs[len(errs)/2]; m < -100*time.Microsecond || m > 5*time.Millisecond {
		t.Errorf("round trips are off by %s", m)
	}
	if err := l.SetRTT("iad", "fra", 10*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if _, took := ask(t, iad, fra.Addr4, time.Second); took < 9900*time.Microsecond || took > 30*time.Millisecond {
		t.Errorf("took %s, want 10ms", took)
	}
}

func TestHostsView(t *testing.T) {
	l := newLab(t, "iad")
	h := addHost(t, l, "a", "iad")
	out, err := h.Command(t.Context(), "sh", "-c", "cat /proc/net/route; hostname; cat /etc/resolv.conf").CombinedOutput()
	if err != nil || !strings.Contains(string(out), device) || !strings.Contains(string(out), "nameserver 100.64.0.1") {
		t.Errorf("%v %s", err, out)
	}
}

func TestCutsAndHeal(t *testing.T) {
	l := newLab(t, "iad", "ewr", "lhr")
	a, b, c, d := addHost(t, l, "a", "iad"), addHost(t, l, "b", "ewr"), addHost(t, l, "c", "lhr"), addHost(t, l, "d", "iad")
	all := []*Host{a, b, c, d}
	for _, h := range all {
		echo(t, h, h.Addr4)
	}
	reach := func(what string, want string) {
		t.Helper()
		var got []string
		for _, from := range all {
			for _, to := range all {
				if from.Name < to.Name {
					if who, _ := ask(t, from, to.Addr4, 150*time.Millisecond); who != "" {
						got = append(got, from.Name+to.Name)
					}
				}
			}
		}
		if s := strings.Join(got, " "); s != want {
			t.Errorf("%s: %q reach each other, want %q", what, s, want)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	reach("new", "ab ac ad bc bd cd")
	must(l.Cut("iad", "ewr"))
	reach("cities cut", "ac ad bc cd")
	must(l.Mend("ewr", "iad"))
	must(l.Isolate("iad"))
	reach("city isolated", "ad bc")
	l.Heal()
	must(l.Isolate("a"))
	reach("host isolated", "bc bd cd")
	l.Heal()
	must(l.Cut("a", "d"))
	reach("hosts cut", "ab ac bc bd cd")
	l.Heal()
	reach("healed", "ab ac ad bc bd cd")
}

func TestCutOneWay(t *testing.T) {
	l := newLab(t, "iad", "ewr")
	a, b := addHost(t, l, "a", "iad"), addHost(t, l, "b", "ewr")
	in, err := b.ListenPacket("udp", netip.AddrPortFrom(b.Addr4, 9).String())
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if err := l.CutOneWay("ewr", "iad"); err != nil {
		t.Fatal(err)
	}
	echo(t, b, b.Addr4)
	if who, _ := ask(t, a, b.Addr4, 100*time.Millisecond); who != "" {
		t.Error("an answer passed the cut")
	}
	out, err := a.Dial(t.Context(), "udp", in.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	out.Write([]byte("x"))
	in.SetDeadline(time.Now().Add(time.Second))
	if _, _, err := in.ReadFrom(make([]byte, 1)); err != nil {
		t.Error("nothing passes the other way:", err)
	}
}

func TestLoss(t *testing.T) {
	l := newLab(t, "iad", "ewr")
	a, b := addHost(t, l, "a", "iad"), addHost(t, l, "b", "ewr")
	if err := l.SetLoss("iad", "ewr", 0.2); err != nil {
		t.Fatal(err)
	}
	in, err := b.ListenPacket("udp", netip.AddrPortFrom(b.Addr4, 9).String())
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := a.Dial(t.Context(), "udp", in.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	const sent = 2000
	go func() {
		for i := range sent {
			out.Write([]byte("x"))
			if i%20 == 0 {
				time.Sleep(2 * time.Millisecond)
			}
		}
	}()
	got := 0
	for {
		in.SetDeadline(time.Now().Add(300 * time.Millisecond))
		if _, _, err := in.ReadFrom(make([]byte, 1)); err != nil {
			break
		}
		got++
	}
	if lost := 1 - float64(got)/sent; lost < 0.15 || lost > 0.25 {
		t.Errorf("lost %.1f%%, want 20%%", lost*100)
	}
}

func TestBadInput(t *testing.T) {
	l := newLab(t, "iad", "fra")
	addHost(t, l, "a", "iad")
	for what, err := range map[string]error{
		"city of no map":   second(New(t.Context(), Config{Cities: []string{"xxx"}, Dir: t.TempDir()})),
		"no city":          second(New(t.Context(), Config{Dir: t.TempDir()})),
		"name":             second(l.AddHost("No", "iad")),
		"taken":            second(l.AddHost("a", "fra")),
		"other city":       second(l.AddHost("b", "syd")),
		"cut nobody":       l.Cut("iad", "b"),
		"cut itself":       l.Cut("iad", "iad"),
		"loss":             l.SetLoss("iad", "fra", 1.5),
		"announce a host":  l.Announce("a", netip.MustParsePrefix("100.64.0.0/16")),
		"announce nothing": l.Announce("a", netip.Prefix{}),
		"same directory":   second(New(t.Context(), Config{Cities: []string{"iad"}, Dir: l.cfg.Dir})),
	} {
		if err == nil || !strings.Contains(err.Error(), ":") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if n := len(l.Hosts()); n != 1 {
		t.Errorf("%d hosts after bad input", n)
	}
}

func second[T any](_ T, err error) error { return err }

func TestAnycastByHand(t *testing.T) {
	l := newLab(t, "iad", "lhr", "fra")
	service, prefix := netip.MustParseAddr("192.0.2.10"), netip.MustParsePrefix("192.0.2.0/24")
	iad, fra := addHost(t, l, "node-iad", "iad"), addHost(t, l, "node-fra", "fra")
	visitor, american := addHost(t, l, "visitor-lhr", "lhr"), addHost(t, l, "visitor-iad", "iad")
	for _, h := range []*Host{iad, fra} {
		if err := h.AddAddr(service); err != nil {
			t.Fatal(err)
		}
		echo(t, h, service)
		if err := l.Announce(h.Name, prefix); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, visitor, service, "node-fra", time.Second)
	eventually(t, american, service, "node-iad", time.Second)
	if err := l.Withdraw("node-fra", prefix); err != nil {
		t.Fatal(err)
	}
	took := eventually(t, visitor, service, "node-iad", 2*time.Second)
	t.Logf("visitors moved within %s of the withdrawal", took)
	if err := l.Announce("node-fra", prefix); err != nil {
		t.Fatal(err)
	}
	eventually(t, visitor, service, "node-fra", time.Second)
	// A city that is cut off is no way to a service.
	if err := l.Isolate("fra"); err != nil {
		t.Fatal(err)
	}
	eventually(t, visitor, service, "node-iad", 2*time.Second)
	l.Heal()
	eventually(t, visitor, service, "node-fra", 2*time.Second)
	fra.Remove()
	eventually(t, visitor, service, "node-iad", 2*time.Second)
	if r := l.Routes(); len(r) != 3 || r[0].Host != "node-iad" {
		t.Errorf("routes %+v", r)
	}
}

func TestTCP(t *testing.T) {
	l := newLab(t, "iad", "ewr")
	a, b := addHost(t, l, "a", "iad"), addHost(t, l, "b", "ewr")
	got, took := transfer(t, a, b, b.Addr6, 64<<20)
	rate := float64(got) * 8 / took.Seconds() / 1e6
	t.Logf("%.0f Mbit/s over %s", rate, l.RTT("iad", "ewr"))
	if rate < 100 {
		t.Errorf("only %.0f Mbit/s pass", rate)
	}
}

// transfer sends bytes over one TCP connection.
func transfer(t testing.TB, from, to *Host, addr netip.Addr, size int64) (int64, time.Duration) {
	t.Helper()
	in, err := to.Listen("tcp", netip.AddrPortFrom(addr, 9).String())
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	go func() {
		c, err := from.Dial(context.Background(), "tcp", in.Addr().String())
		if err != nil {
			return
		}
		defer c.Close()
		b := make([]byte, 1<<20)
		for left := size; left > 0; left -= int64(len(b)) {
			if _, err := c.Write(b); err != nil {
				return
			}
		}
	}()
	c, err := in.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	began := time.Now()
	n, err := io.Copy(io.Discard, c)
	if err != nil || n != size {
		t.Fatalf("got %d bytes: %v", n, err)
	}
	return n, time.Since(began)
}
