package machine

import (
	"bufio"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/perigee-run/perigee/api"
)

// sink lets paused machines sink to disk: those paused for long, unless they
// are to be stopped instead, and, while the node is short of memory, the one that
// has slept longest.
func (h *Host) sink() {
	for pause(h.ctx, h.sinkEvery()) {
		short := memoryMB("MemAvailable") < h.cfg.MinFreeMB
		for _, m := range h.sleepers() {
			old := h.cfg.SinkAfter > 0 && time.Since(m.now().since) >= h.cfg.SinkAfter
			if !short && !old {
				break // they are sorted: the others are younger
			}
			if !short && m.now().rec.stops() {
				continue
			}
			if h.sinkOne(m) {
				short = short && memoryMB("MemAvailable") < h.cfg.MinFreeMB
			}
		}
	}
}

func (h *Host) sinkEvery() time.Duration {
	if h.cfg.SinkAfter <= 0 {
		return 5 * time.Second
	}
	return min(max(h.cfg.SinkAfter/10, 100*time.Millisecond), 5*time.Second)
}

// sleepers are the paused machines, those that sleep longest first.
func (h *Host) sleepers() []*machine {
	var out []*machine
	for _, m := range h.all() {
		if m.now().rec.State == api.StatePaused {
			out = append(out, m)
		}
	}
	slices.SortFunc(out, func(a, b *machine) int { return a.now().since.Compare(b.now().since) })
	return out
}

// stops reports whether the configuration wants the machine stopped when it is
// idle. Placement does that in its own time: a snapshot before would be for
// nothing.
func (r *Record) stops() bool {
	stop := false
	for _, s := range r.Config.Services {
		if s.Autostop == nil || *s.Autostop == "" || *s.Autostop == api.AutostopOff {
			return false
		}
		stop = stop || *s.Autostop == api.AutostopStop
	}
	return stop && !r.Cordoned // placement does not look at one that is cordoned
}

// sinkOne suspends a paused machine that can be.
func (h *Host) sinkOne(m *machine) bool {
	if m.take(h.ctx) != nil {
		return false
	}
	defer m.give()
	if m.now().rec.State != api.StatePaused || m.life.noSnapshot || m.admits("") != nil {
		return false
	}
	err := h.suspend(h.ctx, m, byNode, true)
	if err != nil && !api.IsCode(err, api.CodeConflict) {
		h.log.Warn("machine stays paused", "machine", m.id, "error", err)
	}
	return err == nil
}

// memoryMB reads a figure of /proc/meminfo; 0 if it cannot.
func memoryMB(figure string) int {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		name, rest, _ := strings.Cut(s.Text(), ":")
		if name == figure {
			kb, _ := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(rest), " kB"))
			return kb >> 10
		}
	}
	return 0
}
