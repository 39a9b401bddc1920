package cluster

import (
	"context"
	"errors"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// settle is how long changes are gathered before they are acted upon.
	settle = 200 * time.Millisecond
	// retry is how long something that failed rests.
	retry = 5 * time.Second
	// checkEvery is how often the others are asked whether this node belongs to
	// them: one that was removed while it was cut off learns it so.
	checkEvery = time.Minute
	sweepEvery = time.Hour
)

// Run keeps this node's record, its certificate and its copy of the records up
// to date, and, where the authority's key is, chooses the members. It ends with
// ctx, or with an error that is [ErrRemoved] when this node was removed.
func (c *Cluster) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.follow(ctx) })
	g.Go(func() error { return c.every(ctx, sweepEvery, c.renewIfDue) })
	g.Go(func() error { return c.every(ctx, checkEvery, c.CheckIn) })
	g.Go(func() error { return c.clear(ctx) })
	if c.Certifies() {
		g.Go(func() error { return c.every(ctx, sweepEvery, c.sweepTokens) })
	}
	g.Go(func() error {
		select {
		case <-c.gone:
			return ErrRemoved
		case <-ctx.Done():
			return nil
		}
	})
	err := g.Wait()
	c.closeClients()
	return err
}

// every does something now and from time to time, sooner when it failed.
func (c *Cluster) every(ctx context.Context, pause time.Duration, do func(context.Context) error) error {
	for {
		next := pause
		if err := do(ctx); errors.Is(err, ErrRemoved) {
			return err
		} else if err != nil && ctx.Err() == nil {
			c.log.Warn("cloud", "error", err)
			next = min(pause, 6*retry)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(next):
		}
	}
}

// follow acts on changes of the records.
func (c *Cluster) follow(ctx context.Context) error {
	changes := c.Changes(ctx)
	act := time.NewTimer(0)
	defer act.Stop()
	waiting := true // many changes must not put it off for ever
	for {
		select {
		case <-ctx.Done():
			return nil
		case n, ok := <-changes:
			if !ok {
				<-ctx.Done() // the catalog was closed
				return nil
			}
			c.saw(n)
			if !waiting {
				waiting = true
				act.Reset(settle)
			}
		case <-act.C:
			waiting = false
			if err := c.act(ctx); errors.Is(err, ErrRemoved) {
				return err
			} else if err != nil && ctx.Err() == nil {
				c.log.Warn("cloud", "error", err)
				act.Reset(retry)
			}
		}
	}
}

// saw lets go of connections to a node that is not there any more.
func (c *Cluster) saw(n Node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p, ok := c.clients[n.Name]; ok && n.Removed {
		p.close()
		delete(c.clients, n.Name)
	}
}

func (c *Cluster) act(ctx context.Context) error {
	err := errors.Join(c.saveNodes(), c.announce(ctx))
	if err == nil && c.Certifies() {
		err = c.chooseMembers(ctx)
	}
	return err
}

// saveNodes keeps the records on disk, for a start without the others.
func (c *Cluster) saveNodes() error {
	c.saving.Lock()
	defer c.saving.Unlock()
	all := c.records()
	c.mu.RLock()
	same := maps.EqualFunc(all, c.known, func(a, b Node) bool { return reflect.DeepEqual(a, b) })
	c.mu.RUnlock()
	if same {
		return nil
	}
	if err := writeJSON(filepath.Join(c.home, nodesFile), sorted(all)); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.known = all
	return nil
}

func (c *Cluster) closeClients() {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for _, p := range slices.Collect(maps.Values(c.clients)) {
		p.close()
	}
}
