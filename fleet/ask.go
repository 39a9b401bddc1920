package fleet

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/perigee-run/perigee/api"
)

// errSilent ends a call to a node that does not answer.
var errSilent = errors.New("it says nothing")

// again is the time between two attempts at a node that cannot be reached.
const again = 150 * time.Millisecond

// ask makes a call to another node and gives it up when the node does not
// answer. The node's own errors are passed on as they are; what the connection
// has to say becomes api.CodeUnreachable about what is asked for.
func (f *Fleet) ask(ctx context.Context, node, what string, call func(context.Context, *api.Client) error) error {
	err := f.once(ctx, node, call)
	return f.fault(ctx, node, what, err)
}

// askAgain is ask for calls that may be repeated: a connection that breaks, as
// when a node's daemon is replaced, is made anew while there is time.
func (f *Fleet) askAgain(ctx context.Context, node, what string, call func(context.Context, *api.Client) error) error {
	for until := time.Now().Add(f.cfg.Patience); ; {
		err := f.once(ctx, node, call)
		if err == nil || isAPI(err) || errors.Is(err, errSilent) || time.Now().Add(again).After(until) {
			return f.fault(ctx, node, what, err)
		}
		select {
		case <-time.After(again):
		case <-ctx.Done():
			return f.fault(ctx, node, what, err)
		}
	}
}

// fault puts an error into words.
func (f *Fleet) fault(ctx context.Context, node, what string, err error) error {
	switch {
	case err == nil, isAPI(err):
		return err
	case ctx.Err() != nil:
		return fmt.Errorf("%s is on node %q: %w", what, node, context.Cause(ctx))
	}
	return api.Errorf(api.CodeUnreachable, "%s is on node %q, which does not answer: %v", what, node, err).
		WithHint("try again once the node is back; until then its machines are shown as they were last known")
}

func isAPI(err error) bool {
	var e *api.Error
	return errors.As(err, &e)
}

// once makes the call, on behalf of the caller, under the eyes of watch.
func (f *Fleet) once(ctx context.Context, node string, call func(context.Context, *api.Client) error) error {
	c, err := f.cfg.Peers.Client(node)
	if err != nil {
		return fmt.Errorf("%v", err) // whatever its code, it is not the node's answer
	}
	if name := CallerOf(ctx).Name; name != "" {
		c = c.With(api.CallerHeader, name)
	}
	return watched(ctx, c, f.cfg.Patience, func(ctx context.Context) error { return call(ctx, c) })
}

// watched makes a call under the eyes of watch; errSilent if that ended it.
func watched(ctx context.Context, c *api.Client, patience time.Duration, call func(context.Context) error) error {
	run, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		watch(run, c, patience, cancel)
	}()
	err := call(run)
	silent := errors.Is(context.Cause(run), errSilent)
	cancel(nil)
	<-done
	if err != nil && silent {
		return errSilent
	}
	return err
}

// watch cancels a call that takes long when the node does not answer a small
// question in the meantime. So a long operation may take its time, and a node
// that is gone is found out fast, whatever its connection believes.
func watch(ctx context.Context, c *api.Client, patience time.Duration, cancel context.CancelCauseFunc) {
	rest, limit := patience*2/5, patience*3/5
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(rest):
		}
		probe, done := context.WithTimeout(ctx, limit)
		err := c.Do(probe, http.MethodGet, pingPath, nil, nil, nil)
		done()
		if err != nil && !isAPI(err) && ctx.Err() == nil {
			cancel(errSilent)
			return
		}
	}
}
