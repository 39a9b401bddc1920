package deploy

import (
	"context"
	"strings"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/app"
)

// unlockTimeout bounds how long leaving an app's lock may take when we go down.
const unlockTimeout = 5 * time.Second

// staleness is how old what this node knows of another one may be: a lock that
// was left a moment ago looks held for as long as the word is on its way.
const staleness = time.Second

// moverTimeout is how long a deploy waits for machines that are being moved.
const moverTimeout = time.Minute

// alone does work with the app's lock, so that of all nodes one works on it.
func (d *Deployer) alone(w *work, do func(context.Context, *work) (api.Release, error)) (api.Release, error) {
	if err := d.lock(w); err != nil {
		if d.ctx.Err() != nil {
			err = errClosing()
		}
		return api.Release{}, err
	}
	defer d.unlock(w.app)
	return do(d.ctx, w)
}

// lock takes the app's lock. Who moves machines has it for moments only, and is
// waited for; who else has it may have left it already.
func (d *Deployer) lock(w *work) error {
	for began := time.Now(); ; {
		err := d.cfg.Apps.Lock(d.ctx, w.app, d.cfg.Node, w.doing(), d.cfg.Gone)
		owner, _ := d.cfg.Apps.Locked(w.app)
		patience := staleness
		if strings.HasSuffix(owner, app.Mover) {
			patience = moverTimeout
		}
		if err == nil || !api.IsCode(err, api.CodeConflict) || time.Since(began) > patience {
			return err
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-d.ctx.Done():
			return err
		}
	}
}

func (d *Deployer) unlock(name string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(d.ctx), unlockTimeout)
	defer cancel()
	if err := d.cfg.Apps.Unlock(ctx, name, d.cfg.Node); err != nil {
		d.cfg.Logger.Warn("cannot leave the lock of an app; this node keeps it", "app", name, "error", err)
	}
}

// takeUpLeft goes on with what this node, or one that is gone, has begun and not
// ended.
func (d *Deployer) takeUpLeft() {
	for _, a := range d.cfg.Apps.List() {
		if owner, _ := d.cfg.Apps.Locked(a.Name); a.Deleting && d.free(a.Name, owner) {
			d.takeUp(a.Name, "being destroyed", func(ctx context.Context, w *work) (api.Release, error) {
				return api.Release{}, d.destroyApp(ctx, w)
			})
		}
	}
	for _, r := range d.cfg.Apps.Unfinished() {
		if d.free(r.App, r.Owner) {
			d.takeUp(r.App, words(r), func(ctx context.Context, w *work) (api.Release, error) { return d.claim(ctx, w, r) })
		}
	}
}

// free reports whether work of the owner is for this node to take up.
func (d *Deployer) free(name, owner string) bool {
	mine := owner == "" || owner == d.cfg.Node
	return d.Busy(name) == "" && (mine || d.cfg.Gone(owner))
}

func (d *Deployer) takeUp(name, what string, do func(context.Context, *work) (api.Release, error)) {
	_, err := d.begin(name, what, false, func(ctx context.Context, w *work) (api.Release, error) {
		d.cfg.Logger.Info("going on with interrupted work", "app", name, "work", what)
		r, err := do(ctx, w)
		if err != nil && ctx.Err() == nil && !api.IsCode(err, api.CodeDeployFailed) {
			d.cfg.Logger.Error("cannot go on with interrupted work", "app", name, "error", err)
		}
		return r, err
	})
	if err != nil {
		d.cfg.Logger.Error("cannot go on with interrupted work", "app", name, "error", err)
	}
}

// claim makes the release this node's and carries it out. It may have ended by
// now: what was in memory when it was found is not looked at any more.
func (d *Deployer) claim(ctx context.Context, w *work, found app.Release) (api.Release, error) {
	r, err := d.cfg.Apps.Release(found.App, found.Version)
	if err != nil || r.Finished() {
		return r.Release, err
	}
	if r.Owner != d.cfg.Node {
		if r, err = d.cfg.Apps.ClaimRelease(ctx, r, d.cfg.Node); err != nil {
			return r.Release, err
		}
	}
	return d.carryOut(ctx, w, r)
}

// ours fails once another node has taken the work over.
func (d *Deployer) ours(name string) error {
	if owner, what := d.cfg.Apps.Locked(name); owner != d.cfg.Node {
		return api.Errorf(api.CodeConflict, "app %q is %s by node %q, which took over from this one", name, what, owner)
	}
	return nil
}
