package catalog

import (
	"context"
	"time"
)

// catchUpStep is how often it is looked whether the news are here.
const catchUpStep = 2 * time.Millisecond

// CatchUp returns when reads show all that was written to the replicated tables
// before the call, by whatever node. It costs a round trip to the members: it is
// for who is about to decide something by what it reads, not for every read. It
// fails, in words, where the members cannot be asked; ctx bounds it. A leader that
// has just lost its majority may still answer for five seconds, with what it
// knows: the write that follows fails then.
func (c *Catalog) CatchUp(ctx context.Context) error { return c.catchUp(ctx, c.state) }

// CatchUpPublished is CatchUp for what nodes say: it returns when reads show all that
// had reached the members before the call.
func (c *Catalog) CatchUpPublished(ctx context.Context) error { return c.catchUp(ctx, c.said) }

func (c *Catalog) catchUp(ctx context.Context, b *bucket) error {
	if c.cloud == nil && len(c.outside) == 0 {
		return nil // nobody else writes
	}
	ctx, cancel := context.WithTimeout(ctx, writeLimit)
	defer cancel()
	info, err := b.info(ctx)
	for err != nil && pause(ctx, writeRetry) { // a leader may be about to be found
		info, err = b.info(ctx)
	}
	if err != nil {
		return c.unreachable(err)
	}
	if b.feed.missed(info.State.LastSeq) {
		defer c.lookSoon()
	}
	for !b.feed.current(info.State.LastSeq) {
		if !pause(ctx, catchUpStep) {
			return c.unreachable(ctx.Err())
		}
	}
	return nil
}
