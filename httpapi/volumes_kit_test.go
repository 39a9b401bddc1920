package httpapi

import (
	"context"
	"time"

	"github.com/perigee-run/perigee/api"
)

// shelves is one volume, vol_1, of every app; what is done to it is not kept.
type shelves struct{}

func (shelves) one(app, id string) (api.Volume, error) {
	if id != "vol_1" {
		return api.Volume{}, api.Errorf(api.CodeNotFound, "app %q has no volume %q", app, id)
	}
	machine := "m1"
	return api.Volume{ID: id, Name: "data", App: app, State: api.VolumeCreated, SizeGB: 1, Region: "fra", Zone: "n1", Node: "n1", Type: "local", Encrypted: true, Fstype: "ext4",
		AttachedMachineID: &machine, CreatedAt: time.Now(), SnapshotRetention: 5, HostStatus: "ok"}, nil
}

func (s shelves) List(app string) ([]api.Volume, error) {
	v, err := s.one(app, "vol_1")
	return []api.Volume{v}, err
}

func (s shelves) Get(_ context.Context, app, id string) (api.Volume, error) { return s.one(app, id) }

func (s shelves) Create(_ context.Context, app string, _ api.CreateVolumeRequest) (api.Volume, error) {
	return s.one(app, "vol_1")
}

func (s shelves) Update(_ context.Context, app, id string, _ api.UpdateVolumeRequest) (api.Volume, error) {
	return s.one(app, id)
}

func (s shelves) Extend(_ context.Context, app, id string, req api.ExtendVolumeRequest) (api.ExtendVolumeResponse, error) {
	v, err := s.one(app, id)
	v.SizeGB, v.NeedsRestart = req.SizeGB, true
	return api.ExtendVolumeResponse{Volume: v}, err
}

func (s shelves) Destroy(_ context.Context, app, id string, _ bool) (api.Volume, error) {
	v, err := s.one(app, id)
	v.State, v.DestroyAt = api.VolumePendingDestroy, &v.CreatedAt
	return v, err
}

func (s shelves) Keep(_ context.Context, app, id string, _ bool) (api.Volume, error) {
	return s.one(app, id)
}

func (shelves) Orphans(string) []api.Volume { return nil }

func (s shelves) Snapshots(_ context.Context, app, id string) ([]api.VolumeSnapshot, error) {
	_, err := s.one(app, id)
	days := 5
	return []api.VolumeSnapshot{{ID: "vs_1", Status: api.SnapshotCreated, Size: 1, CreatedAt: time.Now(), RetentionDays: &days, Volume: id},
		{ID: "vs_0", Status: api.SnapshotFailed, CreatedAt: time.Now(), Volume: id, Scheduled: true, Reason: "the disk is full"}}, err
}

func (s shelves) Snapshot(_ context.Context, app, id string) (api.VolumeSnapshot, error) {
	_, err := s.one(app, id)
	return api.VolumeSnapshot{ID: "vs_2", Status: api.SnapshotCreating, CreatedAt: time.Now(), Volume: id}, err
}

var _ Volumes = shelves{}
