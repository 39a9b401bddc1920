package placement

import (
	"context"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/perigee-run/perigee/api"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func started(id string, idle time.Duration) Machine {
	return Machine{ID: id, App: "shop", Group: "app", State: api.StateStarted, Since: now.Add(-time.Hour), Idle: now.Add(-idle), Healthy: true, Autostop: api.AutostopSuspend}
}

func with(m Machine, f func(*Machine)) Machine { f(&m); return m }

func TestDecide(t *testing.T) {
	cases := []struct {
		name     string
		machines []Machine
		want     []Action
	}{
		{"nothing", nil, nil},
		{"idle", []Machine{started("a", 2*time.Minute)}, []Action{{"a", Pause}}},
		{"not idle long enough", []Machine{started("a", 30*time.Second)}, nil},
		{"just started, no request yet", []Machine{with(started("a", time.Hour), func(m *Machine) { m.Since = now.Add(-time.Second) })}, nil},
		{"busy", []Machine{with(started("a", 2*time.Minute), func(m *Machine) { m.Busy = true })}, nil},
		{"not healthy", []Machine{with(started("a", 2*time.Minute), func(m *Machine) { m.Healthy = false })}, nil},
		{"off", []Machine{with(started("a", 2*time.Minute), func(m *Machine) { m.Autostop = api.AutostopOff })}, nil},
		{"no service", []Machine{with(started("a", 2*time.Minute), func(m *Machine) { m.Autostop = "" })}, nil},
		{"one stays awake, the one used last", []Machine{
			with(started("a", 2*time.Minute), func(m *Machine) { m.MinRunning = 1 }),
			with(started("b", 3*time.Minute), func(m *Machine) { m.MinRunning = 1 }),
		}, []Action{{"b", Pause}}},
		{"groups count apart", []Machine{
			with(started("a", 2*time.Minute), func(m *Machine) { m.MinRunning = 1 }),
			with(started("b", 2*time.Minute), func(m *Machine) { m.MinRunning, m.Group = 1, "worker" }),
		}, nil},
		{"sleepers do not count as awake", []Machine{
			with(started("a", 2*time.Minute), func(m *Machine) { m.MinRunning = 1 }),
			with(started("b", 2*time.Minute), func(m *Machine) { m.MinRunning, m.State = 1, api.StatePaused }),
		}, nil},
		{"paused becomes stopped", []Machine{with(started("a", time.Hour), func(m *Machine) { m.State, m.Autostop = api.StatePaused, api.AutostopStop })}, []Action{{"a", Stop}}},
		{"suspended becomes stopped", []Machine{with(started("a", time.Hour), func(m *Machine) { m.State, m.Autostop = api.StateSuspended, api.AutostopStop })}, []Action{{"a", Stop}}},
		{"suspended a moment ago", []Machine{with(started("a", time.Hour), func(m *Machine) {
			m.State, m.Autostop, m.Since = api.StateSuspended, api.AutostopStop, now.Add(-time.Minute)
		})}, nil},
		{"suspended for good", []Machine{with(started("a", time.Hour), func(m *Machine) { m.State = api.StateSuspended })}, nil},
		{"paused that suspends is left to the machine room", []Machine{with(started("a", time.Hour), func(m *Machine) { m.State = api.StatePaused })}, nil},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if got := Decide(c.machines, now, time.Minute, 5*time.Minute); !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

// A request that reaches the door first keeps the machine awake; otherwise the
// door says "asleep" only after the machine sleeps.
func TestActKeepsTheOrder(t *testing.T) {
	for _, wanted := range []bool{true, false} {
		h := &recorder{wanted: make(chan struct{})}
		if wanted {
			close(h.wanted)
		}
		New(Config{Host: h}).act(context.Background(), Action{"a", Pause})
		want := []string{"close", "pause", "commit", "cancel"}
		if wanted {
			want = []string{"close", "cancel"}
		}
		if !reflect.DeepEqual(h.calls, want) {
			t.Errorf("wanted %v: calls %v, want %v", wanted, h.calls, want)
		}
	}
}

// recorder writes down the order of the calls; the order is what is tested.
type recorder struct {
	mu     sync.Mutex
	calls  []string
	wanted chan struct{}
}

func (r *recorder) say(s string)                        { r.mu.Lock(); r.calls = append(r.calls, s); r.mu.Unlock() }
func (r *recorder) Machines() []Machine                 { return nil }
func (r *recorder) Close(string) (Door, bool)           { r.say("close"); return r, true }
func (r *recorder) Pause(context.Context, string) error { r.say("pause"); return nil }
func (r *recorder) Stop(context.Context, string) error  { r.say("stop"); return nil }
func (r *recorder) Wanted() <-chan struct{}             { return r.wanted }
func (r *recorder) Commit()                             { r.say("commit") }
func (r *recorder) Cancel()                             { r.say("cancel") }

// TestChooseAsksForNoMore: a node that has promised more than it has takes a
// machine that asks for none of it.
func TestChooseAsksForNoMore(t *testing.T) {
	full := []Node{{Name: "a", Region: "iad", Host: true, Up: true, FreeCPUs: -1, FreeMemoryMB: 100}}
	if at, err := Choose(full, Want{MemoryMB: 64}); at != "a" || err != nil {
		t.Errorf("a machine that asks for no CPU goes to %q: %v", at, err)
	}
	if at, err := Choose(full, Want{MemoryMB: 64, CPUs: 1}); err == nil {
		t.Errorf("a machine that asks for a CPU goes to %q", at)
	}
}

// TestOthersDoNotStandIn: a machine of another app is neither taken for a replacement
// nor condemned as one, whatever it says that it replaces.
func TestOthersDoNotStandIn(t *testing.T) {
	mv := Move{Machine: "x", App: "shop", Phase: Replaced, From: "a", To: "b", New: "y"}
	moves := map[string]Move{"x": mv}
	for app, want := range map[string]Verdict{"shop": Destroy, "other": Keep} {
		if got := Judge(Placed{ID: "z", App: app, Node: "b", Replaces: "x"}, moves); got != want {
			t.Errorf("a machine of app %q: %s, want %s", app, got, want)
		}
	}
	if got := Judge(Placed{ID: "z", App: "shop", Node: "b"}, map[string]Move{"": {Phase: Cancelled}}); got != Keep {
		t.Errorf("a machine that replaces none: %s", got)
	}

	s := &sim{nodes: map[string]*simNode{}, moves: map[string]MoveRecord{}, roots: map[string]string{}}
	b := &simNode{Node: Node{Name: "b", Region: "iad", Up: true}, state: "up", machines: map[string]Placed{}}
	s.nodes["b"] = b
	s.boot(b)
	mv.Phase, mv.New = Open, ""
	s.moves["x"] = MoveRecord{Move: mv}
	b.machines["z"] = Placed{ID: "z", App: "other", Node: "b", Replaces: "x"}
	id, err := b.daemon.healer.Make(t.Context(), mv, func(context.Context) (string, error) { return "new", nil })
	if id != "new" || err != nil {
		t.Errorf("made %q: %v", id, err)
	}
	b.machines["y"] = Placed{ID: "y", App: "shop", Node: "b", Replaces: "x"}
	id, err = b.daemon.healer.Make(t.Context(), mv, func(context.Context) (string, error) { return "one more", nil })
	if id != "y" || err != nil {
		t.Errorf("took %q: %v", id, err)
	}
}
