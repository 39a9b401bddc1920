package deploy

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/app"
)

// old and fresh make machines of release 1 and of the new release 2.
func old(id, group string) Have { return Have{ID: id, Group: group, Release: 1, State: "started"} }

func fresh(id, group string) Have {
	return Have{ID: id, Group: group, Release: 2, State: "started", Cordoned: true}
}

func live(id, group string) Have { return Have{ID: id, Group: group, Release: 2, State: "started"} }

// nowhere is counts of a cloud that has one region without a name.
func nowhere(counts map[string]int) map[Slot]int {
	out := map[Slot]int{}
	for g, n := range counts {
		out[Slot{Group: g}] = n
	}
	return out
}

func with(h Have, edit func(*Have)) Have {
	edit(&h)
	return h
}

func TestPlan(t *testing.T) {
	mounted := func(h Have) Have { return with(h, func(h *Have) { h.Mounted = true }) }
	asleep := func(h Have) Have { return with(h, func(h *Have) { h.State = "suspended" }) }
	out := func(h Have) Have { return with(h, func(h *Have) { h.State, h.Cordoned = "stopped", true }) }
	web := func(n int) map[string]int { return map[string]int{"web": n} }
	for _, c := range []struct {
		name     string
		strategy string
		max      float64
		counts   map[string]int
		have     []Have
		want     string
	}{
		{"first machine", Rolling, .33, web(1), nil, "create web"},
		{"first three, one at a time", Rolling, .33, web(3), nil, "create web"},
		{"first three, two at a time", Rolling, 2, web(3), nil, "create web, create web"},
		{"batch is filled up after a crash", Rolling, 2, web(3), []Have{fresh("n1", "web")}, "create web"},
		{"batch is full", Rolling, 1, web(3), []Have{fresh("n1", "web")}, "admit n1"},
		{"one beside the other", Rolling, .33, web(1), []Have{old("o1", "web")}, "create web"},
		{"admitted, then the old goes", Rolling, .33, web(1), []Have{old("o1", "web"), live("n1", "web")}, "retire o1"},
		{"stands", Rolling, .33, web(1), []Have{out(old("o1", "web")), live("n1", "web")}, ""},
		{"old one cordoned, not stopped yet", Rolling, .33, web(1), []Have{with(old("o1", "web"), func(h *Have) { h.Cordoned = true }), live("n1", "web")}, "retire o1"},
		{"as many old go as new stand", Rolling, .33, web(3), []Have{old("o1", "web"), old("o2", "web"), old("o3", "web"), live("n1", "web")}, "create web"},
		{"sleepers go first", Rolling, 3, web(2), []Have{old("o1", "web"), asleep(old("o2", "web")), live("n1", "web"), live("n2", "web")}, "retire o2, retire o1"},
		{"scale down", Rolling, .33, web(1), []Have{old("o1", "web"), old("o2", "web"), live("n1", "web")}, "retire o1, retire o2"},
		{"to nothing", Rolling, .33, web(0), []Have{old("o1", "web")}, "retire o1"},
		{"a group that is gone, last", Rolling, .33, web(1), []Have{old("a1", "api"), live("n1", "web")}, "retire a1"},
		{"groups one after the other", Rolling, .33, map[string]int{"web": 1, "api": 1}, nil, "create api"},
		{"canary: one first", Canary, 3, web(3), []Have{old("o1", "web")}, "create web"},
		{"canary: then as rolling", Canary, 2, web(3), []Have{live("n1", "web")}, "create web, create web"},
		{"bluegreen: all beside", BlueGreen, 1, map[string]int{"web": 2, "api": 1}, []Have{old("o1", "web")}, "create api, create web, create web"},
		{"bluegreen: switch at once", BlueGreen, 1, web(2), []Have{old("o1", "web"), old("o2", "web"), fresh("n1", "web"), fresh("n2", "web")}, "admit n1, admit n2"},
		{"immediate", Immediate, 1, web(2), nil, "create web, create web"},
		{"volume: in place", Rolling, 1, web(2), []Have{mounted(old("o1", "web")), mounted(old("o2", "web"))}, "update o1"},
		{"volume: second after the first", Rolling, 1, web(2), []Have{mounted(live("o1", "web")), mounted(old("o2", "web"))}, "update o2"},
		{"kept", Rolling, 1, web(3), []Have{with(old("o1", "web"), func(h *Have) { h.Kept = true })}, "create web"},
		{"kept and enough", Rolling, 1, web(1), []Have{with(old("o1", "web"), func(h *Have) { h.Kept = true })}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			goal := Goal{Release: 2, Strategy: c.strategy, MaxUnavailable: c.max, Counts: nowhere(c.counts)}
			if got := inWords(Plan(goal, c.have)); got != c.want {
				t.Errorf("plan = %q, want %q", got, c.want)
			}
		})
	}
}

func inWords(steps []Step) string {
	s := ""
	for i, st := range steps {
		if i > 0 {
			s += ", "
		}
		if st.ID == "" {
			st.ID = st.Group
		}
		s += string(st.Do) + " " + st.ID
	}
	return s
}

// TestPlanArrives lets the planner work on a model, from many beginnings, and
// checks that it arrives and that there are always enough machines that serve.
func TestPlanArrives(t *testing.T) {
	for _, strategy := range []string{Rolling, Canary, BlueGreen, Immediate} {
		for _, m := range []float64{.33, .5, 1, 2} {
			for from := range 5 {
				for to := range 5 {
					for _, mounts := range []bool{false, true} {
						name := fmt.Sprintf("%s/%v/%d-%d/%v", strategy, m, from, to, mounts)
						t.Run(name, func(t *testing.T) { arrive(t, strategy, m, from, to, mounts) })
					}
				}
			}
		}
	}
}

func arrive(t *testing.T, strategy string, m float64, from, to int, mounts bool) {
	goal := Goal{Release: 2, Strategy: strategy, MaxUnavailable: m, Counts: nowhere(map[string]int{"web": to})}
	model := map[string]Have{}
	before := map[string]app.Before{}
	for i := range from {
		h := with(old(fmt.Sprint("o", i), "web"), func(h *Have) { h.Mounted = mounts })
		model[h.ID], before[h.ID] = h, app.Before{Release: 1, State: "started"}
	}
	history := []map[string]Have{maps.Clone(model)}
	for range 100 {
		steps := Plan(goal, sorted(model))
		if len(steps) == 0 {
			break
		}
		for _, s := range steps {
			perform(model, s)
			if n := serving(model); !mounts && n < min(from, to) {
				t.Fatalf("only %d serve after %v", n, s)
			}
			history = append(history, maps.Clone(model))
		}
	}
	for _, s := range Leftover(goal, sorted(model)) {
		perform(model, s)
	}
	if n := serving(model); n != to || len(model) != to {
		t.Errorf("arrived at %d serving of %d machines, want %d", n, len(model), to)
	}
	for i, was := range history {
		undone(t, i, was, before)
	}
}

// undone checks that what there was comes back from any point on the way.
func undone(t *testing.T, i int, model map[string]Have, before map[string]app.Before) {
	for range 100 {
		steps := UndoPlan(2, before, sorted(model))
		if len(steps) == 0 {
			break
		}
		for _, s := range steps {
			perform(model, s)
		}
	}
	if len(model) != len(before) || serving(model) != len(before) {
		t.Errorf("undo from point %d: %v", i, model)
	}
	for id := range model {
		if _, ok := before[id]; !ok || model[id].Release != 1 {
			t.Errorf("undo from point %d left %v", i, model[id])
		}
	}
}

func sorted(model map[string]Have) []Have {
	var out []Have
	for _, id := range slices.Sorted(maps.Keys(model)) {
		out = append(out, model[id])
	}
	return out
}

func serving(model map[string]Have) int {
	n := 0
	for _, h := range model {
		if !h.Cordoned && h.State == api.StateStarted {
			n++
		}
	}
	return n
}

// perform is what a step does to the model.
func perform(model map[string]Have, s Step) {
	h := model[s.ID]
	switch s.Do {
	case Create:
		h = with(fresh(fmt.Sprint("n", len(model)), s.Group), func(h *Have) { h.Region = s.Region })
	case Update:
		h.Release, h.Cordoned = 2, true
	case Revert:
		h.Release = 1
	case Admit:
		h.Cordoned = false
	case Revive:
		h.Cordoned, h.State = false, api.StateStarted
	case Retire:
		h.Cordoned, h.State = true, api.StateStopped
	case Remove:
		delete(model, s.ID)
		return
	}
	model[h.ID] = h
}
