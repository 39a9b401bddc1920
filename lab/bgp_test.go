//go:build linux

package lab

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"testing"
	"time"
)

// bird starts Debian's BIRD on a host, which announces a prefix to its city's
// router over IPv4 and another over IPv6 sessions.
func bird(t *testing.T, l *Lab, h *Host, hold int, prefix4, prefix6 string) string {
	t.Helper()
	program, err := exec.LookPath("bird")
	if err != nil {
		t.Skip("needs BIRD: apt-get install bird2")
	}
	v4, v6, err := l.Router(h.City)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	conf := fmt.Sprintf(`router id %s;
protocol device {}
protocol static { ipv4; route %s blackhole; }
protocol static { ipv6; route %s blackhole; }
protocol bgp four { local as 65010; neighbor %s as %d; hold time %d; connect delay time 0; connect retry time 1; error wait time 1, 2;
  ipv4 { import none; export all; next hop self; }; }
protocol bgp six { local as 65010; neighbor %s as %d; hold time %d; connect delay time 0; connect retry time 1; error wait time 1, 2;
  ipv6 { import none; export all; next hop self; }; }
`, h.Addr4, prefix4, prefix6, v4, ASN, hold, v6, ASN, hold)
	if err := os.WriteFile(dir+"/bird.conf", []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := h.Command(t.Context(), program, "-f", "-c", dir+"/bird.conf", "-s", dir+"/bird.ctl")
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return dir + "/bird.ctl"
}

func birdc(t *testing.T, h *Host, ctl string, args ...string) {
	t.Helper()
	program, err := exec.LookPath("birdc")
	if err != nil {
		program = "/usr/sbin/birdc"
	}
	if out, err := h.Command(t.Context(), program, append([]string{"-s", ctl}, args...)...).CombinedOutput(); err != nil {
		t.Fatalf("birdc %v: %v %s", args, err, out)
	}
}

func TestBIRD(t *testing.T) {
	l := newLab(t, "iad", "lhr", "fra")
	service4, service6 := netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("2001:db8:a::10")
	iad, fra := addHost(t, l, "node-iad", "iad"), addHost(t, l, "node-fra", "fra")
	visitor := addHost(t, l, "visitor-lhr", "lhr")
	var ctl string
	for _, h := range []*Host{iad, fra} {
		for _, a := range []netip.Addr{service4, service6} {
			if err := h.AddAddr(a); err != nil {
				t.Fatal(err)
			}
			echo(t, h, a)
		}
		ctl = bird(t, l, h, 3, "192.0.2.0/24", "2001:db8:a::/48")
	}
	eventually(t, visitor, service4, "node-fra", 10*time.Second)
	eventually(t, visitor, service6, "node-fra", 10*time.Second)
	peers := l.Peers()
	if len(peers) != 4 || peers[0].ASN != 65010 || peers[0].HoldTime != 3*time.Second || len(peers[0].Prefixes) != 1 {
		t.Errorf("peers %+v", peers)
	}
	// Withdrawn in good order.
	birdc(t, fra, ctl, "disable", "static1")
	birdc(t, fra, ctl, "disable", "static2")
	t.Logf("visitors moved %s after the withdrawal", eventually(t, visitor, service4, "node-iad", 5*time.Second))
	birdc(t, fra, ctl, "enable", "all")
	eventually(t, visitor, service4, "node-fra", 10*time.Second)
	// Silent: only the hold timer tells.
	began := time.Now()
	if err := l.Cut("node-fra", "net-fra"); err != nil {
		t.Fatal(err)
	}
	eventually(t, visitor, service4, "node-iad", 8*time.Second)
	if took := time.Since(began); took < 1900*time.Millisecond {
		t.Errorf("visitors moved after %s, before the hold timer", took)
	} else {
		t.Logf("visitors moved %s after the host fell silent, hold time 3s", took)
	}
	l.Heal()
	eventually(t, visitor, service4, "node-fra", 20*time.Second)
	// Killed: the kernel closes its connections.
	if err := fra.Crash(); err != nil {
		t.Fatal(err)
	}
	eventually(t, visitor, service6, "node-iad", 2*time.Second)
}
