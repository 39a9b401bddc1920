package volume

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/volume/disk"
	"github.com/perigee-run/perigee/volume/objects"
	"github.com/perigee-run/perigee/volume/snapshot"
)

// Create makes a volume of the app: an empty one, one from a snapshot, or a copy of
// another volume of this node. When it returns without error the volume is on disk;
// with an error there is nothing, also if the caller has left meanwhile. Under the
// same key it makes one volume, however often it is called.
func (s *Store) Create(ctx context.Context, app string, req api.CreateVolumeRequest) (out api.Volume, err error) {
	if err := Check(req); err != nil {
		return out, err
	}
	o, err := s.cfg.Apps.Owner(app)
	if err != nil {
		return out, err
	}
	if o.Deleting {
		return out, api.Errorf(api.CodeConflict, "app %q is being destroyed", app)
	}
	done, err := s.alone(ctx, app, req.IdempotencyKey)
	if err != nil {
		return out, err
	}
	if v := s.madeBy(o, req.IdempotencyKey); v != nil {
		done()
		return s.look(v), nil
	}
	// The first one has it: the volume that is made, or the caller who leaves.
	var over atomic.Bool
	first := func() bool { return over.CompareAndSwap(false, true) }
	return carry(ctx, s, done, first, func(run context.Context) (out api.Volume, err error) {
		b := birth{store: s, app: app, owner: o, req: req}
		v, err := b.make(run)
		switch {
		case err != nil:
			return out, err
		case !first(): // nobody will know of it
			after, cancel := quiet(run)
			defer cancel()
			return out, errors.Join(context.Canceled, s.destroyNow(after, v))
		}
		return s.look(v), nil
	})
}

// birth is the making of one volume.
type birth struct {
	store *Store
	app   string
	owner Owner
	req   api.CreateVolumeRequest

	source *volume            // to be copied
	from   *snapshot.Manifest // to be restored
	key    disk.Key
	sizeGB int
}

func (b *birth) make(ctx context.Context) (*volume, error) {
	s := b.store
	if err := b.origin(ctx); err != nil {
		return nil, err
	}
	v := s.known(b.record())
	if err := v.take(ctx); err != nil {
		return nil, err
	}
	defer v.give()
	err := s.promise(int64(b.sizeGB)*disk.GiB, func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.volumes[v.id] = v
		return nil
	})
	if err != nil {
		return nil, NoPlace(err)
	}
	err = s.save(ctx, v, func(*Record) {})
	if err == nil {
		err = b.build(ctx, v)
	}
	if err == nil {
		err = s.save(ctx, v, func(r *Record) { r.State = api.VolumeCreated })
	}
	if err != nil {
		b.unmake(ctx, v)
		return nil, b.fault(err)
	}
	return v, nil
}

// NoPlace says of an error that it is a volume that found no room, if that is what it is.
func NoPlace(err error) error {
	if !api.IsCode(err, api.CodeCapacity) {
		return err
	}
	return api.AsError(err).WithKind(api.KindVolumePlacement)
}

// fault puts what went wrong with a volume's making into the API's words.
func (b *birth) fault(err error) error {
	var e *api.Error
	if errors.As(err, &e) {
		return err
	}
	return fmt.Errorf("cannot make a volume for app %q: %w", b.app, err)
}

// origin finds out what the volume is made from, and with that its size and key.
func (b *birth) origin(ctx context.Context) error {
	least := 1
	switch {
	case b.req.SourceVolumeID != "":
		if err := b.findSource(); err != nil {
			return err
		}
		least = b.source.now().SizeGB
	case b.req.SnapshotID != "":
		if err := b.findSnapshot(ctx); err != nil {
			return err
		}
		least = max(b.from.SizeGB, int((b.from.ImageSize+disk.GiB-1)/disk.GiB))
	default:
		b.key = disk.NewKey()
	}
	b.sizeGB = least
	if b.req.SizeGB != nil {
		b.sizeGB = *b.req.SizeGB
	}
	if b.sizeGB < least {
		return invalid("size_gb", "size_gb is %d; what the volume is made from has %d, and a volume never shrinks", b.sizeGB, least)
	}
	return nil
}

func (b *birth) findSource() error {
	v, err := b.store.there(b.app, b.req.SourceVolumeID)
	if err != nil {
		return api.AsError(err).WithField("source_volume_id")
	}
	r := v.now()
	if r.State != api.VolumeCreated && r.State != api.VolumePendingDestroy {
		return api.Errorf(api.CodePrecondition, "volume %q cannot be copied: it is %s", r.ID, r.State).WithField("source_volume_id")
	}
	b.source = v
	b.key, err = b.store.sealer.open(r.ID, r.Key)
	b.req.Name = cmp.Or(b.req.Name, r.Name)
	return err
}

func (b *birth) findSnapshot(ctx context.Context) error {
	id := b.req.SnapshotID
	m, err := b.store.cfg.Snapshots.Find(ctx, id)
	// A snapshot of another app is as good as none, unless this one was given it with
	// a volume of an app that was destroyed.
	given := func() bool { return m.Org == b.owner.Org && b.store.cfg.Listed(b.app, id) }
	if errors.Is(err, objects.ErrNotFound) || err == nil && m.App != b.owner.ID && !given() {
		return noSnapshot(b.app, id)
	}
	if err != nil {
		return err
	}
	if len(m.Key) != disk.KeySize {
		return fmt.Errorf("snapshot %q has no key in its manifest", id)
	}
	b.from, b.key = m, disk.Key(m.Key)
	b.req.Name = cmp.Or(b.req.Name, m.Name)
	return nil
}

func noSnapshot(app, id string) error {
	return api.Errorf(api.CodeNotFound, "app %q has no snapshot %q", app, id).WithField("snapshot_id").
		WithHint("perigee volumes snapshots list shows those of a volume")
}

func (b *birth) record() Record {
	s, id := b.store, newID()
	r := Record{
		ID: id, Name: cmp.Or(b.req.Name, "data"), App: b.app, AppID: b.owner.ID, Org: b.owner.Org, Node: s.cfg.Node, Region: s.cfg.Region,
		SizeGB: b.sizeGB, State: api.VolumeCreating, CreatedAt: time.Now().UTC(), Key: s.sealer.seal(id, b.key), Retention: defaultRetention, AutoBackup: true,
		Shares: b.source != nil && s.shares, CreateKey: b.req.IdempotencyKey,
	}
	if b.req.SnapshotRetention != nil {
		r.Retention = *b.req.SnapshotRetention
	}
	if b.req.AutoBackupEnabled != nil {
		r.AutoBackup = *b.req.AutoBackupEnabled
	}
	return r
}

// build makes the volume's files.
func (b *birth) build(ctx context.Context, v *volume) error {
	size := int64(b.sizeGB) * disk.GiB
	image := filepath.Join(b.store.cfg.Dir, v.id+".image.new")
	switch {
	case b.source != nil:
		if err := b.copySource(ctx, image, size); err != nil {
			return errors.Join(err, removeFile(image))
		}
	case b.from != nil:
		if err := b.store.cfg.Snapshots.Restore(ctx, b.from, image); err != nil {
			return err
		}
	default:
		return v.disk.Create(ctx, size, b.key)
	}
	return errors.Join(v.disk.CreateFrom(ctx, image, size), removeFile(image))
}

func (b *birth) copySource(ctx context.Context, to string, size int64) error {
	if err := b.source.take(ctx); err != nil {
		return err
	}
	defer b.source.give()
	if has, err := b.source.disk.Size(); err != nil || has > size {
		return cmp.Or(err, error(api.Errorf(api.CodeConflict, "volume %q grew meanwhile", b.source.id).WithField("source_volume_id").WithHint("try again")))
	}
	return b.source.copy(ctx, to)
}

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// unmake removes what a creation that failed has left.
func (b *birth) unmake(ctx context.Context, v *volume) {
	ctx, cancel := quiet(ctx)
	defer cancel()
	if err := errors.Join(v.disk.Remove(), b.store.forget(ctx, v)); err != nil {
		b.store.log.Error("cannot undo the making of a volume; the next start does", "volume", v.id, "error", err)
	}
}
