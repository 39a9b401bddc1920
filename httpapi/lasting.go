package httpapi

import (
	"context"
	"sync"
	"time"
)

// lasts reports whether calls of the route may go on for long: they run a command,
// or have an answer of many lines.
func (r *route) lasts() bool {
	switch r.endpoint.(type) {
	case interface{ lasting() }, upload, raw:
		return true
	}
	return r.access == execs
}

// lasting marks streams, whatever their types.
func (stream[I, L]) lasting() {}

// whileLetIn is the call's context, which ends early if the call lasts and its
// caller's token is revoked or expires. The function ends the asking.
func (c *call) whileLetIn(auth Authenticator) (context.Context, func()) {
	ctx, cancel := context.WithCancel(c.r.Context())
	var asking sync.WaitGroup
	if c.who.Token != "" && c.route.lasts() {
		again := c.r.Clone(ctx)
		asking.Go(func() {
			defer cancel()
			c.server.keepAsking(ctx, func() error {
				_, err := auth.Authenticate(again)
				return err
			})
		})
	}
	return ctx, func() { cancel(); asking.Wait() }
}

// keepAsking returns when the answer is an error, or ctx ends.
func (s *Server) keepAsking(ctx context.Context, ask func() error) {
	tick := time.NewTicker(s.cfg.AskAgain)
	defer tick.Stop()
	for ask() == nil {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
