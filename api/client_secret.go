package api

import (
	"context"
	"net/http"
	"net/url"
)

func secretPath(app, name string) string {
	return pathf("/apps/%s/secrets/%s", app, name)
}

// GetSecret returns one secret without its value; CodeNotFound if there is none of the
// name.
func (c *Client) GetSecret(ctx context.Context, app, name string) (s Secret, err error) {
	return s, c.call(ctx, http.MethodGet, secretPath(app, name), nil, nil, &s)
}

// SetSecret sets one secret. Machines get the change with the next deploy.
func (c *Client) SetSecret(ctx context.Context, app, name, value string) (s Secret, err error) {
	return s, c.call(ctx, http.MethodPost, secretPath(app, name), nil, SetSecretRequest{Value: &value}, &s)
}

// DeleteSecret removes one secret; CodeNotFound if there is none of the name.
func (c *Client) DeleteSecret(ctx context.Context, app, name string) error {
	return c.ok(ctx, http.MethodDelete, secretPath(app, name), nil, nil)
}

// MetadataKey returns one key of a machine's metadata; CodeNotFound if it has none of
// the name.
func (c *Client) MetadataKey(ctx context.Context, app, id, key string) (string, error) {
	var v MetadataValue
	err := c.call(ctx, http.MethodGet, machinePath(app, id, "/metadata/"+url.PathEscape(key)), nil, nil, &v)
	return v.Value, err
}

// Health returns without an error while the daemon runs; it needs no token.
func (c *Client) Health(ctx context.Context) error {
	return c.ok(ctx, http.MethodGet, "/healthz", nil, nil)
}
