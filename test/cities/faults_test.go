//go:build linux

package cities

import (
	"bytes"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// oneWay: packets pass from syd and none come to it, then the other way round. No
// visitor notices: what is lost is the way between nodes, not to them.
func (c *cloud) oneWay(string) {
	c.Helper()
	for _, way := range [][2]string{{"world", "syd"}, {"syd", "world"}} {
		stop := c.load(cloudCities...)
		if err := c.lab.CutOneWay(way[0], way[1]); err != nil {
			c.Fatal(err)
		}
		time.Sleep(3 * time.Second)
		c.lab.Heal()
		asked, faults := stop()
		c.noFault("with nothing passing from "+way[0]+" to "+way[1], asked, faults)
	}
	c.allUp()
}

// allUp waits until each node knows of all others that they are there.
func (c *cloud) allUp() {
	c.Helper()
	for _, city := range cloudCities {
		c.eventually(city+" sees all nodes up", 60*time.Second, func() bool {
			out, _, _ := c.perigee(city, "", "nodes")
			return strings.Count(out, " up") == len(cloudCities)
		})
	}
}

// killedInTurn kills the daemon of each city under load. Each is edge, host and
// member of the state; the leader of the state and the one that decides on moves
// are among them. Other cities notice nothing; a visitor of the city itself finds
// no edge only while there is none, and the next edge has the answer meanwhile.
func (c *cloud) killedInTurn(string) {
	c.Helper()
	for _, city := range cloudCities {
		stop := c.load(cloudCities...)
		time.Sleep(300 * time.Millisecond)
		gone := time.Now()
		if err := c.nodes[city].Kill(); err != nil {
			c.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		if err := c.nodes[city].Start(c.Context()); err != nil {
			c.Fatal(err)
		}
		c.eventually(city+" lets visitors in", 10*time.Second, func() bool { return c.wrong(city, city) == "" })
		back := time.Now()
		time.Sleep(time.Second)
		asked, faults := stop()
		c.Logf("%s was away for %s; its own visitors met no edge %d times (of %d requests everywhere)", city, back.Sub(gone).Round(time.Millisecond), len(faults), asked)
		c.onlyWhileAway(city, gone, back, faults)
	}
	c.allUp()
	c.oneEach()
}

func (c *cloud) onlyWhileAway(city string, gone, back time.Time, faults []fault) {
	c.Helper()
	for _, f := range faults {
		switch {
		case f.city != city:
			c.Errorf("while the node of %s was killed: %s", city, f.what)
		case f.ended.Before(gone) || f.began.After(back):
			c.Errorf("while the node of %s was up, %s before and %s after it was killed: %s", city, gone.Sub(f.ended), f.began.Sub(back), f.what)
		case !f.elsewhere:
			c.Errorf("while the node of %s was away, the next edge had no answer either: %s", city, f.what)
		}
	}
}

// oneEach waits until each city has its one machine, in the eyes of all.
func (c *cloud) oneEach() {
	c.Helper()
	c.eventually("each city has its one machine", 60*time.Second, func() bool {
		for _, at := range cloudCities {
			w := c.where(at)
			if len(c.machines(at)) != 3 || w["iad-1"] != 1 || w["fra-1"] != 1 || w["syd-1"] != 1 {
				return false
			}
		}
		return true
	})
}

// machineOf is the first machine of a city.
func (c *cloud) machineOf(city string) string {
	c.Helper()
	for _, m := range c.machines(city) {
		if m.Node == city+"-1" {
			return m.ID
		}
	}
	c.Fatalf("%s has no machine", city)
	return ""
}

// supervisorKilled: nobody notices that fra's sandbox supervisor is killed, and
// the next one puts machines to sleep and wakes them.
func (c *cloud) supervisorKilled(dir string) {
	c.Helper()
	stop := c.load(cloudCities...)
	for range 2 { // the second one is one that the daemon started to replace the first
		pid := 0
		c.eventually("fra has a supervisor", 30*time.Second, func() bool { pid = supervisor(c.nodes["fra"].Data); return pid != 0 })
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			c.Fatal(err)
		}
		c.eventually("it is killed", 30*time.Second, func() bool { return supervisor(c.nodes["fra"].Data) != pid })
	}
	asked, faults := stop()
	c.noFault("while fra's supervisor was killed", asked, faults)
	c.must("fra", dir, "machine", "suspend", c.machineOf("fra"))
	if what := c.wrong("fra", "fra"); what != "" {
		c.Errorf("with a new supervisor fra does not wake its machine: %s", what)
	}
}

// supervisor is the process id of a node's sandbox supervisor, 0 if there is none.
func supervisor(data string) int {
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range lines {
		b, _ := os.ReadFile(path)
		if bytes.Contains(b, []byte("perigee-sandbox\x00serve")) && bytes.Contains(b, []byte(data)) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			return pid
		}
	}
	return 0
}

// withoutQuorum kills two of three members. The third serves, wakes what sleeps,
// restarts what crashes, and does all that again after it was killed itself.
func (c *cloud) withoutQuorum(dir string) {
	c.Helper()
	stop := c.load("syd")
	for _, city := range []string{"iad", "fra"} {
		if err := c.nodes[city].Kill(); err != nil {
			c.Fatal(err)
		}
	}
	time.Sleep(time.Second)
	asked, faults := stop()
	c.noFault("when the quorum went", asked, faults)
	c.worksAlone(dir, "without a quorum")
	if status, _, _, err := c.ask("syd", "syd", "/crash"); err != nil || status != http.StatusBadGateway {
		c.Errorf("the request that kills the machine is answered %d, %v", status, err)
	}
	c.eventually("without a quorum syd restarts the machine that crashed", 60*time.Second, func() bool { return c.wrong("syd", "syd") == "" })
	if err := c.nodes["syd"].Restart(c.Context()); err != nil {
		c.Fatalf("syd does not start without a quorum: %v", err)
	}
	c.worksAlone(dir, "without a quorum, after a restart")
	c.startAll("iad", "fra")
	c.allUp()
	c.eventually("the state takes writes again", 60*time.Second, func() bool {
		_, _, code := c.perigee("syd", dir, "secrets", "set", "AGAIN=3", "--stage")
		return code == 0
	})
	c.oneEach()
}

func (c *cloud) worksAlone(dir, when string) {
	c.Helper()
	if what := c.wrong("syd", "syd"); what != "" {
		c.Errorf("%s syd does not serve: %s", when, what)
	}
	c.must("syd", dir, "machine", "suspend", c.machineOf("syd"))
	if what := c.wrong("syd", "syd"); what != "" {
		c.Errorf("%s syd does not wake its machine: %s", when, what)
	}
}

func (c *cloud) startAll(cities ...string) {
	c.Helper()
	var wg sync.WaitGroup
	for _, city := range cities {
		wg.Go(func() {
			if err := c.nodes[city].Start(c.Context()); err != nil {
				c.Error(err)
			}
		})
	}
	wg.Wait()
}

// splitBrain cuts a city off for so long that the others make its machines anew,
// while both sides write. One side is refused; what the other was promised is
// known to all afterwards; what was doubled goes, what stands in goes home; and no
// visitor notices any of it.
func (c *cloud) splitBrain(dir string) {
	c.Helper()
	alone, others := "syd", []string{"iad", "fra"}
	stop := c.load(cloudCities...)
	if err := c.lab.Isolate(alone); err != nil {
		c.Fatal(err)
	}
	if _, errs, code := c.perigee(alone, dir, "secrets", "set", "REFUSED=1", "--stage"); code == 0 {
		c.Errorf("alone, %s writes: %s", alone, errs)
	}
	c.eventually("the others, who are the majority, write", 30*time.Second, func() bool {
		_, _, code := c.perigee(others[0], dir, "secrets", "set", "PROMISED=1", "--stage")
		return code == 0
	})
	c.eventually("the others make anew what is out of reach", 60*time.Second, func() bool {
		w := c.where(others[1])
		return w[others[0]+"-1"]+w[others[1]+"-1"] == 3
	})
	if what := c.wrong(alone, alone); what != "" {
		c.Errorf("cut off for long, %s does not serve: %s", alone, what)
	}
	c.lab.Heal()
	c.oneEach()
	c.agree(dir, "PROMISED", "TOGETHER", "AGAIN")
	asked, faults := stop()
	c.noFault("in the split and after it", asked, faults)
}
