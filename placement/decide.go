package placement

import (
	"sort"
	"time"

	"github.com/perigee-run/perigee/api"
)

// Machine is what the decision looks at.
type Machine struct {
	ID, App, Group string
	// State is one of api's states; only started, paused and suspended machines
	// matter.
	State string
	// Since is when the state began.
	Since time.Time
	// Idle is the time of the latest request's end, zero if there was none.
	Idle time.Time
	// Busy says that a request is in progress.
	Busy bool
	// Healthy says that all checks pass; a machine that is still finding its
	// feet is not put to sleep.
	Healthy bool
	// Autostop says what becomes of the machine when it is idle.
	Autostop api.Autostop
	// MinRunning machines of the app's group stay awake.
	MinRunning int
}

// Verb is what to do to a machine.
type Verb string

// The verbs of [Decide].
const (
	Pause Verb = "pause"
	Stop  Verb = "stop"
)

// Action is one decision.
type Action struct {
	Machine string
	Do      Verb
}

// Decide says which machines should go to sleep now. Of each group the ones
// idle longest go first, and MinRunning stay awake.
func Decide(machines []Machine, now time.Time, pauseAfter, stopAfter time.Duration) []Action {
	var actions []Action
	for _, group := range groups(machines) {
		awake := 0
		for _, m := range group {
			if m.State == api.StateStarted {
				awake++
			}
		}
		for _, m := range group {
			switch {
			case asleepLongEnough(m, now, stopAfter):
				actions = append(actions, Action{m.ID, Stop})
			case awake > m.MinRunning && mayPause(m, now, pauseAfter):
				actions = append(actions, Action{m.ID, Pause})
				awake--
			}
		}
	}
	return actions
}

func mayPause(m Machine, now time.Time, after time.Duration) bool {
	return m.State == api.StateStarted && sleeps(m) && !m.Busy && m.Healthy && now.Sub(m.idleSince()) >= after
}

func asleepLongEnough(m Machine, now time.Time, after time.Duration) bool {
	sleeps := m.State == api.StatePaused || m.State == api.StateSuspended // the latter for want of memory
	return sleeps && m.Autostop == api.AutostopStop && now.Sub(m.Since) >= after
}

func sleeps(m Machine) bool {
	return m.Autostop == api.AutostopStop || m.Autostop == api.AutostopSuspend
}

// idleSince is the later of the last request's end and the start.
func (m Machine) idleSince() time.Time {
	if m.Idle.After(m.Since) {
		return m.Idle
	}
	return m.Since
}

// groups splits machines by app and process group, each idle longest first.
func groups(machines []Machine) [][]Machine {
	by := map[string][]Machine{}
	var keys []string
	for _, m := range machines {
		k := m.App + "/" + m.Group
		if by[k] == nil {
			keys = append(keys, k)
		}
		by[k] = append(by[k], m)
	}
	sort.Strings(keys)
	out := make([][]Machine, len(keys))
	for i, k := range keys {
		g := by[k]
		sort.Slice(g, func(a, b int) bool {
			if ta, tb := g[a].idleSince(), g[b].idleSince(); !ta.Equal(tb) {
				return ta.Before(tb)
			}
			return g[a].ID < g[b].ID
		})
		out[i] = g
	}
	return out
}
