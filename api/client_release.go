package api

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// LogQuery says which lines Logs gives.
type LogQuery struct {
	Machine string
	Region  string
	Lines   int       // past lines to begin with; 0: 100, or all when Since is set; negative: none
	Since   time.Time // leave out what is older
	Follow  bool      // go on with new lines until the context ends
	// Mark asks for a line of the source [SourceMark] and nothing else where
	// the past lines end and, with Follow, the new ones begin. It is for nodes,
	// which get one always; the client does not send it.
	Mark bool
}

// SourceMark is the source of the line that [LogQuery.Mark] asks for.
const SourceMark = "mark"

// BuildOptions says how Build builds.
type BuildOptions struct {
	Dockerfile string // slash-separated path in the context; default Dockerfile
	Target     string // stage to build; default the last
	Args       map[string]string
	NoCache    bool
}

// ListReleases returns the app's releases, newest first.
func (c *Client) ListReleases(ctx context.Context, app string) (r []Release, err error) {
	return r, c.call(ctx, http.MethodGet, pathf("/apps/%s/releases", app), nil, nil, &r)
}

// GetRelease returns one release.
func (c *Client) GetRelease(ctx context.Context, app string, version int) (r Release, err error) {
	return r, c.call(ctx, http.MethodGet, pathf("/apps/%s/releases/%s", app, strconv.Itoa(version)), nil, nil, &r)
}

// Deploy makes a release and gives its progress; the last line is of kind done,
// or comes with an error. To leave the loop does not stop the deploy.
func (c *Client) Deploy(ctx context.Context, app string, req DeployRequest) iter.Seq2[Progress, error] {
	return c.progress(ctx, http.MethodPost, pathf("/apps/%s/releases", app), nil, req)
}

// Rollback makes a new release from an older one; version 0 is the newest
// complete one before the present.
func (c *Client) Rollback(ctx context.Context, app string, version int) iter.Seq2[Progress, error] {
	return c.progress(ctx, http.MethodPost, pathf("/apps/%s/rollback", app), nil, RollbackRequest{Version: version})
}

// Scale changes how many machines there are, and how large, in a new release.
func (c *Client) Scale(ctx context.Context, app string, req ScaleRequest) iter.Seq2[Progress, error] {
	return c.progress(ctx, http.MethodPost, pathf("/apps/%s/scale", app), nil, req)
}

// Build builds the folder that context, a tar, holds. The last line is of kind
// done and names the image.
func (c *Client) Build(ctx context.Context, app string, o BuildOptions, context io.Reader) iter.Seq2[Progress, error] {
	q := url.Values{}
	if o.Dockerfile != "" {
		q.Set("dockerfile", o.Dockerfile)
	}
	if o.Target != "" {
		q.Set("target", o.Target)
	}
	for k, v := range o.Args {
		q.Add("arg", k+"="+v)
	}
	if o.NoCache {
		q.Set("no_cache", "true")
	}
	return c.upload(ctx, http.MethodPost, pathf("/apps/%s/build", app), q, context)
}

// ListImages returns the images on the node.
func (c *Client) ListImages(ctx context.Context) (i []ImageInfo, err error) {
	return i, c.call(ctx, http.MethodGet, pathf("/images"), nil, nil, &i)
}

// PullImage brings an image to the node. The last line is of kind done and
// names the image by digest.
func (c *Client) PullImage(ctx context.Context, ref string) iter.Seq2[Progress, error] {
	return c.progress(ctx, http.MethodPost, pathf("/images/pull"), nil, PullRequest{Image: ref})
}

// ImportImage sends an archive: docker save's, an OCI archive, or a tar of an
// OCI layout. The last line is of kind done and names the image by digest.
func (c *Client) ImportImage(ctx context.Context, app string, archive io.Reader) iter.Seq2[Progress, error] {
	return c.upload(ctx, http.MethodPut, pathf("/images/import"), url.Values{"app": {app}}, archive)
}

// DeleteImage removes an image that no machine uses.
func (c *Client) DeleteImage(ctx context.Context, digest string) error {
	return c.ok(ctx, http.MethodDelete, pathf("/images/%s", digest), nil, nil)
}

// Logs gives the lines that the app's machines said.
func (c *Client) Logs(ctx context.Context, app string, q LogQuery) iter.Seq2[LogLine, error] {
	v := url.Values{}
	for name, s := range map[string]string{"machine": q.Machine, "region": q.Region} {
		if s != "" {
			v.Set(name, s)
		}
	}
	if q.Lines != 0 {
		v.Set("lines", strconv.Itoa(q.Lines))
	}
	if !q.Since.IsZero() {
		v.Set("since", q.Since.UTC().Format(time.RFC3339Nano))
	}
	if q.Follow {
		v.Set("follow", "true")
	}
	return func(yield func(LogLine, error) bool) {
		lines(ctx, c, http.MethodGet, pathf("/apps/%s/logs", app), v, "", nil, yield)
	}
}

func (c *Client) progress(ctx context.Context, method, path string, q url.Values, in any) iter.Seq2[Progress, error] {
	return func(yield func(Progress, error) bool) {
		b, err := json.Marshal(in)
		if err != nil {
			yield(Progress{}, err)
			return
		}
		lines(ctx, c, method, path, q, "application/json", bytes.NewReader(b), failing(yield))
	}
}

func (c *Client) upload(ctx context.Context, method, path string, q url.Values, body io.Reader) iter.Seq2[Progress, error] {
	return func(yield func(Progress, error) bool) {
		lines(ctx, c, method, path, q, "application/x-tar", body, failing(yield))
	}
}

// failing turns a line of kind error into the loop's error.
func failing(yield func(Progress, error) bool) func(Progress, error) bool {
	return func(p Progress, err error) bool {
		if err == nil && p.Error != nil {
			p.Error.Status = Codes[p.Error.Code]
			err = p.Error
		}
		return yield(p, err) && err == nil
	}
}
