//go:build linux

package test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/lab"
)

// cloud is three nodes in three cities of a lab, and a visitor in each.
type cloud struct {
	*testing.T
	bin      string
	lab      *lab.Lab
	nodes    map[string]*lab.Node // by city
	visitors map[string]*lab.Host
}

var cloudCities = []string{"iad", "fra", "syd"}

func startCloud(t *testing.T) *cloud {
	t.Helper()
	c := startCities(t, cloudCities, "--dead-after", "6s")
	c.eventually("all nodes keep the state", 30*time.Second, func() bool {
		out, _, _ := c.perigee("iad", "", "nodes")
		return strings.Count(out, " yes ") == 3
	})
	return c
}

// startCities starts a node, and a visitor, in each city.
func startCities(t *testing.T, cities []string, args ...string) *cloud {
	t.Helper()
	bin := Programs(t)
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		t.Skip("needs /dev/net/tun")
	}
	dir, err := os.MkdirTemp("", "pc") // t.TempDir is too long for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := lab.New(t.Context(), lab.Config{Cities: cities, Dir: filepath.Join(dir, "l")})
	if err != nil {
		t.Fatal(err)
	}
	c := &cloud{t, bin, l, map[string]*lab.Node{}, map[string]*lab.Host{}}
	t.Cleanup(c.end)
	for _, city := range cities {
		var join *lab.Join
		if first := c.nodes[cities[0]]; first != nil {
			if join, err = first.JoinThis(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		n, err := l.StartNode(t.Context(), lab.NodeConfig{City: city, Program: filepath.Join(bin, "perigeed"), Join: join, Args: append([]string{"--domain", "apps.localhost"}, args...)})
		if err != nil {
			t.Fatal(err)
		}
		c.nodes[city] = n
		if c.visitors[city], err = l.AddHost("visitor-"+city, city); err != nil {
			t.Fatal(err)
		}
	}
	c.eventually("all nodes are up", 30*time.Second, func() bool {
		out, _, _ := c.perigee(cities[0], "", "nodes")
		return strings.Count(out, " up") == len(cities)
	})
	return c
}

func (c *cloud) end() {
	if c.Failed() {
		for city, n := range c.nodes {
			b, _ := os.ReadFile(n.Log)
			c.Logf("the log of %s ends:\n%s", city, b[max(0, len(b)-3000):])
		}
	}
	if err := c.lab.Close(); err != nil {
		c.Error(err)
	}
}

func (c *cloud) eventually(what string, within time.Duration, so func() bool) {
	c.Helper()
	began := time.Now()
	defer func() { c.Logf("%s: after %s", what, time.Since(began).Round(time.Millisecond)) }()
	for end := began.Add(within); !so(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			c.Fatalf("it did not come to be within %s that %s", within, what)
		}
	}
}

// perigee runs the command line at the node of a city.
func (c *cloud) perigee(city, dir string, args ...string) (out, errs string, code int) {
	cmd := exec.Command(filepath.Join(c.bin, "perigee"), args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PERIGEE_ADDR=unix://"+c.nodes[city].Socket, "PERIGEE_LOGIN="+filepath.Join(c.TempDir(), "login.json"), "NO_COLOR=1")
	var o, e bytes.Buffer
	cmd.Stdout, cmd.Stderr = &o, &e
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		c.Fatal(err)
	}
	return o.String(), e.String(), cmd.ProcessState.ExitCode()
}

func (c *cloud) must(city, dir string, args ...string) string {
	c.Helper()
	out, errs, code := c.perigee(city, dir, args...)
	if code != 0 {
		c.Fatalf("perigee %s: exit code %d\n%s%s", strings.Join(args, " "), code, out, errs)
	}
	return out
}

// ask has the visitor of one city ask the edge of another for the app's page at a
// path, and returns the answer and the time to its first byte.
func (c *cloud) ask(from, edge, path string) (status int, body string, took time.Duration, err error) {
	return c.askAt(from, c.nodes[edge].Addr4, path)
}

// askAt is ask at an address, and for one machine if it is named.
func (c *cloud) askAt(from string, edge netip.Addr, path string, machine ...string) (status int, body string, took time.Duration, err error) {
	client := c.visitors[from].HTTPClient()
	defer client.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(c.Context(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+edge.String()+path, nil)
	if err != nil {
		return 0, "", 0, err
	}
	req.Host = "shop.apps.localhost"
	for _, m := range machine {
		req.Header.Set("Fly-Force-Instance-Id", m)
	}
	began := time.Now()
	resp, err := client.Do(req)
	took = time.Since(began)
	if err != nil {
		return 0, "", took, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), took, err
}

func (c *cloud) machines(city string) []api.Machine {
	c.Helper()
	ctx, cancel := context.WithTimeout(c.Context(), 10*time.Second)
	defer cancel()
	list, err := c.nodes[city].Client().ListMachines(ctx, "shop")
	if err != nil {
		c.Fatal(err)
	}
	return list
}

// where counts the machines by city as one node sees them.
func (c *cloud) where(at string) map[string]int {
	count := map[string]int{}
	for _, m := range c.machines(at) {
		if m.HostStatus != "unreachable" {
			count[m.Node]++
		}
	}
	return count
}

// load asks from each city at its own edge until stop is called, which returns
// what did not go well.
func (c *cloud) load(cities ...string) (stop func() (asked int64, faults []string)) {
	quit := make(chan struct{})
	var wg sync.WaitGroup
	var mu sync.Mutex // guards faults
	var faults []string
	var asked atomic.Int64
	for _, city := range cities {
		wg.Go(func() {
			for {
				select {
				case <-quit:
					return
				case <-time.After(20 * time.Millisecond):
				}
				asked.Add(1)
				if status, _, _, err := c.ask(city, city, "/"); err != nil || status != http.StatusOK {
					mu.Lock()
					faults = append(faults, fmt.Sprintf("%s: %d, %v", city, status, err))
					mu.Unlock()
				}
			}
		})
	}
	return func() (int64, []string) { close(quit); wg.Wait(); return asked.Load(), faults }
}

// TestCloud walks three cities through a day: the nearest machine answers, a city
// is cut off, a node dies and is healed, and comes back.
func TestCloud(t *testing.T) {
	c := startCloud(t)
	dir := t.TempDir()
	config := "app = \"shop\"\nregions = [\"iad\", \"fra\", \"syd\"]\n[env]\n  RELEASE = \"one\"\n[http_service]\n  internal_port = 8080\n  auto_stop_machines = \"off\"\n" + checks
	if err := os.WriteFile(filepath.Join(dir, "perigee.toml"), []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	c.must("iad", dir, "deploy", "--image", testApp(t))
	c.nearest()
	c.passesOn(dir)
	c.keysTurn(dir)
	c.cutOff(dir)
	c.dies()
}

// nearest: every visitor is answered by the machine of the city, sooner than any
// other city could be asked.
func (c *cloud) nearest() {
	c.Helper()
	for _, city := range cloudCities {
		status, region, took, err := c.ask(city, city, "/env?name=FLY_REGION")
		if err != nil || status != http.StatusOK || region != city {
			c.Errorf("%s is answered by %q: %d, %v", city, region, status, err)
		}
		for _, other := range cloudCities {
			if other != city && took > c.lab.RTT(city, other) {
				c.Errorf("%s waits %s, longer than %s is away", city, took, other)
			}
		}
	}
}

// passesOn: a city without a machine is served by the nearest that has one.
func (c *cloud) passesOn(dir string) {
	c.Helper()
	c.must("fra", dir, "scale", "count", "0", "--region", "fra")
	status, region, took, err := c.ask("fra", "fra", "/env?name=FLY_REGION")
	if err != nil || status != http.StatusOK || region != "iad" {
		c.Errorf("fra is answered by %q after %s: %d, %v", region, took, status, err)
	}
	c.must("syd", dir, "scale", "count", "1", "--region", "fra")
	if status, region, _, err = c.ask("fra", "fra", "/env?name=FLY_REGION"); err != nil || region != "fra" {
		c.Errorf("fra is answered by %q: %d, %v", region, status, err)
	}
}

// cutOff: a city that is alone serves and wakes its own; what it cannot decide
// alone it refuses in words; and afterwards it agrees with the others.
func (c *cloud) cutOff(dir string) {
	c.Helper()
	var sleeper string
	for _, m := range c.machines("syd") {
		if m.Node == "syd-1" {
			sleeper = m.ID
		}
	}
	if err := c.lab.Isolate("syd"); err != nil {
		c.Fatal(err)
	}
	stop := c.load("iad", "fra", "syd")
	time.Sleep(4 * time.Second) // and no longer: then the others take it for dead
	if asked, faults := stop(); len(faults) > 0 {
		c.Errorf("with syd cut off %d of %d requests failed: %v", len(faults), asked, faults[:min(3, len(faults))])
	}
	c.must("syd", dir, "machine", "suspend", sleeper)
	if status, _, _, err := c.ask("syd", "syd", "/"); err != nil || status != http.StatusOK {
		c.Errorf("alone, syd does not wake its machine: %d, %v", status, err)
	}
	if _, errs, code := c.perigee("syd", dir, "secrets", "set", "ALONE=1", "--stage"); code == 0 || !strings.Contains(errs, "quorum") {
		c.Errorf("alone, syd writes: exit code %d\n%s", code, errs)
	}
	c.must("iad", dir, "secrets", "set", "TOGETHER=2", "--stage")
	c.lab.Heal()
	// What syd was refused may have been written all the same, but not for one node
	// alone.
	c.eventually("all nodes know the same, also what was decided without syd", 30*time.Second, func() bool {
		one, _, _ := c.perigee("iad", dir, "secrets", "list", "--json")
		two, _, _ := c.perigee("fra", dir, "secrets", "list", "--json")
		three, _, _ := c.perigee("syd", dir, "secrets", "list", "--json")
		return strings.Contains(one, "TOGETHER") && one == two && two == three
	})
	c.eventually("each city has its one machine again", 30*time.Second, func() bool {
		w := c.where("iad")
		return len(c.machines("iad")) == 3 && w["iad-1"] == 1 && w["fra-1"] == 1 && w["syd-1"] == 1
	})
}

// dies: while a node is lost the other cities notice nothing; its machine is made
// anew elsewhere, and gives way when it comes back.
func (c *cloud) dies() {
	c.Helper()
	stop := c.load("iad", "syd")
	if err := c.nodes["fra"].Kill(); err != nil {
		c.Fatal(err)
	}
	c.eventually("the lost machine is made anew", 60*time.Second, func() bool {
		w := c.where("iad")
		return w["iad-1"]+w["syd-1"] == 3
	})
	if asked, faults := stop(); len(faults) > 0 {
		c.Errorf("while fra was lost %d of %d requests elsewhere failed: %v", len(faults), asked, faults[:min(3, len(faults))])
	}
	if err := c.nodes["fra"].Start(c.Context()); err != nil {
		c.Fatal(err)
	}
	c.eventually("the machine that was replaced is gone", 60*time.Second, func() bool {
		return len(c.machines("iad")) == 3 && len(c.machines("fra")) == 3 && c.where("fra")["fra-1"] == 0
	})
}
