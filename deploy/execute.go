package deploy

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/app"
	"github.com/perigee-run/perigee/machine/rules"
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
		if err := d.ours(r.App); err != nil {
			return r.Release, err
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
		w.last = &api.Progress{Kind: "done", Message: "release " + version(r.Version) + " is complete", Release: &shown}
	}
	return nil
}

// rollout plans and acts until nothing is left to do.
func (d *Deployer) rollout(ctx context.Context, w *work, r *app.Release) error {
	goal := d.goalOf(r)
	// Each machine takes at most four steps; more means that something, or
	// somebody, takes apart what is being built.
	limit := 20 + 4*(len(r.Job.Before)+sum(r.Counts))
	for range limit {
		if err := d.ours(r.App); err != nil {
			return err
		}
		have, away := d.have(r)
		steps := Plan(goal, have)
		if len(steps) == 0 {
			d.fence(ctx, w, r, away)
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
	for _, s := range Leftover(d.goalOf(r), d.reached(r)) {
		if err := d.do(ctx, w, r, s); err != nil && ctx.Err() == nil {
			w.warn("cannot remove machine %s of an earlier release: %v", s.ID, err)
		}
	}
}

// goalOf is what the release wants. One from before there were regions wants
// all of its machines where the node is.
func (d *Deployer) goalOf(r *app.Release) Goal {
	goal := Goal{Release: r.Version, Strategy: r.Strategy, MaxUnavailable: r.Job.MaxUnavailable, Primary: d.cfg.Region, Counts: slots(r.Spread)}
	if len(r.Regions) > 0 {
		goal.Primary = r.Regions[0]
	}
	if r.Spread == nil {
		for g, n := range r.Counts {
			goal.Counts[Slot{g, d.cfg.Region}] = n
		}
	}
	return goal
}

// have is the app's machines as the planner sees them, and those whose nodes are
// out of reach: nothing can be done to these, and nobody is served by them.
func (d *Deployer) have(r *app.Release) (have []Have, gone []api.Machine) {
	for _, m := range d.managed(r.App) {
		if away(m) {
			gone = append(gone, m)
			continue
		}
		h := Have{ID: m.ID, Group: groupOf(m), Region: d.home(m), State: m.State, Release: releaseOf(m), Cordoned: m.Cordoned, Mounted: len(m.Config.Mounts) > 0}
		if c, ok := r.Groups[h.Group]; ok && r.Job.Keep {
			h.Kept = h.Release != r.Version && same(m.Config, config(r, h.Group, c)) && !d.goesHome(m, r)
		}
		have = append(have, h)
	}
	return have, gone
}

// goesHome reports whether a machine stands in for a region that takes machines
// again.
func (d *Deployer) goesHome(m api.Machine, r *app.Release) bool {
	home := d.home(m)
	return home != m.Region && d.cfg.StandIn(home, r.Regions) == home
}

// home is the region that a machine counts for.
func (d *Deployer) home(m api.Machine) string {
	if d.cfg.Region == "" {
		return ""
	}
	return m.Home()
}

func (d *Deployer) reached(r *app.Release) []Have {
	have, _ := d.have(r)
	return have
}

// fence writes down that the machines out of reach are not wanted any more: the
// release stands without them.
func (d *Deployer) fence(ctx context.Context, w *work, r *app.Release, away []api.Machine) {
	if len(away) == 0 {
		return
	}
	ids := idsOf(away)
	if d.cfg.Fence == nil {
		w.warn("machines %s are on nodes that are out of reach and stay as they are", ids)
		return
	}
	if err := d.cfg.Fence(ctx, r.App, away); err != nil && ctx.Err() == nil {
		w.warn("machines %s are on nodes that are out of reach, and it cannot be written down that they are superseded: %v", ids, err)
		return
	}
	w.step("machines %s are on nodes that are out of reach: they are removed when these come back", ids)
}

func idsOf(machines []api.Machine) string {
	ids := make([]string, len(machines))
	for i, m := range machines {
		ids[i] = m.ID
	}
	return strings.Join(ids, ", ")
}

// same reports whether two configurations differ only in what the platform
// notes about each machine.
func same(a, b *api.MachineConfig) bool {
	return text(a) == text(b)
}

func text(c *api.MachineConfig) string {
	d := *c
	d.Metadata = maps.Clone(c.Metadata)
	delete(d.Metadata, metaRelease)
	d.Mounts = wanted(c.Mounts)
	size := rules.Guest(c) // a machine has it written out, a release may not
	d.Guest = &size
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
// together, when all of them are healthy, and the next batch waits until the
// edges know of them.
func (d *Deployer) batch(ctx context.Context, w *work, r *app.Release, steps []Step) error {
	admit := steps[0].Do == Admit
	if admit && r.Strategy != Immediate {
		if err := d.each(ctx, steps, func(ctx context.Context, s Step) error { return d.unlessAway(ctx, w, r, s, d.await) }); err != nil {
			return err
		}
	}
	err := d.each(ctx, steps, func(ctx context.Context, s Step) error { return d.unlessAway(ctx, w, r, s, d.do) })
	if err == nil && admit {
		d.routed(ctx, w, steps)
	}
	return err
}

// unlessAway does a step and forgives its failure if the machine's node is out
// of reach: the next plan goes on without the machine.
func (d *Deployer) unlessAway(ctx context.Context, w *work, r *app.Release, s Step, do func(context.Context, *work, *app.Release, Step) error) error {
	err := do(ctx, w, r, s)
	if err == nil || s.ID == "" || ctx.Err() != nil {
		return err
	}
	if _, away := d.have(r); !slices.ContainsFunc(away, func(m api.Machine) bool { return m.ID == s.ID }) {
		return err
	}
	w.warn("machine %s is on a node that is out of reach: going on without it", s.ID)
	return nil
}

// routed waits until every edge routes to the machines just admitted, so that
// none is left without a machine when the old ones go.
func (d *Deployer) routed(ctx context.Context, w *work, steps []Step) {
	edges, ok := d.cfg.Router.(Witness)
	if !ok {
		return
	}
	var ids []string
	for _, s := range steps {
		ids = append(ids, s.ID)
	}
	wait, cancel := context.WithTimeout(ctx, d.cfg.RouteTimeout)
	defer cancel()
	if err := edges.Routed(wait, ids); err != nil && ctx.Err() == nil {
		w.warn("not every edge routes to the new machines yet: %v", err)
	}
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
		return d.create(ctx, w, r, s)
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

func (d *Deployer) create(ctx context.Context, w *work, r *app.Release, s Step) error {
	req := api.CreateMachineRequest{Config: config(r, s.Group, r.Groups[s.Group]), Release: r.Version, SkipServiceRegistration: true}
	if req.Region = d.cfg.StandIn(s.Region, r.Regions); req.Region != s.Region {
		w.warn("region %q has no node that takes machines now: one of its machines is made in %q", s.Region, req.Region)
		req.HomeRegion = s.Region
	}
	var err error
	if req.Config.Mounts, err = d.provide(ctx, w, r.App, s.Group, req.Region, "", req.Config.Mounts); err != nil {
		return err
	}
	m, err := d.cfg.Machines.Create(ctx, r.App, req)
	d.provided(req.Config.Mounts)
	if err != nil {
		return wrap(err, "process group %q: cannot create a machine", s.Group)
	}
	w.machine(m.ID, "%s: machine %s made%s", s.Group, m.ID, placeWords(m))
	return nil
}

// placeWords says where a machine is, as far as that is known.
func placeWords(m api.Machine) string {
	switch {
	case m.Region == "":
		return ""
	case m.Node == "":
		return " in " + m.Region
	}
	return fmt.Sprintf(" in %s on %s", m.Region, m.Node)
}

func (d *Deployer) update(ctx context.Context, w *work, r *app.Release, s Step) error {
	w.machine(s.ID, "%s: machine %s has a volume: updated in place", s.Group, s.ID)
	if err := d.cordon(ctx, s.ID); err != nil {
		return err
	}
	c, err := d.updated(ctx, w, r, s)
	if err == nil {
		_, err = d.cfg.Machines.Update(ctx, s.ID, api.CreateMachineRequest{Config: c, Release: r.Version}, "")
		d.provided(c.Mounts)
	}
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
	m, err := d.cfg.Machines.Get(ctx, s.ID)
	if err == nil {
		err = d.cfg.Machines.Destroy(ctx, s.ID, true, "")
	}
	if err == nil && m.Config != nil {
		d.tellVolumes(w, s, m.Config.Mounts)
	}
	return unlessGone(err)
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
