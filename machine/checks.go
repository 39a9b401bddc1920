package machine

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/machine/rules"
)

// The results of a check.
const (
	statusPassing  = "passing"
	statusWarning  = "warning"
	statusCritical = "critical"
)

const (
	defaultInterval = 15 * time.Second
	defaultTimeout  = 2 * time.Second
	defaultGrace    = time.Second
	// While a machine has not passed yet it is asked again soon, so that it is
	// known healthy when it is, and not an interval later.
	firstRetry   = 2 * time.Millisecond
	graceRetry   = 100 * time.Millisecond
	startupRetry = time.Second
)

// probe is one check of a machine with its defaults filled in.
type probe struct {
	name  string
	check api.Check
}

// probes lists a configuration's checks: those of services, in order, then the
// named ones.
func probes(c *api.MachineConfig) []probe {
	var out []probe
	for i, s := range c.Services {
		for _, ch := range s.Checks {
			orElse(&ch.Port, s.InternalPort)
			orElse(&ch.Type, "tcp")
			out = append(out, probe{fmt.Sprintf("servicecheck-%02d-%s-%d", i, ch.Type, ch.Port), ch})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Checks)) {
		ch := c.Checks[name]
		orElse(&ch.Port, rules.FirstPort(c))
		out = append(out, probe{name, ch})
	}
	for i := range out {
		ch := &out[i].check
		ch.Method, ch.Path, ch.Protocol = cmp.Or(ch.Method, "GET"), cmp.Or(ch.Path, "/"), cmp.Or(ch.Protocol, "http")
	}
	return out
}

// untested is the state of checks that have not been made.
func untested(probes []probe) []api.CheckStatus {
	var out []api.CheckStatus
	for _, p := range probes {
		out = append(out, api.CheckStatus{Name: p.name, Status: statusWarning, Output: "not checked yet", UpdatedAt: time.Now().UTC()})
	}
	return out
}

// passes reports whether all checks that count pass.
func (v *view) passes() bool {
	for i, c := range v.checks {
		if c.Status != statusPassing && v.probes[i].check.Kind != "informational" {
			return false
		}
	}
	return true
}

// runCheck makes one check again and again for as long as the life lasts. It
// rests while the machine does not run: a check never wakes a sleeper.
func (h *Host) runCheck(m *machine, l *life, i int, p probe) {
	passed, retry := false, firstRetry
	for m.awaitStarted(l.ctx) {
		before := m.now().since
		output, err := h.try(l.ctx, p, l.slot.IPv4)
		if v := m.now(); l.ctx.Err() != nil || v.rec.State != api.StateStarted || v.since != before {
			continue // it fell asleep meanwhile: the answer means nothing
		}
		inGrace := time.Since(l.began) < p.check.GracePeriod.Or(defaultGrace)
		m.setCheck(l, i, result(err, output, !passed && inGrace))
		passed = passed || err == nil
		wait := p.check.Interval.Or(defaultInterval)
		if !passed {
			wait = min(wait, retry)
			retry = min(2*retry, startupRetry)
			if inGrace {
				retry = min(retry, graceRetry)
			}
		}
		pause(l.ctx, wait)
	}
}

// awaitStarted returns when the machine runs; false when the life has ended.
func (m *machine) awaitStarted(ctx context.Context) bool {
	for {
		v, changed := m.next()
		if ctx.Err() != nil || v.rec.State == api.StateStarted {
			return ctx.Err() == nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

func result(err error, output string, lenient bool) api.CheckStatus {
	c := api.CheckStatus{Status: statusPassing, Output: output, UpdatedAt: time.Now().UTC()}
	switch {
	case err != nil && lenient:
		c.Status, c.Output = statusWarning, "within the grace period: "+err.Error()
	case err != nil:
		c.Status, c.Output = statusCritical, err.Error()
	}
	return c
}

// setCheck shows a result. Readers are told of what changed only.
func (m *machine) setCheck(l *life, i int, c api.CheckStatus) {
	v := m.now()
	if i >= len(v.checks) || v.rec.Sandbox != l.id {
		return // another life's
	}
	old := v.checks[i]
	if old.Status == c.Status && old.Output == c.Output {
		return
	}
	c.Name = old.Name
	m.show(func(v *view) {
		if i < len(v.checks) && v.rec.Sandbox == l.id {
			v.checks = slices.Clone(v.checks)
			v.checks[i] = c
		}
	})
	if old.Status == c.Status {
		return
	}
	if c.Status == statusCritical {
		m.say(fmt.Sprintf("check %s is critical: %s", c.Name, c.Output))
	}
	m.firstPass(l, old)
	if old.Status == statusCritical && c.Status == statusPassing {
		m.say(fmt.Sprintf("check %s passes again", c.Name))
	}
}

// firstPass notes how long a start took until all checks passed.
func (m *machine) firstPass(l *life, old api.CheckStatus) {
	if old.Status != statusWarning || !m.now().healthy {
		return
	}
	took := milliseconds(time.Since(l.began))
	m.show(func(v *view) { v.rec.amend("first_check_ms", took) })
	m.say(fmt.Sprintf("checks pass %v ms after the start", took))
}
