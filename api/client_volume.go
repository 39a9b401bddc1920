package api

import (
	"context"
	"net/http"
	"net/url"
	"strings"
)

// ListVolumes returns the app's volumes, oldest first; those that are to be
// destroyed are among them. With states it is those in one of these; destroyed are
// those whose files are gone and of which there are snapshots.
func (c *Client) ListVolumes(ctx context.Context, app string, states ...string) (v []Volume, err error) {
	return v, c.call(ctx, http.MethodGet, pathf("/apps/%s/volumes", app), inStates(states), nil, &v)
}

// ListOrgVolumes returns the volumes of all apps of an org, or with states those in
// one of these. For whoever owns the org those of apps that were destroyed are among
// them.
func (c *Client) ListOrgVolumes(ctx context.Context, org string, states ...string) (v []Volume, err error) {
	return v, c.call(ctx, http.MethodGet, pathf("/orgs/%s/volumes", org), inStates(states), nil, &v)
}

func inStates(states []string) url.Values {
	if len(states) == 0 {
		return nil
	}
	return url.Values{"state": {strings.Join(states, ",")}}
}

// GetVolume returns one volume as its node has it.
func (c *Client) GetVolume(ctx context.Context, app, id string) (v Volume, err error) {
	return v, c.call(ctx, http.MethodGet, pathf("/apps/%s/volumes/%s", app, id), nil, nil, &v)
}

// CreateVolume makes a volume and returns when it can be used.
func (c *Client) CreateVolume(ctx context.Context, app string, req CreateVolumeRequest) (v Volume, err error) {
	if req.IdempotencyKey != "" {
		c = c.With(IdempotencyHeader, req.IdempotencyKey)
	}
	return v, c.call(ctx, http.MethodPost, pathf("/apps/%s/volumes", app), nil, req, &v)
}

// UpdateVolume changes a volume's settings.
func (c *Client) UpdateVolume(ctx context.Context, app, id string, req UpdateVolumeRequest) (v Volume, err error) {
	return v, c.call(ctx, http.MethodPut, pathf("/apps/%s/volumes/%s", app, id), nil, req, &v)
}

// ExtendVolume makes a volume larger.
func (c *Client) ExtendVolume(ctx context.Context, app, id string, sizeGB int) (r ExtendVolumeResponse, err error) {
	return r, c.call(ctx, http.MethodPut, pathf("/apps/%s/volumes/%s/extend", app, id), nil, ExtendVolumeRequest{SizeGB: sizeGB}, &r)
}

// DestroyVolume marks a volume that no machine has; it is gone a day later, or with
// now at once.
func (c *Client) DestroyVolume(ctx context.Context, app, id string, now bool) (v Volume, err error) {
	q := url.Values{}
	if now {
		q.Set("now", "true")
	}
	return v, c.call(ctx, http.MethodDelete, pathf("/apps/%s/volumes/%s", app, id), q, nil, &v)
}

// KeepVolume takes DestroyVolume back, within the day. A volume of the org whose app
// was destroyed is the named app's from then on.
func (c *Client) KeepVolume(ctx context.Context, app, id string) (v Volume, err error) {
	return v, c.call(ctx, http.MethodPost, pathf("/apps/%s/volumes/%s/keep", app, id), nil, nil, &v)
}

// ListSnapshots returns a volume's snapshots, newest first; also of one that was
// destroyed, as long as there are any.
func (c *Client) ListSnapshots(ctx context.Context, app, volume string) (s []VolumeSnapshot, err error) {
	return s, c.call(ctx, http.MethodGet, pathf("/apps/%s/volumes/%s/snapshots", app, volume), nil, nil, &s)
}

// CreateSnapshot takes a snapshot. It returns once the volume has been copied; the
// snapshot is created when all of it is in the store.
func (c *Client) CreateSnapshot(ctx context.Context, app, volume string) (s VolumeSnapshot, err error) {
	return s, c.call(ctx, http.MethodPost, pathf("/apps/%s/volumes/%s/snapshots", app, volume), nil, nil, &s)
}
