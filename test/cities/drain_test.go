//go:build linux

package cities

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/perigee-run/perigee/api"

	"github.com/perigee-run/perigee/test"
)

// TestDrainNode drains one of two nodes while visitors come to whatever edge DNS
// and BGP lead them to, upgrades it, and takes it back into service.
func TestDrainNode(t *testing.T) {
	t.Parallel()
	c := startCities(t, []string{"iad", "fra"}, "--drain-wait", "3s", "--dns-listen", "{addr4}:53",
		"--anycast", "192.0.2.1/32", "--bgp-asn", "65010", "--bgp-neighbor", "{router4},64500", "--public", "{addr4}")
	dir := t.TempDir()
	config := "app = \"shop\"\nregions = [\"iad\", \"fra\"]\n[http_service]\n  internal_port = 8080\n  auto_stop_machines = \"off\"\n" + test.Checks
	if err := os.WriteFile(filepath.Join(dir, "perigee.toml"), []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	c.must("iad", dir, "deploy", "--image", test.App(t))
	c.eventually("both edges are announced", 30*time.Second, func() bool { return len(c.announcers()) == 2 })
	led := c.led()

	crossed := c.cross()
	c.must("iad", dir, "node", "upgrade", "fra-1")
	led.check("an upgrade")
	crossed.check("an upgrade, between the nodes,")
	crossed.stop()
	c.resting(dir)
	c.eventually("both edges are announced again", 30*time.Second, func() bool { return len(c.announcers()) == 2 })

	drained := make(chan struct{})
	go func() {
		defer close(drained)
		if out, errs, code := c.perigee("iad", dir, "node", "drain", "fra-1", "--wait", "2m"); code != 0 {
			c.Errorf("perigee node drain: exit code %d\n%s%s", code, out, errs)
		}
	}()
	c.eventually("DNS does not name it", 30*time.Second, func() bool { return !slices.Contains(c.resolve("fra"), c.nodes["fra"].Addr4) })
	c.eventually("BGP does not lead to it", 30*time.Second, func() bool { return !slices.Contains(c.announcers(), "fra-1") })
	if !c.answers(c.nodes["fra"].Addr4) {
		t.Error("the port was closed as soon as the routes were withdrawn")
	}
	c.eventually("its machines are gone", 60*time.Second, func() bool { w := c.where("iad"); return w["fra-1"] == 0 && w["iad-1"] == 4 })
	<-drained
	if c.answers(c.nodes["fra"].Addr4) {
		t.Error("the port of a drained edge is open")
	}
	if out := c.must("iad", dir, "nodes"); !strings.Contains(out, "drained") {
		t.Errorf("perigee nodes:\n%s", out)
	}
	led.check("a drain")

	c.must("iad", dir, "node", "uncordon", "fra-1")
	c.eventually("it is an edge again", 60*time.Second, func() bool {
		return c.answers(c.nodes["fra"].Addr4) && slices.Contains(c.resolve("fra"), c.nodes["fra"].Addr4)
	})
	led.check("the return")
	led.stop()
	t.Logf("%d visits", led.asked.Load())
	c.removed(dir)
}

// removed: a node that is removed says so and ends, with its machines, which are made
// anew elsewhere, and with an exit code of its own.
func (c *cloud) removed(dir string) {
	c.Helper()
	c.eventually("its machines are home again", 60*time.Second, func() bool { w := c.where("iad"); return w["fra-1"] == 3 && w["iad-1"] == 1 })
	c.must("iad", dir, "node", "remove", "fra-1", "--force")
	c.eventually("the machines of the removed node are made anew", 30*time.Second, func() bool {
		return len(c.machines("iad")) == 4 && c.where("iad")["iad-1"] == 4
	})
	stopped, cordoned := 0, 0
	for _, m := range c.machines("iad") {
		switch {
		case m.Cordoned:
			cordoned++
		case m.State == api.StateStopped || m.State == api.StateCreated:
			stopped++
		}
	}
	if stopped != 1 || cordoned != 1 {
		c.Errorf("after a drain, the way home and a removal %d machines are stopped and %d cordoned, and not one each:", stopped, cordoned)
		for _, m := range c.machines("iad") {
			c.Logf("%s is %s: %v", m.ID, m.State, m.Events)
		}
	}
	c.eventually("the removed node has ended, in words", 90*time.Second, func() bool {
		b, _ := os.ReadFile(c.nodes["fra"].Log)
		return strings.Contains(string(b), "Error: this node was removed from the cloud") && strings.Contains(string(b), "hint: to use this server again")
	})
}

// resting puts two more machines on fra: one that is stopped, and one that is cordoned.
func (c *cloud) resting(dir string) {
	c.Helper()
	client := c.nodes["fra"].Client()
	like := c.machines("fra")[0]
	for i := range 2 {
		m, err := client.CreateMachine(c.Context(), "shop", api.CreateMachineRequest{Config: like.Config, Region: "fra", Release: like.Release, SkipServiceRegistration: i == 0})
		if err != nil {
			c.Fatal(err)
		}
		if i == 1 {
			c.must("iad", dir, "machine", "stop", m.ID)
		}
	}
	c.eventually("the two are there", 30*time.Second, func() bool { return c.where("iad")["fra-1"] == 3 })
}

// announcers are the hosts whose routers know them by BGP.
func (c *cloud) announcers() (out []string) {
	for _, p := range c.lab.Peers() {
		if len(p.Prefixes) > 0 {
			out = append(out, p.Host)
		}
	}
	return out
}

// resolve asks the DNS server of iad for the app, as a visitor of a city.
func (c *cloud) resolve(city string) (out []netip.Addr) {
	q := new(dns.Msg).SetQuestion("shop.apps.localhost.", dns.TypeA)
	conn, err := c.visitors[city].Dial(c.Context(), "udp", netip.AddrPortFrom(c.nodes["iad"].Addr4, 53).String())
	if err != nil {
		return nil
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(3 * time.Second))
	m, _, err := (&dns.Client{}).ExchangeWithConn(q, &dns.Conn{Conn: conn})
	if err != nil {
		return nil
	}
	for _, rr := range m.Answer {
		if a, ok := rr.(*dns.A); ok {
			addr, _ := netip.AddrFromSlice(a.A.To4())
			out = append(out, addr)
		}
	}
	return out
}

// answers reports whether a node's port 80 is open to visitors.
func (c *cloud) answers(at netip.Addr) bool {
	conn, err := c.visitors["iad"].Dial(c.Context(), "tcp", netip.AddrPortFrom(at, 80).String())
	if err == nil {
		conn.Close()
	}
	return err == nil
}

// ledVisitors go where DNS leads them, as long as its answer is good.
type ledVisitors struct {
	c     *cloud
	quit  chan struct{}
	stop  func()
	wg    sync.WaitGroup
	asked atomic.Int64

	mu     sync.Mutex // guards faults
	faults []string
}

func (c *cloud) led() *ledVisitors {
	v := &ledVisitors{c: c, quit: make(chan struct{})}
	v.stop = sync.OnceFunc(func() { close(v.quit); v.wg.Wait() })
	c.Cleanup(v.stop)
	for _, city := range []string{"iad", "fra"} {
		v.wg.Go(func() { v.run(city) })
	}
	return v
}

// cross has visitors of each city ask for the machine of the other.
func (c *cloud) cross() *ledVisitors {
	v := &ledVisitors{c: c, quit: make(chan struct{})}
	v.stop = sync.OnceFunc(func() { close(v.quit); v.wg.Wait() })
	c.Cleanup(v.stop)
	for _, m := range c.machines("iad") {
		city := map[string]string{"iad-1": "fra", "fra-1": "iad"}[m.Node]
		v.wg.Go(func() {
			for {
				select {
				case <-v.quit:
					return
				case <-time.After(10 * time.Millisecond):
					v.visit(city, c.nodes[city].Addr4, m.ID)
				}
			}
		})
	}
	return v
}

func (v *ledVisitors) visit(city string, at netip.Addr, machine ...string) {
	v.asked.Add(1)
	status, body, took, err := v.c.askAt(city, at, "/release", machine...)
	if err == nil && status == 200 {
		if took > time.Second {
			v.c.Logf("%s waits %s at %s", city, took, at)
		}
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.faults = append(v.faults, fmt.Sprintf("%s from %s at %s for %v: %d %.200s, %v", time.Now().Format("05.000"), city, at, machine, status, body, err))
}

func (v *ledVisitors) run(city string) {
	var known []netip.Addr
	var until time.Time
	for {
		select {
		case <-v.quit:
			return
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(until) {
			if found := v.c.resolve(city); len(found) > 0 {
				known, until = found, time.Now().Add(time.Second)
			}
		}
		if len(known) == 0 {
			continue
		}
		v.visit(city, known[0])
	}
}

func (v *ledVisitors) check(during string) {
	v.c.Helper()
	for was := v.asked.Load(); v.asked.Load() < was+20; {
		time.Sleep(10 * time.Millisecond)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.faults) > 0 {
		v.c.Errorf("with %s %d of %d visits failed: %s", during, len(v.faults), v.asked.Load(), strings.Join(v.faults[:min(5, len(v.faults))], "; "))
	}
	v.faults = nil
}
