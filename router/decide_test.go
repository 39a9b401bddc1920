package router

import (
	"testing"
	"time"
)

func TestChoose(t *testing.T) {
	ok := candidate{temper: running, healthy: true, local: true}
	with := func(c candidate, edit func(*candidate)) candidate { edit(&c); return c }
	busy := func(n int) candidate { return with(ok, func(c *candidate) { c.inflight = n }) }
	far := with(ok, func(c *candidate) { c.local = false })
	sick := with(ok, func(c *candidate) { c.healthy = false })
	held := with(ok, func(c *candidate) { c.held = true })
	tried := with(ok, func(c *candidate) { c.tried = true })
	asleep := func(t temper) candidate { return candidate{temper: t, local: true} }
	wake := limits{wake: true}

	tests := []struct {
		name  string
		l     limits
		cs    []candidate
		want  verdict
		index int
		also  int
	}{
		{"nobody", limits{}, nil, toNone, -1, -1},
		{"the only one", limits{}, []candidate{ok}, toSend, 0, -1},
		{"least loaded", limits{}, []candidate{busy(3), busy(1), busy(2)}, toSend, 1, -1},
		{"ours before a less loaded one elsewhere", limits{}, []candidate{far, busy(2)}, toSend, 1, -1},
		{"over soft, elsewhere is better", limits{soft: 2}, []candidate{busy(2), far}, toSend, 1, -1},
		{"all over soft, ours", limits{soft: 1}, []candidate{busy(5), with(far, func(c *candidate) { c.inflight = 1 })}, toSend, 0, -1},
		{"healthy before idle", limits{}, []candidate{sick, busy(9)}, toSend, 1, -1},
		{"sick is better than none", limits{}, []candidate{sick, asleep(unfit)}, toSend, 0, -1},
		{"sick is better than a wake", wake, []candidate{asleep(paused), sick}, toSend, 1, -1},
		{"wanted wins", limits{soft: 1}, []candidate{ok, with(busy(5), func(c *candidate) { c.wanted = true })}, toSend, 1, -1},
		{"wanted but full", limits{hard: 5}, []candidate{ok, with(busy(5), func(c *candidate) { c.wanted = true })}, toSend, 0, -1},
		{"tried is left out", limits{}, []candidate{tried, busy(9)}, toSend, 1, -1},
		{"all tried", limits{}, []candidate{tried, tried}, toNone, -1, -1},
		{"full: queue", limits{hard: 2}, []candidate{busy(2), busy(3)}, toQueue, -1, -1},
		{"full: wake", limits{hard: 2, wake: true}, []candidate{busy(2), asleep(suspended)}, toWake, 1, -1},
		{"full of waiting ones: queue", limits{hard: 1, wake: true}, []candidate{with(asleep(stopped), func(c *candidate) { c.inflight = 1 })}, toQueue, -1, -1},
		{"full or tried: queue", limits{hard: 2}, []candidate{busy(2), tried}, toQueue, -1, -1},
		{"over soft: send, and wake one besides", limits{soft: 2, wake: true}, []candidate{busy(2), asleep(stopped), asleep(paused)}, toSend, 0, 2},
		{"over soft, but one is waking", limits{soft: 2, wake: true}, []candidate{busy(2), with(asleep(stopped), func(c *candidate) { c.waking = true })}, toSend, 0, -1},
		{"over soft without auto start", limits{soft: 2}, []candidate{busy(2), asleep(stopped)}, toSend, 0, -1},
		{"asleep without auto start", limits{}, []candidate{asleep(stopped), asleep(paused)}, toNone, -1, -1},
		{"coming without auto start", limits{}, []candidate{asleep(stopped), asleep(coming)}, toWake, 1, -1},
		{"soonest back", wake, []candidate{asleep(stopped), asleep(suspended), asleep(paused)}, toWake, 2, -1},
		{"suspended before one that just starts", wake, []candidate{asleep(coming), asleep(suspended)}, toWake, 1, -1},
		{"join a wake under way", wake, []candidate{asleep(paused), with(asleep(stopped), func(c *candidate) { c.waking, c.inflight = true, 3 })}, toWake, 1, -1},
		{"a wake that has its fill", limits{soft: 3, wake: true}, []candidate{asleep(stopped), with(asleep(stopped), func(c *candidate) { c.waking, c.inflight = true, 3 })}, toWake, 0, -1},
		{"held: another one", wake, []candidate{held, busy(4)}, toSend, 1, -1},
		{"held rather than a wake", wake, []candidate{asleep(paused), held}, toHold, 1, -1},
		{"unfit", wake, []candidate{asleep(unfit)}, toNone, -1, -1},
	}
	for _, tt := range tests {
		for turn := range uint32(7) { // the turn must matter among equals only
			got := choose(tt.l, tt.cs, turn)
			if want := (choice{tt.want, tt.index, tt.also}); got != want {
				t.Errorf("%s (turn %d): got %+v, want %+v", tt.name, turn, got, want)
				break
			}
		}
	}
}

// TestChooseByDistance has machines on other nodes: what counts is the time to the first byte.
func TestChooseByDistance(t *testing.T) {
	at := func(ms int, edit ...func(*candidate)) candidate {
		c := candidate{temper: running, healthy: true, rtt: time.Duration(ms) * time.Millisecond}
		c.local = ms < 3
		for _, e := range edit {
			e(&c)
		}
		return c
	}
	load := func(n int) func(*candidate) { return func(c *candidate) { c.inflight = n } }
	is := func(t temper) func(*candidate) { return func(c *candidate) { c.temper = t } }
	sick := func(c *candidate) { c.healthy = false }
	down := func(c *candidate) { c.down = true }
	favored := func(c *candidate) { c.favored = true }
	wanted := func(c *candidate) { c.wanted = true }
	waking := func(c *candidate) { c.waking = true }
	tests := []struct {
		name  string
		l     limits
		cs    []candidate
		want  verdict
		index int
		also  int
	}{
		{"near before far", limits{}, []candidate{at(90), at(20), at(200)}, toSend, 1, -1},
		{"near and busy before far", limits{}, []candidate{at(90), at(20, load(50))}, toSend, 1, -1},
		{"in one region the load counts", limits{}, []candidate{at(0, load(3)), at(1)}, toSend, 1, -1},
		{"in one region, equal loads: ours", limits{}, []candidate{at(1), at(0)}, toSend, 1, -1},
		{"about as far: the load counts", limits{}, []candidate{at(100, load(3)), at(109)}, toSend, 1, -1},
		{"farther: it does not", limits{}, []candidate{at(100, load(3)), at(112)}, toSend, 0, -1},
		{"near suspended before 200 ms", limits{wake: true}, []candidate{at(200), at(0, is(suspended))}, toWake, 1, -1},
		{"near paused before 20 ms", limits{wake: true}, []candidate{at(20), at(0, is(paused))}, toWake, 1, -1},
		{"30 ms before near suspended", limits{wake: true}, []candidate{at(30), at(0, is(suspended))}, toSend, 0, -1},
		{"200 ms before near stopped", limits{wake: true}, []candidate{at(200), at(0, is(stopped))}, toSend, 0, -1},
		{"asleep without auto start", limits{}, []candidate{at(200), at(0, is(suspended))}, toSend, 0, -1},
		{"a wake under way near", limits{wake: true}, []candidate{at(30), at(0, is(stopped), waking)}, toWake, 1, -1},
		{"over soft: the region's other node", limits{soft: 2}, []candidate{at(0, load(2)), at(1, load(1)), at(60)}, toSend, 1, -1},
		{"over soft: not another region", limits{soft: 2}, []candidate{at(0, load(5)), at(60)}, toSend, 0, -1},
		{"over soft: wake in the region", limits{soft: 2, wake: true}, []candidate{at(0, load(5)), at(60, is(paused)), at(1, is(stopped))}, toSend, 0, 2},
		{"over soft: wake nobody far away", limits{soft: 2, wake: true}, []candidate{at(0, load(5)), at(60, is(paused))}, toSend, 0, -1},
		{"over soft far away: wake there", limits{soft: 2, wake: true}, []candidate{at(60, load(5)), at(61, is(stopped))}, toSend, 0, 1},
		{"hard: the next region", limits{hard: 2}, []candidate{at(0, load(2)), at(200), at(60)}, toSend, 2, -1},
		{"hard: wake near before far", limits{hard: 2, wake: true}, []candidate{at(0, load(2)), at(200), at(1, is(suspended))}, toWake, 2, -1},
		{"all full: queue", limits{hard: 2}, []candidate{at(0, load(2)), at(60, load(2))}, toQueue, -1, -1},
		{"full, and another's node down: try it", limits{hard: 2}, []candidate{at(0, load(2)), at(60, down)}, toSend, 1, -1},
		{"down comes last", limits{}, []candidate{at(1, down), at(200)}, toSend, 1, -1},
		{"down but nothing else", limits{}, []candidate{at(1, down)}, toSend, 0, -1},
		{"down and wanted", limits{}, []candidate{at(1, down, wanted), at(200)}, toSend, 1, -1},
		{"healthy far before sick near", limits{}, []candidate{at(1, sick), at(200)}, toSend, 1, -1},
		{"sick near before a wake", limits{wake: true}, []candidate{at(1, sick), at(1, is(paused))}, toSend, 0, -1},
		{"a near wake before sick far", limits{wake: true}, []candidate{at(200, sick), at(1, is(suspended))}, toWake, 1, -1},
		{"healthy but down does not count", limits{}, []candidate{at(1, sick), at(200, down)}, toSend, 0, -1},
		{"the preferred region", limits{}, []candidate{at(1), at(200, favored)}, toSend, 1, -1},
		{"the preferred region is sick", limits{}, []candidate{at(1), at(200, favored, sick)}, toSend, 0, -1},
		{"the preferred machine sleeps", limits{wake: true}, []candidate{at(1), at(200, is(stopped), wanted)}, toWake, 1, -1},
	}
	for _, tt := range tests {
		for turn := range uint32(7) {
			got := choose(tt.l, tt.cs, turn)
			if want := (choice{tt.want, tt.index, tt.also}); got != want {
				t.Errorf("%s (turn %d): got %+v, want %+v", tt.name, turn, got, want)
				break
			}
		}
	}
}

func BenchmarkChoose(b *testing.B) {
	cs := make([]candidate, 3)
	for i := range cs {
		cs[i] = candidate{temper: running, healthy: true, local: true, inflight: i % 2}
	}
	for i := range b.N {
		choose(limits{soft: 20, hard: 25}, cs, uint32(i))
	}
}

func TestChooseRotates(t *testing.T) {
	cs := make([]candidate, 3)
	seen := map[int]bool{}
	for turn := range uint32(3) {
		seen[choose(limits{}, cs, turn).index] = true
	}
	if len(seen) != 3 {
		t.Errorf("three equal machines, chosen: %v", seen)
	}
}

func TestFind(t *testing.T) {
	r := New(Config{Certificates: noCerts{}})
	machine := []Machine{{ID: "m", State: StateStarted}}
	service := func(port int, handlers ...string) Service {
		return Service{InternalPort: 1, Ports: []Port{{Start: port, Handlers: handlers}}, Machines: machine}
	}
	secure := service(80, HandlerHTTP)
	secure.Ports[0].ForceHTTPS = true
	err := r.SetTable(Table{Apps: []App{
		{Name: "a", Hosts: []string{"a.test", "www.example.com."}, Services: []Service{service(80, HandlerHTTP), service(443, HandlerTLS, HandlerHTTP)}},
		{Name: "b", Hosts: []string{"*.Example.com"}, Services: []Service{secure, service(5432)}},
		{Name: "c", Hosts: []string{"c.test"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		host   string
		port   int
		secure bool
		app    string
		want   verdict
	}{
		{"a.test", 80, false, "a", toService},
		{"a.test", 443, true, "a", toService},
		{"www.example.com", 80, false, "a", toService},
		{"x.example.com", 80, false, "b", toHTTPS},
		{"x.example.com", 80, true, "b", toService},
		{"x.y.example.com", 80, false, "", toUnknownHost},
		{"example.com", 80, false, "", toUnknownHost},
		{"x.example.com", 443, true, "", toNoPort},
		{"c.test", 80, false, "", toNoPort},
		{"nobody.test", 80, false, "", toUnknownHost},
		{"", 80, false, "", toUnknownHost},
		{"", 5432, false, "b", toService},
	}
	for _, tt := range tests {
		tg, v := r.routes.Load().find(&ask{entrance: entrance{port: tt.port}, host: []byte(tt.host), secure: tt.secure})
		app := ""
		if tg != nil {
			app = tg.app.name
		}
		if v != tt.want || app != tt.app {
			t.Errorf("find(%q, %d, %v) = %q, %d; want %q, %d", tt.host, tt.port, tt.secure, app, v, tt.app, tt.want)
		}
	}
}

func TestNormalHost(t *testing.T) {
	for in, want := range map[string]string{
		"A.Test:8080": "a.test", "a.test.": "a.test", "a.test.:80": "a.test", "[::1]:80": "[::1]", "[::1]": "[::1]", "1.2.3.4:5": "1.2.3.4", "": "", "x": "x",
	} {
		if got := string(normalHost(nil, []byte(in))); got != want {
			t.Errorf("normalHost(%q) = %q, want %q", in, got, want)
		}
	}
}
