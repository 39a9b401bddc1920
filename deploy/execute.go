package deploy

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strconv"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/app"
	"golang.org/x/sync/errgroup"
)

// The phases of a release. From each one, Run goes on after a crash.
const (
	phaseCommand = ""        // the release command has not ended well yet
	phaseRollout = "rollout" // Plan's steps
	phaseCleanup = "cleanup" // it stands: what is left over goes
	phaseUndo    = "undo"    // it failed: back to what was before
)

// parallel is how many machines are worked on at a time.
const parallel = 4

// carryOut takes a release from the phase it is in to its end.
func (d *Deployer) carryOut(ctx context.Context, w *work, r app.Release) (api.Release, error) {
	var failure error
	if r.Job.Phase != phaseUndo {
		failure = d.forward(ctx, w, &r)
		if ctx.Err() != nil || closing(failure) { // nothing has failed: the next Run goes on
			return r.Release, errClosing()
		}
		if failure == nil {
			return r.Release, nil
		}
		if err := d.giveUp(ctx, w, &r, failure); err != nil {
			return r.Release, err
		}
	}
	if err := d.undo(ctx, w, &r); err != nil {
		return r.Release, err
	}
	if failure == nil { // it failed before a restart
		failure = api.Errorf(api.CodeDeployFailed, "%s", r.Reason)
	}
	return r.Release, failure
}

// forward goes through the phases of a release that has not failed.
func (d *Deployer) forward(ctx context.Context, w *work, r *app.Release) error {
	if r.Job.Phase == phaseCommand {
		if err := d.releaseCommand(ctx, w, r); err != nil {
			return err
		}
		if err := d.enter(ctx, r, phaseRollout); err != nil {
			return err
		}
	}
	if r.Job.Phase == phaseRollout {
		if err := d.rollout(ctx, w, r); err != nil {
			return err
		}
		if err := d.enter(ctx, r, phaseCleanup); err != nil {
			return err
		}
	}
	d.cleanup(ctx, w, r)
	return d.finish(ctx, w, r, api.ReleaseComplete)
}

// enter writes down that the release got so far.
func (d *Deployer) enter(ctx context.Context, r *app.Release, phase string) error {
	r.Job.Phase = phase
	return d.cfg.Apps.SaveRelease(ctx, *r)
}

// finish ends the release. Its plan is not needed any more.
func (d *Deployer) finish(ctx context.Context, w *work, r *app.Release, status string) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	now := time.Now().UTC()
	r.Status, r.FinishedAt, r.Job = status, &now, app.Job{}
	if err := d.cfg.Apps.SaveRelease(ctx, *r); err != nil {
		return err
	}
	d.cfg.Logger.Info("release ended", "app", r.App, "release", r.Version, "status", status, "reason", r.Reason)
	if status == api.ReleaseComplete {
		shown := r.Release
		w.tell(api.Progress{Kind: "done", Message: "release " + version(r.Version) + " is complete", Release: &shown})
	}
	return nil
}

// rollout plans and acts until nothing is left to do.
func (d *Deployer) rollout(ctx context.Context, w *work, r *app.Release) error {
	goal := goalOf(r)
	// Each machine takes at most four steps; more means that something, or
	// somebody, takes apart what is being built.
	limit := 20 + 4*(len(r.Job.Before)+total(r.Counts))
	for range limit {
		steps := Plan(goal, d.have(r))
		if len(steps) == 0 {
			return nil
		}
		if err := d.batch(ctx, w, r, steps); err != nil {
			return err
		}
	}
	return api.Errorf(api.CodeDeployFailed, "release %s does not come to stand: its machines are changed or destroyed by others meanwhile", version(r.Version))
}

// cleanup removes what the release does not need. What cannot be removed is no
// failure of a release that stands: it is cordoned, and the next one removes it.
func (d *Deployer) cleanup(ctx context.Context, w *work, r *app.Release) {
	for _, s := range Leftover(goalOf(r), d.have(r)) {
		if err := d.do(ctx, w, r, s); err != nil && ctx.Err() == nil {
			w.warn("cannot remove machine %s of an earlier release: %v", s.ID, err)
		}
	}
}

func goalOf(r *app.Release) Goal {
	return Goal{Release: r.Version, Strategy: r.Strategy, MaxUnavailable: r.Job.MaxUnavailable, Counts: r.Counts}
}

func total(counts map[string]int) int {
	n := 0
	for _, c := range counts {
		n += c
	}
	return n
}

// have is the app's machines as the planner sees them.
func (d *Deployer) have(r *app.Release) []Have {
	var out []Have
	for _, m := range d.managed(r.App) {
		h := Have{ID: m.ID, Group: groupOf(m), State: m.State, Release: releaseOf(m), Cordoned: m.Cordoned, Mounted: len(m.Config.Mounts) > 0}
		if c, ok := r.Groups[h.Group]; ok && r.Job.Keep {
			h.Kept = h.Release != r.Version && same(m.Config, config(r, h.Group, c))
		}
		out = append(out, h)
	}
	return out
}

// same reports whether two configurations differ in the release's number only.
func same(a, b *api.MachineConfig) bool {
	return text(a) == text(b)
}

func text(c *api.MachineConfig) string {
	d := *c
	d.Metadata = maps.Clone(c.Metadata)
	delete(d.Metadata, metaRelease)
	b, _ := json.Marshal(d) // a map of strings and plain structs
	return string(b)
}

// config is what a machine of the group is to be.
func config(r *app.Release, group string, c api.MachineConfig) *api.MachineConfig {
	c.Image = r.Image
	c.Metadata = maps.Clone(c.Metadata)
	if c.Metadata == nil {
		c.Metadata = map[string]string{}
	}
	c.Metadata[metaGroup], c.Metadata[metaPlatform], c.Metadata[metaRelease] = group, "v2", strconv.Itoa(r.Version)
	return &c
}

// batch does steps at the same time. Machines of one batch are admitted
// together, when all of them are healthy.
func (d *Deployer) batch(ctx context.Context, w *work, r *app.Release, steps []Step) error {
	if steps[0].Do == Admit && r.Strategy != Immediate {
		if err := d.each(ctx, steps, func(ctx context.Context, s Step) error { return d.await(ctx, w, r, s) }); err != nil {
			return err
		}
	}
	return d.each(ctx, steps, func(ctx context.Context, s Step) error { return d.do(ctx, w, r, s) })
}

func (d *Deployer) each(ctx context.Context, steps []Step, do func(context.Context, Step) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, s := range steps {
		g.Go(func() error { return do(ctx, s) })
	}
	return g.Wait()
}

// do carries out one step. Each may be repeated.
func (d *Deployer) do(ctx context.Context, w *work, r *app.Release, s Step) error {
	switch s.Do {
	case Create:
		return d.create(ctx, w, r, s.Group)
	case Update:
		return d.update(ctx, w, r, s)
	case Admit:
		return d.cfg.Machines.Uncordon(ctx, s.ID, "")
	case Retire:
		return d.retire(ctx, w, s)
	case Remove:
		return d.remove(ctx, w, s)
	case Revive:
		return d.revive(ctx, w, r, s)
	case Revert:
		return d.revert(ctx, w, r, s)
	}
	return fmt.Errorf("there is no step %q", s.Do)
}

func (d *Deployer) create(ctx context.Context, w *work, r *app.Release, group string) error {
	m, err := d.cfg.Machines.Create(ctx, r.App, api.CreateMachineRequest{
		Config: config(r, group, r.Groups[group]), Release: r.Version, SkipServiceRegistration: true,
	})
	if err != nil {
		return wrap(err, "process group %q: cannot create a machine", group)
	}
	w.machine(m.ID, "%s: machine %s made", group, m.ID)
	return nil
}

func (d *Deployer) update(ctx context.Context, w *work, r *app.Release, s Step) error {
	w.machine(s.ID, "%s: machine %s has a volume: updated in place", s.Group, s.ID)
	if err := d.cordon(ctx, s.ID); err != nil {
		return err
	}
	_, err := d.cfg.Machines.Update(ctx, s.ID, api.CreateMachineRequest{Config: config(r, s.Group, r.Groups[s.Group]), Release: r.Version}, "")
	if err != nil {
		return wrap(err, "process group %q: cannot update machine %s", s.Group, s.ID)
	}
	return nil
}

// cordon keeps new requests away and lets those in flight end.
func (d *Deployer) cordon(ctx context.Context, id string) error {
	if err := d.cfg.Machines.Cordon(ctx, id, ""); err != nil {
		return err
	}
	drain, cancel := context.WithTimeout(ctx, d.cfg.DrainTimeout)
	defer cancel()
	if err := d.cfg.Router.Drained(drain, id); err != nil && ctx.Err() != nil {
		return ctx.Err() // else the time for requests in flight is over
	}
	return nil
}

func (d *Deployer) retire(ctx context.Context, w *work, s Step) error {
	m, err := d.cfg.Machines.Get(ctx, s.ID)
	if err != nil || retired(Have{State: m.State, Cordoned: m.Cordoned}) {
		return unlessGone(err)
	}
	if err := d.cordon(ctx, s.ID); err != nil {
		return unlessGone(err)
	}
	// Once more, for it may have fallen asleep.
	if m, err = d.cfg.Machines.Get(ctx, s.ID); err == nil && !retired(Have{State: m.State, Cordoned: true}) {
		err = d.cfg.Machines.Stop(ctx, s.ID, api.StopRequest{}, "")
	}
	if err == nil {
		w.machine(s.ID, "%s: machine %s takes no more requests", s.Group, s.ID)
	}
	return unlessGone(err)
}

func (d *Deployer) remove(ctx context.Context, w *work, s Step) error {
	if err := d.retire(ctx, w, s); err != nil {
		return err
	}
	return unlessGone(d.cfg.Machines.Destroy(ctx, s.ID, true, ""))
}

// unlessGone forgives that a machine to be removed is not there.
func unlessGone(err error) error {
	if api.IsCode(err, api.CodeNotFound) {
		return nil
	}
	return err
}

// wrap puts words before the message of err and keeps its code and hint.
func wrap(err error, format string, a ...any) error {
	if err == nil {
		return nil
	}
	e := *api.AsError(err)
	e.Message = fmt.Sprintf(format, a...) + ": " + e.Message
	return &e
}
