package snapshot

import (
	"context"
	"encoding/binary"
	"slices"

	"golang.org/x/sync/errgroup"
)

// Sweep removes the volume's chunks that no snapshot of it names. If it cannot read
// all of these it removes nothing.
func (r *Repo) Sweep(ctx context.Context, volume string) error {
	needed, err := r.needed(ctx, volume)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	err = r.objects.Walk(ctx, chunks(volume), func(name string) error {
		if id, ok := chunkOf(name); ok && !needed.has(id) {
			g.Go(func() error { return r.objects.Delete(ctx, name) })
		}
		return ctx.Err()
	})
	if failed := g.Wait(); failed != nil {
		return failed
	}
	return err
}

// shorts are the beginnings of chunks' names, rising: a volume of a terabyte has a
// million of them. Two that begin alike are taken for one, so that a chunk may stay
// which nobody needs, and none goes that somebody does.
type shorts []uint64

func short(id chunkID) uint64 { return binary.BigEndian.Uint64(id[:]) }

func (s shorts) has(id chunkID) bool {
	_, found := slices.BinarySearch(s, short(id))
	return found
}

// needed are the chunks that the volume's snapshots name.
func (r *Repo) needed(ctx context.Context, volume string) (all shorts, err error) {
	ids, err := r.List(ctx, volume)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		m, err := r.Get(ctx, volume, id)
		if err != nil {
			return nil, err
		}
		for i := range m.At {
			all = append(all, short(m.id(i)))
		}
		slices.Sort(all)
		all = slices.Compact(all) // snapshots of a volume have most in common
	}
	return all, nil
}
