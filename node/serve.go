package node

import (
	"context"
	"errors"
	"sync"

	"github.com/perigee-run/perigee/handover"
)

// Serve runs a node until ctx ends. Started in the place of another process it
// takes that one's node over; and when a successor fails it goes on here.
func Serve(ctx context.Context, cfg Config) error {
	h, err := handover.Inherit()
	if err != nil {
		return err
	}
	var former sync.WaitGroup // nodes of this process that let connections end
	defer former.Wait()
	cfg.heritage = h
	n, err := New(ctx, cfg)
	if err != nil {
		h.Fail(err)
		return err
	}
	for err == nil {
		err = n.Run(ctx)
		var back *takenBack
		if !errors.As(err, &back) {
			return err
		}
		cfg.since, cfg.fault = back.n.since, back.why
		err = back.n.next.TakeBack(ctx, &former, func(h *handover.Heritage) (err error) {
			cfg.heritage = h
			n, err = New(ctx, cfg)
			return err
		})
	}
	return err
}

// takenBack says that a successor failed: the node begins anew in this process,
// while the router of this one serves.
type takenBack struct {
	n   *Node
	why string
}

// Error implements error.
func (b *takenBack) Error() string { return b.why }
