package mesh

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
)

func TestAssign(t *testing.T) {
	n := newNetwork(t, Config{})
	s := acquire(t, n)
	if s.IPv6.IsValid() || s.Assigned() {
		t.Fatalf("new slot belongs to %v", s)
	}
	id := Identity{Org: "acme", App: "shop", Machine: "m1"}
	if err := n.Assign(t.Context(), s, id); err != nil {
		t.Fatal(err)
	}
	if s.IPv6 != n.PrivateIPv6(id) || s.Identity != id {
		t.Errorf("slot is %+v", s)
	}
	for _, a := range []netip.Addr{s.IPv4, s.IPv6} {
		if got, ok := n.Lookup(a); !ok || got != id {
			t.Errorf("%s belongs to %v", a, got)
		}
	}
	other := acquire(t, n)
	if err := n.Assign(t.Context(), other, id); err == nil || !strings.Contains(err.Error(), "is that of machine") {
		t.Errorf("one machine got two slots: %v", err)
	}
	for _, bad := range []Identity{{}, {Org: "acme"}, {Machine: "m"}, {Org: strings.Repeat("x", 250), Machine: "m"}} {
		if err := n.Assign(t.Context(), other, bad); err == nil {
			t.Errorf("slot assigned to %v", bad)
		}
	}
}

// TestAssignRestores: a sandbox takes the addresses away; the next start needs them.
func TestAssignRestores(t *testing.T) {
	n := newNetwork(t, Config{})
	s := machineSlot(t, n, "acme", "m1")
	err := in(s).do(func() error {
		return withHandle(func(h *netlink.Handle) error {
			eth, err := h.LinkByName(guestDevice)
			if err != nil {
				return err
			}
			addrs, err := h.AddrList(eth, netlink.FAMILY_ALL)
			if err != nil {
				return err
			}
			for _, a := range addrs {
				if err := h.AddrDel(eth, &a); err != nil {
					return err
				}
			}
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Assign(t.Context(), s, s.Identity); err != nil {
		t.Fatal(err)
	}
	for _, a := range []netip.Addr{s.IPv4, s.IPv6} {
		serve(t, in(s), addrPort(a))
		if _, err := call("", "tcp", addrPort(a), netip.Addr{}, patient); err != nil {
			t.Error(err)
		}
	}
}

// TestRestart: a new daemon finds the slots, and machines keep their network.
func TestRestart(t *testing.T) {
	needHost(t)
	dir := t.TempDir()
	first := openNetwork(t, Config{Dir: dir})
	if err := first.Setup(t.Context()); err != nil {
		t.Fatal(err)
	}
	a, b, c := machineSlot(t, first, "acme", "a"), machineSlot(t, first, "acme", "b"), machineSlot(t, first, "bold", "c")
	idle := acquire(t, first)
	want := first.Slots()
	serve(t, in(b), addrPort(b.IPv6))
	spoil(t, first)

	n := newNetwork(t, Config{Dir: dir})
	got := n.Slots()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("found %v, want %v", got, want)
	}
	to := addrPort(b.IPv6)
	if _, err := call(in(a), "tcp", to, netip.Addr{}, patient); err != nil {
		t.Error("same org:", err)
	}
	if _, err := call(in(c), "tcp", to, netip.Addr{}, brief); err == nil {
		t.Error("other org passes")
	}
	if fresh := acquire(t, n); fresh.ID <= idle.ID {
		t.Errorf("id %d used again", fresh.ID)
	}
	if err := n.Sweep(t.Context(), map[int]bool{a.ID: true, b.ID: true}); err != nil {
		t.Fatal(err)
	}
	if left := n.Slots(); len(left) != 2 || left[0].ID != a.ID || left[1].ID != b.ID {
		t.Errorf("left after sweep: %v", left)
	}
	if _, err := call(in(a), "tcp", to, netip.Addr{}, patient); err != nil {
		t.Error("after sweep:", err)
	}
}

// spoil leaves what a killed daemon might: a file without a namespace, a
// namespace without a device, a device without a namespace, a device not
// finished, and no firewall.
func spoil(t *testing.T, n *Network) {
	t.Helper()
	file := filepath.Join(n.netnsDir(), n.device(900))
	if err := os.WriteFile(file, nil, 0o400); err != nil {
		t.Fatal(err)
	}
	if err := makeNamespace(filepath.Join(n.netnsDir(), n.device(901)), func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	lost := acquire(t, n)
	if err := removeNamespace(lost.NetnsPath); err != nil {
		t.Fatal(err)
	}
	raw := n.newSlot(902)
	if err := makeNamespace(raw.NetnsPath, func() error { return n.addPair(raw) }); err != nil {
		t.Fatal(err)
	}
	cut := machineSlot(t, n, "acme", "cut")
	l, err := n.host.LinkByName(cut.HostDevice)
	if err == nil {
		err = n.setGroup(l, 0)
	}
	if err := errors.Join(err, n.removeFirewall()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		left, _ := os.ReadDir(n.netnsDir())
		if len(left) != 0 {
			t.Errorf("left in directory: %v", left)
		}
	})
}

func TestTeardownLeavesOthersAlone(t *testing.T) {
	needHost(t)
	c, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	other := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "other"})
	c.AddChain(&nftables.Chain{Table: other, Name: "forward", Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter})
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.DelTable(other); c.Flush() })
	n := openNetwork(t, Config{Dir: t.TempDir()})
	before := inventory(t, n.netnsDir())
	if err := n.Setup(t.Context()); err != nil {
		t.Fatal(err)
	}
	machineSlot(t, n, "acme", "a")
	if err := n.Setup(t.Context()); err != nil {
		t.Fatal("second setup:", err)
	}
	for range 2 {
		if err := n.Teardown(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if more := grown(before, inventory(t, n.netnsDir())); len(more) > 0 {
		t.Errorf("left behind: %q", more)
	}
	if after := inventory(t, n.netnsDir()); after["table other"] != 1 || after["sets of other"] != before["sets of other"] {
		t.Errorf("the table of another program is not what it was: %v, before %v", after, before)
	}
	if _, err := n.Acquire(t.Context()); !errors.Is(err, ErrNotSetUp) {
		t.Errorf("acquire after teardown: %v", err)
	}
}

// inventory counts what a network may leave behind.
func inventory(t testing.TB, dir string) map[string]int {
	t.Helper()
	all := map[string]int{"namespaces": namespacesIn(t, dir)}
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		all["device "+l.Attrs().Name]++
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range routes {
		all[fmt.Sprint("route ", r.Dst)]++
	}
	elementsOf(t, all)
	fds, _ := os.ReadDir("/proc/self/fd")
	all["descriptors"] = len(fds)
	files, _ := os.ReadDir(dir)
	all["files"] = len(files)
	return all
}

// grown tells what there is more of. What there is less of says nothing: much of
// what earlier tests made goes a little after they end.
func grown(before, after map[string]int) (all []string) {
	for what, count := range after {
		if count > before[what] {
			all = append(all, fmt.Sprintf("%s: %d, %d before", what, count, before[what]))
		}
	}
	slices.Sort(all)
	return all
}

// namespacesIn counts the namespaces that are mounted in dir. Those elsewhere
// belong to others of the host, who make and end them as they please.
func namespacesIn(t testing.TB, dir string) (count int) {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real // the kernel names mounts so
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 2 && f[2] == "nsfs" && strings.HasPrefix(f[1], dir+"/") {
			count++
		}
	}
	return count
}

func elementsOf(t testing.TB, all map[string]int) {
	t.Helper()
	c, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	tables, err := c.ListTables()
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range tables {
		sets, err := c.GetSets(table)
		if err != nil {
			t.Fatal(err)
		}
		all["table "+table.Name]++
		all["sets of "+table.Name] += len(sets)
		for _, s := range sets {
			elems, err := c.GetSetElements(s)
			if err != nil {
				t.Fatal(err)
			}
			all["elements of "+table.Name] += len(elems)
		}
	}
}

// settle waits for the files of earlier tests, which some close a little late.
func settle() {
	last, since := -1, time.Now()
	for end := time.Now().Add(patient); time.Since(since) < brief && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		runtime.GC() // for files that only their finalizer closes
		if fds, _ := os.ReadDir("/proc/self/fd"); len(fds) != last {
			last, since = len(fds), time.Now()
		}
	}
}

// TestNoLeak takes 500 slots through their lives, some at a time.
func TestNoLeak(t *testing.T) {
	n := newNetwork(t, Config{})
	live(t, n, 0) // so that what is made once is there
	settle()
	goroutines := goleak.IgnoreCurrent()
	before, threads := inventory(t, n.netnsDir()), pprof.Lookup("threadcreate").Count()
	const workers, each = 10, 50
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range each {
				live(t, n, w*each+i)
			}
		})
	}
	wg.Wait()
	if more := grown(before, inventory(t, n.netnsDir())); len(more) > 0 {
		t.Errorf("left behind: %q", more)
	}
	if made := pprof.Lookup("threadcreate").Count() - threads; made > 4*workers {
		t.Errorf("%d threads made", made)
	}
	if len(n.Slots()) != 0 || len(n.addrs) != 0 || len(n.orgs) != 0 {
		t.Errorf("left: %v, %v, %v", n.slots, n.addrs, n.orgs)
	}
	goleak.VerifyNone(t, goroutines)
	sameNamespace(t)
}

func live(t *testing.T, n *Network, i int) {
	s, err := n.Acquire(t.Context())
	if err != nil {
		t.Error(err)
		return
	}
	id := Identity{Org: fmt.Sprint("org", i%7), App: "app", Machine: fmt.Sprint("m", i)}
	if err := n.Assign(t.Context(), s, id); err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := n.Release(t.Context(), s); err != nil {
			t.Error(err)
		}
	}
}

// sameNamespace checks that no thread is left in a slot's namespace.
func sameNamespace(t *testing.T) {
	t.Helper()
	home, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	tasks, err := filepath.Glob("/proc/self/task/*/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range tasks {
		if ns, err := os.Readlink(path); err == nil && ns != home {
			t.Errorf("thread %s is in %s, not %s", path, ns, home)
		}
	}
}

func TestAcquireUndoesFailure(t *testing.T) {
	n := newNetwork(t, Config{})
	before := inventory(t, n.netnsDir())
	blocker := netlink.NewLinkAttrs()
	blocker.Name = n.device(n.next)
	if err := netlink.LinkAdd(&netlink.Ifb{LinkAttrs: blocker}); err != nil {
		t.Skip("needs an ifb device:", err)
	}
	if _, err := n.Acquire(t.Context()); err == nil || !strings.Contains(err.Error(), blocker.Name) {
		t.Errorf("acquire says %v", err)
	}
	if more := grown(before, inventory(t, n.netnsDir())); len(more) > 0 {
		t.Errorf("left behind: %q", more)
	}
}

func TestFull(t *testing.T) {
	n := newNetwork(t, Config{Pool: netip.MustParsePrefix("10.99.0.0/26")})
	for range slotCount(n.Pool()) {
		acquire(t, n)
	}
	if _, err := n.Acquire(t.Context()); !errors.Is(err, ErrFull) {
		t.Errorf("acquire says %v", err)
	}
	if err := n.Release(t.Context(), &n.Slots()[5]); err != nil {
		t.Fatal(err)
	}
	if s := acquire(t, n); s.ID != 5 {
		t.Errorf("got slot %d", s.ID)
	}
}

func TestCancelled(t *testing.T) {
	n := newNetwork(t, Config{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := n.Acquire(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func BenchmarkSlot(b *testing.B) {
	n := newNetwork(b, Config{})
	var acquired, assigned, again, released time.Duration
	clock := func(into *time.Duration, f func() error) {
		began := time.Now()
		if err := f(); err != nil {
			b.Fatal(err)
		}
		*into += time.Since(began)
	}
	for i := range b.N {
		var s *Slot
		id := Identity{Org: "acme", App: "app", Machine: fmt.Sprint(i)}
		clock(&acquired, func() (err error) { s, err = n.Acquire(b.Context()); return err })
		clock(&assigned, func() error { return n.Assign(b.Context(), s, id) })
		clock(&again, func() error { return n.Assign(b.Context(), s, id) })
		clock(&released, func() error { return n.Release(b.Context(), s) })
	}
	for name, d := range map[string]time.Duration{"acquire": acquired, "assign": assigned, "reassign": again, "release": released} {
		b.ReportMetric(float64(d.Microseconds())/float64(b.N), "µs/"+name)
	}
}

// TestAddressUsedAgain: who gets a dead machine's address gets none of the
// packets that are still on their way to it.
func TestAddressUsedAgain(t *testing.T) {
	inet := newInternet(t)
	n := newNetwork(t, Config{})
	old := machineSlot(t, n, "acme", "old")
	far := listenUDP(t, inet.place, addrPort(inet.v4))
	near := listenUDP(t, in(old), netip.AddrPortFrom(old.IPv4, 5000))
	if _, err := near.WriteTo([]byte("hello"), net.UDPAddrFromAddrPort(addrPort(inet.v4))); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 16)
	_, back, err := far.ReadFrom(buf)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Release(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	n.next = old.ID
	next := machineSlot(t, n, "bold", "next")
	if next.IPv4 != old.IPv4 {
		t.Fatalf("address is %s", next.IPv4)
	}
	ears := listenUDP(t, in(next), netip.AddrPortFrom(next.IPv4, 5000))
	if _, err := far.WriteTo([]byte("secret"), back); err != nil {
		t.Fatal(err)
	}
	ears.SetReadDeadline(time.Now().Add(brief))
	if k, _, err := ears.ReadFrom(buf); err == nil {
		t.Errorf("the new machine got %q", buf[:k])
	}
}

// TestManyOrgs: the table of a full node loads in one transaction.
func TestManyOrgs(t *testing.T) {
	n := newNetwork(t, Config{})
	for i := range 20000 {
		n.orgs[fmt.Sprint("org", i)] = &org{group: uint32(i + 1), slots: 1}
	}
	if err := n.Setup(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := inventory(t, n.netnsDir())["elements of "+n.cfg.Prefix]; got < 20000 {
		t.Errorf("%d elements", got)
	}
}

// TestKeepsHostIPv6: becoming a router must not cost the host its own address.
func TestKeepsHostIPv6(t *testing.T) {
	newInternet(t)
	setSysctlBack(t, "net/ipv6/conf/all/forwarding", "0")
	setSysctlBack(t, "net/ipv6/conf/wan0/accept_ra", "1")
	newNetwork(t, Config{})
	if got := sysctl("net/ipv6/conf/wan0/accept_ra"); got != "2" {
		t.Errorf("accept_ra is %s", got)
	}
	if got := sysctl("net/ipv6/conf/all/forwarding"); got != "1" {
		t.Errorf("forwarding is %s", got)
	}
}
