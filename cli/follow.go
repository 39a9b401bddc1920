package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/perigee-run/perigee/api"
)

// patience is how long a node that went away in a deploy may take to answer
// again, and then to show the release.
const patience = 15 * time.Second

// follow shows a deploy's progress to its end and returns the release, nil
// where none was made. The node goes on with a deploy when the stream breaks or
// the node restarts: then the end is read from the releases.
func (e *env) follow(ctx context.Context, c *api.Client, app string, seq progressSeq, show *progressView) (*api.Release, error) {
	before, err := newest(ctx, c, app)
	if err != nil {
		return nil, err
	}
	var broken error
	for p, err := range seq {
		if broken = err; err != nil {
			break
		}
		show.show(p)
		if p.Kind == "done" {
			return p.Release, nil
		}
	}
	if !mayGoOn(ctx, broken) {
		return nil, broken
	}
	show.note("the connection to the node broke; looking for the release")
	return awaitRelease(ctx, c, app, before.Version, patience)
}

// mayGoOn reports whether the node may be at work still after err, which is nil
// where the stream just ended.
func mayGoOn(ctx context.Context, err error) bool {
	var op *net.OpError
	if ctx.Err() != nil || refused(err) {
		return false
	}
	return !errors.As(err, &op) || op.Op != "dial" // never reached: nothing began
}

// newest returns the app's newest release; without one its version is 0.
func newest(ctx context.Context, c *api.Client, app string) (api.Release, error) {
	var last api.Release
	releases, err := c.ListReleases(ctx, app)
	for _, r := range releases {
		if r.Version > last.Version {
			last = r
		}
	}
	return last, err
}

// awaitRelease waits for the end of the release after version before. It gives
// up when for wait the node did not answer, or had no such release.
func awaitRelease(ctx context.Context, c *api.Client, app string, before int, wait time.Duration) (*api.Release, error) {
	for seen := time.Now(); time.Since(seen) < wait; {
		r, err := newest(ctx, c, app)
		if err == nil && r.Version > before {
			if seen = time.Now(); r.FinishedAt != nil {
				return &r, outcome(r)
			}
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(300 * time.Millisecond):
		}
	}
	return nil, hint(fmt.Errorf("the connection to the node broke, and within %s it showed no release", wait), "it may go on by itself: see perigee releases and perigee status")
}

// outcome is the error of a release that came to a bad end.
func outcome(r api.Release) error {
	if r.Status == api.ReleaseComplete {
		return nil
	}
	return api.Errorf(api.CodeDeployFailed, "release v%d of %s is %s: %s", r.Version, r.App, r.Status, first(r.Reason, "no reason is known")).WithHint("perigee logs tells what the app said")
}
