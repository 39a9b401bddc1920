package api

import (
	"context"
	"net/http"
	"strconv"
	"strings"
)

// RecordReleaseRequest writes down a release that the caller carries out itself,
// machine by machine (POST /v1/apps/{app}/releases/record). What becomes of it
// the caller says with an [UpdateReleaseRequest].
type RecordReleaseRequest struct {
	Image       string         `json:"image" doc:"Reference of the image that the machines get"`
	Strategy    string         `json:"strategy,omitempty" enum:",rolling,immediate,canary,bluegreen" doc:"How the caller goes about it"`
	Description string         `json:"description,omitempty"`
	Definition  map[string]any `json:"definition,omitempty" doc:"The app's configuration; it comes back unchanged"`
}

// UpdateReleaseRequest says what has become of a recorded release (PATCH
// /v1/apps/{app}/releases/{version}). Once it is complete the release holds the
// configuration of the machines that bear its number, so that it can be gone
// back to.
type UpdateReleaseRequest struct {
	Status string `json:"status" enum:"pending,running,complete,failed"`
	Reason string `json:"reason,omitempty" doc:"With failed: why, in words"`
}

// ResolveImageRequest asks which image a reference means now (POST
// /v1/apps/{app}/image).
type ResolveImageRequest struct {
	Image string `json:"image" doc:"Reference with a tag, a digest or neither"`
}

// RecordRelease writes down a release that the caller carries out itself.
func (c *Client) RecordRelease(ctx context.Context, app string, req RecordReleaseRequest) (r Release, err error) {
	return r, c.call(ctx, http.MethodPost, pathf("/apps/%s/releases/record", app), nil, req, &r)
}

// UpdateRelease says what has become of a recorded release.
func (c *Client) UpdateRelease(ctx context.Context, app string, version int, req UpdateReleaseRequest) (r Release, err error) {
	return r, c.call(ctx, http.MethodPatch, pathf("/apps/%s/releases/%s", app, strconv.Itoa(version)), nil, req, &r)
}

// ResolveImage brings an image to the node and says which one it is; CodeImage
// if it cannot be had.
func (c *Client) ResolveImage(ctx context.Context, app, ref string) (i ImageInfo, err error) {
	return i, c.call(ctx, http.MethodPost, pathf("/apps/%s/image", app), nil, ResolveImageRequest{Image: ref}, &i)
}

// TagOf is the tag in a reference, "" if it has none; a digest may follow it.
func TagOf(ref string) string {
	ref, _, _ = strings.Cut(ref, "@")
	i := strings.LastIndexByte(ref, ':')
	if i < 0 || i < strings.LastIndexByte(ref, '/') {
		return ""
	}
	return ref[i+1:]
}
