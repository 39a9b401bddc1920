package machine

import (
	"slices"
	"time"

	"github.com/perigee-run/perigee/api"
)

// timetable starts machines that nobody asks for: those whose schedule says so, and
// those that stand by for others whose node is lost.
func (h *Host) timetable() {
	for pause(h.ctx, h.cfg.every) {
		for _, m := range h.all() {
			switch c := &m.now().rec.Config; {
			case c.Schedule != "":
				h.keepSchedule(m)
			case len(c.Standbys) > 0:
				h.keepStandby(m)
			}
		}
	}
}

// next is when a machine with the schedule, made at made, is due after it was at last.
func next(schedule string, made, last time.Time) time.Time {
	switch schedule {
	case "hourly":
		return last.Add(time.Hour)
	case "daily":
		return last.AddDate(0, 0, 1)
	case "weekly":
		return last.AddDate(0, 0, 7)
	}
	n := 12*(last.Year()-made.Year()) + int(last.Month()-made.Month())
	at := monthsAfter(made, n)
	for ; !at.After(last); n++ {
		at = monthsAfter(made, n+1)
	}
	return at
}

// monthsAfter is the same day n months later, or the last one of a month that is too
// short for it. Counted from the first time, the 31st comes back after it.
func monthsAfter(t time.Time, n int) time.Time {
	first := t.AddDate(0, 0, 1-t.Day()).AddDate(0, n, 0)
	return first.AddDate(0, 0, min(t.Day(), first.AddDate(0, 1, -1).Day())-1)
}

// scheduled is the turn that the machine had last; its creation counts as one.
func scheduled(r *Record) time.Time {
	if r.Scheduled.IsZero() {
		return r.CreatedAt
	}
	return r.Scheduled
}

// lastTurn is the newest turn that is due by now, so that a turn that comes late does
// not move those after it.
func lastTurn(r *Record, now time.Time) time.Time {
	last := scheduled(r)
	for at := next(r.Config.Schedule, r.CreatedAt, last); !now.Before(at); at = next(r.Config.Schedule, r.CreatedAt, at) {
		last = at
	}
	return last
}

// keepSchedule starts the machine if it is due. One that still runs misses its turn,
// and what was missed while the node was away is made up for once.
func (h *Host) keepSchedule(m *machine) {
	due := func() bool {
		r := &m.now().rec
		return lastTurn(r, h.cfg.clock()).After(scheduled(r)) && m.admits("") == nil
	}
	h.ifStill(m, due, func() {
		m.record(func(v *view) { v.rec.Scheduled = lastTurn(&v.rec, h.cfg.clock()).UTC() })
		if m.now().asleep() {
			h.relaunch(m)
		}
		m.syncOrLog(h.ctx)
	})
}

// asleep reports whether the machine is not up, and is not about to be.
func (v *view) asleep() bool {
	return slices.Contains([]string{api.StateCreated, api.StateStopped, api.StateFailed}, v.rec.State)
}

// keepStandby starts the machine when one that it stands by for is lost with its node,
// once for each, so that who stops it then is obeyed; and stops what it started when all
// are back, or others have taken their place.
func (h *Host) keepStandby(m *machine) {
	fallen := []string{}
	for _, id := range m.now().rec.Config.Standbys {
		if h.cfg.Fallen(m.now().rec.App, id) {
			fallen = append(fallen, id)
		}
	}
	fresh := func() bool {
		return slices.ContainsFunc(fallen, func(id string) bool { return !slices.Contains(m.now().rec.StandsFor, id) })
	}
	switch {
	case fresh():
		h.ifStill(m, func() bool { return fresh() && m.admits("") == nil }, func() {
			h.standUp(m, fallen)
		})
	case len(fallen) == 0 && len(m.now().rec.StandsFor) > 0:
		h.ifStill(m, func() bool { return m.admits("") == nil }, func() { h.standDown(m) })
	}
}

func (h *Host) standUp(m *machine, fallen []string) {
	m.record(func(v *view) {
		v.rec.StandsFor = fallen // also where it runs already: who stops it is obeyed
		v.rec.Raised = v.rec.Raised || v.asleep()
	})
	if m.now().asleep() {
		h.relaunch(m)
		m.record(func(v *view) { v.rec.Raised = !v.asleep() })
	}
	m.syncOrLog(h.ctx)
}

func (h *Host) standDown(m *machine) {
	raised := m.now().rec.Raised
	m.record(func(v *view) { v.rec.StandsFor, v.rec.Raised = nil, false })
	if raised && !m.now().asleep() {
		hg := m.stopping(api.StopRequest{}, byNode)
		hg.standing = "those that it stands by for are back"
		if err := h.halt(h.ctx, m, hg); err != nil {
			h.log.Error("cannot stop a standby machine", "machine", m.id, "error", err)
		}
	}
	m.syncOrLog(h.ctx)
}

// maxUnbidden is how many machines the timetable starts or stops at a time: all that are
// due at the full hour are not to come at once.
const maxUnbidden = 16

// ifStill does something in the background with the machine's turn, if it is still so
// then. One that is busy, or for which there is no place left, is looked at again later:
// the others are not to wait for those that are slow.
func (h *Host) ifStill(m *machine, so func() bool, do func()) {
	if !so() || m.now().gone {
		return
	}
	select {
	case h.unbidden <- struct{}{}:
	default:
		return
	}
	leave := func() { <-h.unbidden }
	if !m.tryTake() {
		leave()
		return
	}
	going := h.spawn(func() {
		defer leave()
		defer m.give()
		if h.ctx.Err() == nil && !m.now().gone && so() {
			do()
		}
	})
	if !going {
		m.give()
		leave()
	}
}
