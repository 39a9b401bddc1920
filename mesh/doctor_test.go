package mesh

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

func names(problems []Problem) []string {
	var list []string
	for _, p := range problems {
		list = append(list, p.Name)
	}
	return list
}

func TestCheckUnprivileged(t *testing.T) {
	if unix.Geteuid() == 0 {
		t.Skip("needs not to be root")
	}
	if got := names(Check(t.Context(), "")); !slices.Equal(got, []string{"root"}) {
		t.Errorf("found %v", got)
	}
}

// TestCheck finds nothing here, and then what Docker and a cautious admin do.
func TestCheck(t *testing.T) {
	n := newNetwork(t, Config{})
	acquire(t, n)
	before := inventory(t, n.netnsDir())
	if found := Check(t.Context(), ""); len(found) != 0 {
		t.Fatalf("found %+v", found)
	}
	if more := grown(before, inventory(t, n.netnsDir())); len(more) > 0 {
		t.Errorf("left behind: %q", more)
	}
	dropForward(t)
	setSysctlBack(t, "net/ipv6/conf/all/disable_ipv6", "1")
	found := Check(t.Context(), "")
	if got := names(found); !slices.Equal(got, []string{"ipv6", "forward policy"}) {
		t.Fatalf("found %+v", found)
	}
	if !strings.Contains(found[1].Cure, "DOCKER-USER -i perigee-+ -j ACCEPT") {
		t.Errorf("cure is %q", found[1].Cure)
	}
}

// dropForward does what Docker does.
func dropForward(t *testing.T) {
	t.Helper()
	c, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	policy := nftables.ChainPolicyDrop
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "filter"})
	c.AddChain(&nftables.Chain{Table: table, Name: "DOCKER-USER"})
	c.AddChain(&nftables.Chain{Table: table, Name: "FORWARD", Type: nftables.ChainTypeFilter, Policy: &policy,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter})
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.DelTable(table); c.Flush() })
}

func setSysctlBack(t *testing.T, name, value string) {
	t.Helper()
	old := sysctl(name)
	if err := setSysctl(name, value); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.WriteFile("/proc/sys/"+name, []byte(old), 0); err != nil {
			t.Error(err)
		}
	})
}

// TestNoIPv6: machines get by on IPv4.
func TestNoIPv6(t *testing.T) {
	needHost(t)
	setSysctlBack(t, "net/ipv6/conf/all/disable_ipv6", "1")
	n := newNetwork(t, Config{})
	a, b := machineSlot(t, n, "acme", "a"), machineSlot(t, n, "acme", "b")
	if n.IPv6() || a.IPv6.IsValid() || a.Gateway6.IsValid() || len(n.ResolverAddrs()) != 1 {
		t.Errorf("IPv6 is in %+v", a)
	}
	serve(t, in(b), addrPort(b.IPv4))
	for _, p := range []place{"", in(a)} {
		if _, err := call(p, "tcp", addrPort(b.IPv4), a.IPv6, patient); err != nil {
			t.Error(err)
		}
	}
	if err := n.Assign(t.Context(), a, Identity{Org: "bold", Machine: "a"}); err != nil {
		t.Fatal(err)
	}
	if _, err := call(in(a), "tcp", addrPort(b.IPv4), a.IPv6, brief); err == nil {
		t.Error("other org passes")
	}
}
