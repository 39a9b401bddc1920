package deploy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/app"
)

// defaultWrongFor is how long a check may be answered wrongly after its grace period
// before the machine is given up: the machine room asks every second at most
// then, so it is a few answers, not one.
const defaultWrongFor = 3 * time.Second

// defaultLag is how long a line takes to get from the machine to the log, at most.
const defaultLag = 100 * time.Millisecond

// lastLines is how many of the app's own lines an error carries.
const lastLines = 20

// await returns when the machine is fit to be admitted, and as soon as it is
// clear that it will not be.
func (d *Deployer) await(ctx context.Context, w *work, r *app.Release, s Step) error {
	began := time.Now()
	err := d.healthy(ctx, w, r, s.ID)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return d.unfit(ctx, w, r, s, err)
	}
	w.machine(s.ID, "%s: machine %s is healthy after %s", s.Group, s.ID, time.Since(began).Round(time.Millisecond))
	return nil
}

func (d *Deployer) healthy(ctx context.Context, w *work, r *app.Release, id string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, or(r.Job.WaitTimeout, d.cfg.WaitTimeout), errTimeout)
	defer cancel()
	m, err := d.cfg.Machines.Get(ctx, id)
	if err != nil {
		return err
	}
	switch m.State {
	case api.StateCreated, api.StatePaused, api.StateSuspended: // not one that ended: its exit is the answer
		if _, err := d.cfg.Machines.Start(ctx, id, ""); err != nil {
			return err
		}
	}
	if hasChecks(m.Config) {
		return d.checksPass(ctx, id)
	}
	if len(m.Config.Services) > 0 {
		return d.portsOpen(ctx, w, r, m)
	}
	return d.staysUp(ctx, id)
}

var errTimeout = errors.New("the time to become healthy is over")

func hasChecks(c *api.MachineConfig) bool {
	return len(c.Checks) > 0 || slices.ContainsFunc(c.Services, func(s api.Service) bool { return len(s.Checks) > 0 })
}

// checksPass waits for the machine's checks, but not for one that is answered,
// and answered wrongly.
func (d *Deployer) checksPass(ctx context.Context, id string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		if why := d.wrong(ctx, id); why != "" {
			cancel(errors.New(why))
		}
	}()
	err := d.cfg.Machines.WaitHealthy(ctx, id)
	cause := context.Cause(ctx)
	cancel(nil)
	<-watched
	if err != nil && cause != nil && !errors.Is(cause, errTimeout) && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return err
}

// wrong returns in words which check has been answered wrongly for too long;
// "" when ctx ends first.
func (d *Deployer) wrong(ctx context.Context, id string) string {
	ctx, cancel := context.WithCancel(ctx)
	changes := d.cfg.Machines.Changes(ctx)
	defer func() {
		cancel()
		for range changes {
		}
	}()
	since := time.NewTimer(d.cfg.wrongFor)
	since.Stop()
	words := ""
	for {
		select {
		case got, ok := <-changes:
			if !ok {
				return ""
			}
			if got != id {
				continue
			}
			now := d.wrongCheck(ctx, id)
			if now == "" {
				since.Stop()
			} else if words == "" {
				since.Reset(d.cfg.wrongFor)
			}
			words = now
		case <-since.C:
			return words
		case <-ctx.Done():
			return ""
		}
	}
}

func (d *Deployer) wrongCheck(ctx context.Context, id string) string {
	m, err := d.cfg.Machines.Get(ctx, id)
	if err != nil {
		return ""
	}
	for _, c := range m.Checks {
		if c.Status == "critical" && strings.Contains(c.Output, " answered ") {
			return fmt.Sprintf("check %s: %s", c.Name, c.Output)
		}
	}
	return ""
}

// portsOpen waits until the machine accepts connections on its services' ports:
// the check that everyone has who names none.
func (d *Deployer) portsOpen(ctx context.Context, w *work, r *app.Release, m api.Machine) error {
	if r.Job.WaitTimeout == 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, d.cfg.PortTimeout, errTimeout)
		defer cancel()
	}
	return d.unlessEnds(ctx, m.ID, func(ctx context.Context) error {
		slow := time.AfterFunc(portWarning, func() { w.warn("%s", portWords(m)) })
		defer slow.Stop()
		return d.cfg.Machines.WaitPorts(ctx, m.ID)
	})
}

// portWarning is how long a machine may not listen before its owner is told.
const portWarning = 10 * time.Second

func portWords(m api.Machine) string {
	var ports []string
	for _, s := range m.Config.Services {
		ports = append(ports, strconv.Itoa(s.InternalPort))
	}
	p := strings.Join(ports, " and ")
	return fmt.Sprintf("machine %s runs, but does not accept connections on port %s yet; the app must listen on 0.0.0.0 or [::], not on localhost", m.ID, p)
}

// unlessEnds runs f, whose context ends when the machine's process does.
func (d *Deployer) unlessEnds(ctx context.Context, id string, f func(context.Context) error) error {
	run, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if why := d.ends(run, id); why != nil {
			cancel(why)
		}
	}()
	err := f(run)
	cause := context.Cause(run)
	cancel(nil)
	<-ended
	var e *endedError
	if errors.As(cause, &e) {
		return cause
	}
	return err
}

// endedError says that the machine's process ended.
type endedError struct{ state, standing string }

// Error says so in words.
func (e *endedError) Error() string {
	if e.standing != "" {
		return e.standing
	}
	return "it is " + e.state
}

// ends returns when the machine does not run any more; nil when ctx ends first.
func (d *Deployer) ends(ctx context.Context, id string) error {
	ctx, cancel := context.WithCancel(ctx)
	changes := d.cfg.Machines.Changes(ctx)
	defer func() {
		cancel()
		for range changes {
		}
	}()
	for got := range changes {
		if got != id {
			continue
		}
		if err := d.ended(ctx, id); err != nil && ctx.Err() == nil {
			return err
		}
	}
	return nil
}

// ended is an endedError if the machine does not run any more.
func (d *Deployer) ended(ctx context.Context, id string) error {
	m, err := d.cfg.Machines.Get(ctx, id)
	if err != nil {
		return err
	}
	switch m.State {
	case api.StateStopped, api.StateFailed, api.StateRestarting, api.StateDestroyed, api.StateDestroying:
		return &endedError{m.State, m.Standing}
	}
	return nil
}

// staysUp is for machines that offer nothing which could be tried. One that has
// done its work and ended well is as it should be.
func (d *Deployer) staysUp(ctx context.Context, id string) error {
	err := d.unlessEnds(ctx, id, func(ctx context.Context) error {
		select {
		case <-time.After(d.cfg.Settle):
		case <-ctx.Done():
		}
		return d.ended(ctx, id)
	})
	var e *endedError
	if errors.As(err, &e) && e.state == api.StateStopped {
		if x := d.lastExit(context.WithoutCancel(ctx), id); x != nil && x.ExitCode == 0 && !x.OOMKilled {
			return nil
		}
	}
	return err
}

func (d *Deployer) lastExit(ctx context.Context, id string) *api.ExitEvent {
	m, err := d.cfg.Machines.Get(ctx, id)
	if err != nil {
		return nil
	}
	for _, e := range m.Events {
		if e.Request != nil && e.Request.ExitEvent != nil {
			return e.Request.ExitEvent
		}
	}
	return nil
}

// unfit makes the error of a machine that is not to be admitted: what it did,
// and what it said last.
func (d *Deployer) unfit(ctx context.Context, w *work, r *app.Release, s Step, why error) error {
	e := api.Errorf(api.CodeDeployFailed, "release %s failed: machine %s of process group %q is not healthy: %v", version(r.Version), s.ID, s.Group, why)
	if x := d.lastExit(ctx, s.ID); x != nil && !x.RequestedStop {
		e.Message = fmt.Sprintf("release %s failed: machine %s of process group %q %s", version(r.Version), s.ID, s.Group, exitWords(x))
	}
	e.Hint = api.AsError(why).Hint
	e.Logs = d.said(ctx, r.App, s.ID)
	for _, l := range e.Logs {
		w.tell(api.Progress{Kind: "log", ID: s.ID, Message: l})
	}
	return e
}

func exitWords(x *api.ExitEvent) string {
	switch {
	case x.OOMKilled:
		return "ran out of memory and was killed; give it more with guest.memory_mb"
	case x.GuestSignal != 0:
		return fmt.Sprintf("was ended by signal %d (exit code %d)", x.GuestSignal, x.ExitCode)
	}
	return fmt.Sprintf("exited with code %d", x.ExitCode)
}

// said returns the app's last lines. They arrive a moment after they are
// written, so they are read until they do not grow any more.
func (d *Deployer) said(ctx context.Context, name, id string) []string {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	var last []string
	for try := range 6 {
		lines := d.lines(ctx, name, id)
		if try > 0 && len(lines) > 0 && slices.Equal(lines, last) {
			break
		}
		last = lines
		select {
		case <-time.After(d.cfg.lag):
		case <-ctx.Done():
			return last
		}
	}
	return last
}

func (d *Deployer) lines(ctx context.Context, name, id string) []string {
	var out []string
	for l, err := range d.cfg.Logs.Logs(ctx, name, api.LogQuery{Machine: id, Lines: 2 * lastLines}) {
		if err != nil {
			d.cfg.Logger.Debug("cannot read a machine's last lines", "machine", id, "error", err)
			break
		}
		if l.Source != "platform" {
			out = append(out, l.Text)
		}
	}
	return out[max(0, len(out)-lastLines):]
}
