package fleet

import (
	"context"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/volume"
)

// copy makes a copy of a volume: on its node, or where the request wants it to be
// elsewhere by a snapshot, which is restored there.
func (v *Volumes) copy(ctx context.Context, app string, req api.CreateVolumeRequest, from volume.Summary) (made api.Volume, err error) {
	switch elsewhere := req.Region != "" && req.Region != from.Volume.Region; {
	case elsewhere && v.cfg.Local.Shared():
		made, err = v.copyBySnapshot(ctx, app, req, from)
	case elsewhere:
		_, err = stays(from.Volume, req, "volume "+from.Volume.ID, "a copy is made on the same node; with snapshots kept in a bucket it can be made anywhere")
	default:
		made, err = v.createOn(ctx, from.Volume.Node, app, req)
	}
	if hint := rescue(from); hint != "" && api.IsCode(err, api.CodeUnreachable) {
		err = api.AsError(err).WithHint(hint)
	}
	return made, err
}

// rescue says how to go on with a volume whose node does not answer.
func rescue(s volume.Summary) string {
	for _, o := range s.Snapshots {
		if o.Status == api.SnapshotCreated {
			return "its last snapshot is of " + o.CreatedAt.UTC().Format(time.RFC3339) + ": perigee volumes create --snapshot-id " + o.ID
		}
	}
	return ""
}

func (v *Volumes) copyBySnapshot(ctx context.Context, app string, req api.CreateVolumeRequest, from volume.Summary) (api.Volume, error) {
	snap, err := v.Snapshot(ctx, app, from.Volume.ID)
	if err == nil {
		err = v.awaitStored(ctx, app, from.Volume.ID, snap.ID)
	}
	if err != nil {
		return api.Volume{}, err
	}
	req.SourceVolumeID, req.SnapshotID = "", snap.ID
	return v.Create(ctx, app, req)
}

// awaitStored waits until all of a snapshot is in the store. What keeps it from getting
// there is its reason, and the error then.
func (v *Volumes) awaitStored(ctx context.Context, app, id, snapshot string) error {
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		all, err := v.Snapshots(ctx, app, id)
		if err != nil {
			return err
		}
		for _, o := range all {
			if o.ID == snapshot && o.Status == api.SnapshotCreated {
				return nil
			}
			if o.ID == snapshot && o.Reason != "" {
				return api.Errorf(api.CodePrecondition, "volume %q cannot be copied by a snapshot: snapshot %s cannot be stored: %s", id, snapshot, o.Reason)
			}
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
