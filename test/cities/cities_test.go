//go:build linux

package cities

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/lab"
	"github.com/perigee-run/perigee/test"
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

// newCloud is a lab without nodes yet.
func newCloud(t *testing.T, cities []string) *cloud {
	t.Helper()
	bin := test.Programs(t)
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
	return c
}

// add starts a city's node, which joins one that is there, and puts a visitor
// there.
func (c *cloud) add(city string, cfg lab.NodeConfig) {
	c.Helper()
	var err error
	for _, n := range c.nodes {
		if cfg.Join, err = n.JoinThis(c.Context()); err != nil {
			c.Fatal(err)
		}
		break
	}
	if cfg.Program == "" {
		cfg.Program = filepath.Join(c.bin, "perigeed")
	}
	cfg.City, cfg.Args = city, append([]string{"--domain", "apps.localhost"}, cfg.Args...)
	if c.nodes[city], err = c.lab.StartNode(c.Context(), cfg); err != nil {
		c.Fatal(err)
	}
	if c.visitors[city], err = c.lab.AddHost("visitor-"+city, city); err != nil {
		c.Fatal(err)
	}
}

// startCities starts a node, and a visitor, in each city.
func startCities(t *testing.T, cities []string, args ...string) *cloud {
	t.Helper()
	c := newCloud(t, cities)
	for _, city := range cities {
		c.add(city, lab.NodeConfig{Args: args})
	}
	c.eventually("all nodes are up", 30*time.Second, func() bool {
		out, _, _ := c.perigee(cities[0], "", "nodes")
		return strings.Count(out, " up") == len(cities)
	})
	return c
}

// startCloud starts a node in three cities, one of them with a wrong clock.
func startCloud(t *testing.T) *cloud {
	t.Helper()
	c := newCloud(t, cloudCities)
	soon := []string{"--dead-after", "20s"}
	c.add("iad", lab.NodeConfig{Args: soon})
	c.addAhead("fra", soon...)
	c.add("syd", lab.NodeConfig{Args: soon})
	c.eventually("all nodes are up and keep the state", 30*time.Second, func() bool {
		out, _, _ := c.perigee("iad", "", "nodes")
		return strings.Count(out, " up") == 3 && strings.Count(out, " yes ") == 3
	})
	return c
}

// config is a folder with the configuration of the app of these tests.
func (c *cloud) config() string {
	c.Helper()
	dir := c.TempDir()
	config := "app = \"shop\"\nregions = [\"iad\", \"fra\", \"syd\"]\n[env]\n  RELEASE = \"one\"\n[http_service]\n  internal_port = 8080\n  auto_stop_machines = \"off\"\n" + test.Checks
	if err := os.WriteFile(filepath.Join(dir, "perigee.toml"), []byte(config), 0o644); err != nil {
		c.Fatal(err)
	}
	return dir
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

// fault is a request that did not go well at the edge of the visitor's own city.
type fault struct {
	city         string
	began, ended time.Time
	what         string
	elsewhere    bool // the next edge answered the same request
}

// load has a visitor in each city ask its own edge, again and again, until stop
// is called, which returns what did not go well. Each answer is checked. As DNS
// and BGP would, a visitor whose edge cannot be reached asks the next.
func (c *cloud) load(cities ...string) (stop func() (asked int64, faults []fault)) {
	quit := make(chan struct{})
	var wg sync.WaitGroup
	var mu sync.Mutex // guards faults
	var faults []fault
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
				f := fault{city: city, began: time.Now()}
				if f.what = c.wrong(city, city); f.what == "" {
					continue
				}
				f.ended, f.elsewhere = time.Now(), c.wrong(city, c.next(city)) == ""
				mu.Lock()
				faults = append(faults, f)
				mu.Unlock()
			}
		})
	}
	return func() (int64, []fault) { close(quit); wg.Wait(); return asked.Load(), faults }
}

// wrong asks for the app's page and says what is wrong with the answer.
func (c *cloud) wrong(from, edge string) string {
	status, body, took, err := c.ask(from, edge, "/release")
	if err != nil || status != http.StatusOK || body != "one" {
		return fmt.Sprintf("%s asks %s: %d %.60q, %v, after %s", from, edge, status, body, err, took.Round(time.Millisecond))
	}
	return ""
}

// next is the city nearest to another.
func (c *cloud) next(city string) string {
	others := slices.DeleteFunc(slices.Clone(cloudCities), func(o string) bool { return o == city })
	return slices.MinFunc(others, func(a, b string) int { return int(c.lab.RTT(city, a) - c.lab.RTT(city, b)) })
}

// noFault fails the test if any request did not go well.
func (c *cloud) noFault(when string, asked int64, faults []fault) {
	c.Helper()
	for i, f := range faults {
		if i == 3 {
			break
		}
		c.Errorf("%s, one of %d failed requests (of %d): %s", when, len(faults), asked, f.what)
	}
}

// TestCloud walks three cities through a bad day: the nearest machine answers, a
// city is cut off, links pass one way alone, every process is killed in turn, two
// of three members are gone, strangers want in, a node dies and is healed and
// comes back, and two sides do not see each other for long. The clock of one node is
// wrong all day. One cloud serves for all of it, for making one takes long.
func TestCloud(t *testing.T) {
	t.Parallel() // it waits more than it works
	c := startCloud(t)
	dir := c.config()
	c.must("iad", dir, "deploy", "--image", test.App(t))
	for _, step := range []struct {
		name string
		do   func(dir string)
	}{
		{"nearest", c.nearest}, {"passes on", c.passesOn}, {"inside", c.inside}, {"keys turn", c.keysTurn}, {"cut off", c.cutOff}, {"one way", c.oneWay}, {"killed in turn", c.killedInTurn},
		{"supervisor killed", c.supervisorKilled}, {"without a quorum", c.withoutQuorum}, {"strangers", c.strangers}, {"dies", c.dies}, {"split brain", c.splitBrain},
	} {
		began := time.Now()
		step.do(dir)
		t.Logf("%s: all of it took %s", step.name, time.Since(began).Round(time.Second))
	}
}

// TestShrink takes a cloud of three down to one. Two that are left write and know
// what the other wrote, also after they were killed and started again; one of two is
// not removed before it has given its part of the state up.
func TestShrink(t *testing.T) {
	t.Parallel()
	c := startCloud(t)
	dir := c.config()
	c.must("iad", dir, "apps", "create", "shop")
	if err := c.nodes["syd"].Kill(); err != nil {
		t.Fatal(err)
	}
	c.must("iad", dir, "node", "remove", "syd-1", "--force")
	for round, at := range []string{"iad", "fra", "iad", "fra"} {
		if round > 1 {
			if err := errors.Join(c.nodes[at].Kill(), c.nodes[at].Start(c.Context())); err != nil {
				c.Fatal(err)
			}
		}
		c.writes(dir, at, fmt.Sprintf("LEFT_%d", round), "iad", "fra")
	}
	if _, errs, code := c.perigee("iad", dir, "node", "remove", "fra-1", "--force"); code == 0 || !strings.Contains(errs, "perigee node drain fra-1") {
		c.Errorf("one of two is removed: exit code %d\n%s", code, errs)
	}
	c.must("fra", dir, "node", "drain", "fra-1")
	c.writes(dir, "fra", "DRAINED", "iad", "fra")
	c.must("iad", dir, "node", "remove", "fra-1")
	c.writes(dir, "iad", "ALONE", "iad")
	if out, _, _ := c.perigee("iad", dir, "secrets", "list", "--json"); strings.Count(out, `"LEFT_`) != 4 || !strings.Contains(out, `"DRAINED"`) {
		c.Errorf("something was lost:\n%s", out)
	}
}

// TestRecover: two of three nodes are lost for good. The third serves, and decides
// again when it is told so, with all it had; a lost one that comes back is kept out.
func TestRecover(t *testing.T) {
	t.Parallel()
	c := startCloud(t)
	dir := c.config()
	c.must("fra", dir, "apps", "create", "shop")
	c.writes(dir, "syd", "BEFORE", cloudCities...)
	for _, city := range []string{"fra", "syd"} {
		if err := c.nodes[city].Kill(); err != nil {
			t.Fatal(err)
		}
	}
	c.eventually("iad finds that most members are away", 30*time.Second, func() bool {
		_, errs, code := c.perigee("iad", dir, "node", "recover", "--lost", "syd-1")
		return code != 0 && strings.Contains(errs, `"fra-1" cannot be reached and is not named as lost`)
	})
	c.must("iad", dir, "node", "recover", "--lost", "fra-1,syd-1")
	c.writes(dir, "iad", "AFTER", "iad")
	if out := c.must("iad", dir, "secrets", "list", "--json"); !strings.Contains(out, `"BEFORE"`) {
		t.Errorf("something was lost:\n%s", out)
	}
	_ = c.nodes["fra"].Start(t.Context()) // it may be up for a moment
	c.eventually("a node that was given up ends", 30*time.Second, func() bool {
		b, _ := os.ReadFile(c.nodes["fra"].Log)
		return strings.Contains(string(b), "Error: this node was removed from the cloud")
	})
	c.writes(dir, "iad", "STILL", "iad")
}

// writes has one node write a name within a minute, and others know it soon after.
func (c *cloud) writes(dir, at, name string, known ...string) {
	c.Helper()
	c.eventually(at+" writes "+name, 60*time.Second, func() bool {
		_, _, code := c.perigee(at, dir, "secrets", "set", name+"=1", "--stage")
		return code == 0
	})
	for _, other := range known {
		c.eventually(other+" knows "+name, 30*time.Second, func() bool {
			out, _, _ := c.perigee(other, dir, "secrets", "list", "--json")
			return strings.Contains(out, `"`+name+`"`)
		})
	}
}

// agree waits until all nodes list the same secrets, these among them.
func (c *cloud) agree(dir string, names ...string) {
	c.Helper()
	c.eventually("all nodes know the same, with "+strings.Join(names, " and "), 60*time.Second, func() bool {
		one, _, _ := c.perigee(cloudCities[0], dir, "secrets", "list", "--json")
		for _, city := range cloudCities[1:] {
			if other, _, _ := c.perigee(city, dir, "secrets", "list", "--json"); other != one {
				return false
			}
		}
		return !slices.ContainsFunc(names, func(name string) bool { return !strings.Contains(one, `"`+name+`"`) })
	})
}

// nearest: every visitor is answered by the machine of the city, sooner than any
// other city could be asked.
func (c *cloud) nearest(string) {
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
	time.Sleep(4 * time.Second) // all of the cut must be shorter than --dead-after
	asked, faults := stop()
	c.noFault("with syd cut off", asked, faults)
	c.must("syd", dir, "machine", "suspend", sleeper)
	if status, _, _, err := c.ask("syd", "syd", "/"); err != nil || status != http.StatusOK {
		c.Errorf("alone, syd does not wake its machine: %d, %v", status, err)
	}
	if _, errs, code := c.perigee("syd", dir, "secrets", "set", "ALONE=1", "--stage"); code == 0 || !strings.Contains(errs, "quorum") {
		c.Errorf("alone, syd writes: exit code %d\n%s", code, errs)
	}
	c.must("iad", dir, "secrets", "set", "TOGETHER=2", "--stage")
	if err := c.nodes["syd"].Client().SetMetadata(c.Context(), "shop", sleeper, "written", "alone"); err != nil {
		c.Errorf("alone, syd does not write of its own machine: %v", err)
	}
	c.lab.Heal()
	// What syd was refused may have been written all the same, but not for one node
	// alone.
	c.agree(dir, "TOGETHER")
	c.oneEach()
	c.eventually("the others hear what syd wrote alone of its machine", 30*time.Second, func() bool {
		return slices.ContainsFunc(c.machines("fra"), func(m api.Machine) bool { return m.Config.Metadata["written"] == "alone" })
	})
}

// dies: while a node is lost the other cities notice nothing; its machine is made
// anew elsewhere, and the city has one again when it is back.
func (c *cloud) dies(string) {
	c.Helper()
	stop := c.load("iad", "syd")
	if err := c.nodes["fra"].Kill(); err != nil {
		c.Fatal(err)
	}
	c.eventually("the lost machine is made anew", 60*time.Second, func() bool {
		w := c.where("iad")
		return w["iad-1"]+w["syd-1"] == 3
	})
	if err := c.nodes["fra"].Start(c.Context()); err != nil {
		c.Fatal(err)
	}
	c.oneEach()
	asked, faults := stop()
	c.noFault("while fra was lost and came back, elsewhere", asked, faults)
}
