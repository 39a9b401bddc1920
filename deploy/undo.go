package deploy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/app"
	"github.com/perigee-run/perigee/machine"
)

// reviveTimeout is how long an undo waits for a machine that ran before to be
// healthy again. After that it is let to serve as it is: it is the best there is.
const reviveTimeout = time.Minute

// giveUp writes down that the release failed and why, so that a crash during
// the undo goes on with the undo.
func (d *Deployer) giveUp(ctx context.Context, w *work, r *app.Release, why error) error {
	r.Reason = api.AsError(why).Message
	r.Job.Phase = phaseUndo
	w.step("release %s failed; back to what was before", version(r.Version))
	return d.cfg.Apps.SaveRelease(ctx, *r)
}

// undo brings back what there was. What cannot be brought back is said in the
// reason, and does not keep the rest from being.
func (d *Deployer) undo(ctx context.Context, w *work, r *app.Release) error {
	d.removeCommand(ctx, r)
	failed := map[string]bool{}
	for {
		if ctx.Err() != nil {
			return errClosing()
		}
		steps := UndoPlan(r.Version, r.Job.Before, d.undoable(r, failed))
		if len(steps) == 0 {
			break
		}
		for _, s := range steps {
			err := d.do(ctx, w, r, s)
			if closing(err) {
				return errClosing()
			}
			if err != nil && ctx.Err() == nil {
				failed[s.ID] = true
				w.warn("cannot %s machine %s: %v", s.Do, s.ID, err)
				r.Reason += fmt.Sprintf("; and the undo could not %s machine %s: %v", s.Do, s.ID, err)
			}
		}
	}
	d.fence(ctx, w, r, d.leftovers(r))
	return d.finish(ctx, w, r, api.ReleaseFailed)
}

// leftovers are the machines that the failed release has made and that are still
// there.
func (d *Deployer) leftovers(r *app.Release) []api.Machine {
	return slices.DeleteFunc(d.managed(r.App), func(m api.Machine) bool {
		_, before := r.Job.Before[m.ID]
		return before || releaseOf(m) != r.Version
	})
}

// undoable is have without the machines that an undo has failed with already.
func (d *Deployer) undoable(r *app.Release, failed map[string]bool) []Have {
	return slices.DeleteFunc(d.reached(r), func(h Have) bool { return failed[h.ID] })
}

// revive starts a retired machine, waits for its health and lets it serve.
func (d *Deployer) revive(ctx context.Context, w *work, r *app.Release, s Step) error {
	slept := retired(Have{State: r.Job.Before[s.ID].State, Cordoned: true})
	if !slept {
		if _, err := d.cfg.Machines.Start(ctx, s.ID, ""); err != nil {
			return err
		}
		health, cancel := context.WithTimeout(ctx, reviveTimeout)
		defer cancel()
		if err := d.cfg.Machines.WaitHealthy(health, s.ID); err != nil && ctx.Err() == nil {
			w.warn("machine %s serves again, but is not healthy: %v", s.ID, err)
		}
	}
	if err := d.cfg.Machines.Uncordon(ctx, s.ID, ""); err != nil {
		return err
	}
	w.machine(s.ID, "%s: machine %s serves again", s.Group, s.ID)
	return nil
}

// revert gives a machine that was updated in place its former configuration.
func (d *Deployer) revert(ctx context.Context, w *work, r *app.Release, s Step) error {
	before := r.Job.Before[s.ID]
	versions, err := d.cfg.Machines.Versions(ctx, s.ID)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(versions, func(v machine.Version) bool { return v.ID == before.Version })
	if i < 0 {
		return errors.New("its former configuration is not kept any more")
	}
	w.machine(s.ID, "%s: machine %s gets its former configuration", s.Group, s.ID)
	_, err = d.cfg.Machines.Update(ctx, s.ID, api.CreateMachineRequest{Config: &versions[i].Config, Release: before.Release}, "")
	return err
}
