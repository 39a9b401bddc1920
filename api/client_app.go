package api

import (
	"context"
	"net/http"
	"net/url"
)

// ListApps returns all apps, by name.
func (c *Client) ListApps(ctx context.Context) ([]App, error) {
	var r ListAppsResponse
	err := c.call(ctx, http.MethodGet, pathf("/apps"), nil, nil, &r)
	return r.Apps, err
}

// GetApp returns one app; CodeNotFound if there is none of the name.
func (c *Client) GetApp(ctx context.Context, app string) (a App, err error) {
	return a, c.call(ctx, http.MethodGet, pathf("/apps/%s", app), nil, nil, &a)
}

// CreateApp makes an app; CodeNameTaken if there is one of the name.
func (c *Client) CreateApp(ctx context.Context, req CreateAppRequest) (r CreateAppResponse, err error) {
	return r, c.call(ctx, http.MethodPost, pathf("/apps"), nil, req, &r)
}

// DeleteApp destroys an app with its machines, secrets and releases.
func (c *Client) DeleteApp(ctx context.Context, app string) error {
	return c.ok(ctx, http.MethodDelete, pathf("/apps/%s", app), nil, nil)
}

// ListHosts returns the app's custom names.
func (c *Client) ListHosts(ctx context.Context, app string) ([]string, error) {
	var r HostsResponse
	err := c.call(ctx, http.MethodGet, pathf("/apps/%s/hosts", app), nil, nil, &r)
	return r.Hosts, err
}

// AddHost lets the app answer to a name; CodeNameTaken if another app does.
func (c *Client) AddHost(ctx context.Context, app, host string) error {
	return c.ok(ctx, http.MethodPost, pathf("/apps/%s/hosts", app), nil, AddHostRequest{Host: host})
}

// RemoveHost ends what AddHost began.
func (c *Client) RemoveHost(ctx context.Context, app, host string) error {
	return c.ok(ctx, http.MethodDelete, pathf("/apps/%s/hosts/%s", app, host), nil, nil)
}

// ListSecrets returns the app's secrets without their values.
func (c *Client) ListSecrets(ctx context.Context, app string) ([]Secret, error) {
	r, err := c.AllSecrets(ctx, app)
	return r.Secrets, err
}

// AllSecrets is ListSecrets with those that were removed, and that some machines still
// have.
func (c *Client) AllSecrets(ctx context.Context, app string) (r ListSecretsResponse, err error) {
	return r, c.call(ctx, http.MethodGet, pathf("/apps/%s/secrets", app), nil, nil, &r)
}

// SetSecrets sets secrets, and removes those whose value is nil. Machines get
// the change with the next deploy.
func (c *Client) SetSecrets(ctx context.Context, app string, values map[string]*string) (r SetSecretsResponse, err error) {
	return r, c.call(ctx, http.MethodPost, pathf("/apps/%s/secrets", app), nil, SetSecretsRequest{Values: values}, &r)
}

// Node says what the node is and has.
func (c *Client) Node(ctx context.Context) (n NodeInfo, err error) {
	return n, c.call(ctx, http.MethodGet, pathf("/node"), nil, nil, &n)
}

// StopNode ends the daemon. Machines keep running, unless machines is set: then
// they are stopped first, and are not started by themselves at the next start.
func (c *Client) StopNode(ctx context.Context, machines bool) error {
	q := url.Values{}
	if machines {
		q.Set("machines", "true")
	}
	return c.ok(ctx, http.MethodPost, pathf("/node/stop"), q, nil)
}
