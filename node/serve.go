package node

import (
	"context"
	"errors"
	"sync"
	"time"
)

const (
	// takeBackTries is how often a node whose successor failed tries to be itself
	// again, and takeBackPause how long it waits in between.
	takeBackTries = 10
	takeBackPause = time.Second
)

// Serve runs a node until ctx ends. Started in the place of another process it
// takes that one's node over; and when a successor fails it goes on here.
func Serve(ctx context.Context, cfg Config) error {
	h, err := inherit()
	if err != nil {
		return err
	}
	var former sync.WaitGroup // nodes of this process that let connections end
	defer former.Wait()
	cfg.heritage = h
	n, err := New(ctx, cfg)
	if err != nil {
		h.fail(err)
		return err
	}
	for err == nil {
		err = n.Run(ctx)
		var back *takenBack
		if !errors.As(err, &back) {
			return err
		}
		n, err = back.again(ctx, cfg, &former)
	}
	return err
}

// again makes the node anew while the router of the former one serves.
func (b *takenBack) again(ctx context.Context, cfg Config, former *sync.WaitGroup) (*Node, error) {
	cfg.since, cfg.fault = b.n.since, b.why
	for try := 1; ; try++ {
		h, ended, err := b.heritage(ctx)
		if err != nil {
			return nil, err
		}
		former.Go(func() { <-ended })
		cfg.heritage = h
		n, err := New(ctx, cfg)
		if err == nil {
			return n, nil
		}
		h.fail(err)
		<-ended
		if try == takeBackTries || ctx.Err() != nil {
			return nil, err
		}
		b.n.log.Error("cannot go on with the node yet; trying again", "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(takeBackPause):
		}
	}
}
