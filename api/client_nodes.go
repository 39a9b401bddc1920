package api

import (
	"context"
	"net/http"
	"net/url"
)

// ListNodes returns the nodes of the cloud, by name.
func (c *Client) ListNodes(ctx context.Context) (nodes []ClusterNode, err error) {
	return nodes, c.call(ctx, http.MethodGet, pathf("/nodes"), nil, nil, &nodes)
}

// GetNode returns one node; CodeNotFound if there is none of the name.
func (c *Client) GetNode(ctx context.Context, name string) (n ClusterNode, err error) {
	return n, c.call(ctx, http.MethodGet, pathf("/nodes/%s", name), nil, nil, &n)
}

// CordonNode keeps new machines away from a node.
func (c *Client) CordonNode(ctx context.Context, name string) error {
	return c.ok(ctx, http.MethodPost, pathf("/nodes/%s/cordon", name), nil, nil)
}

// RotateNodeKey has a node replace its WireGuard key, soon after it returns.
// Laptops that enter the private network there need new files.
func (c *Client) RotateNodeKey(ctx context.Context, name string) error {
	return c.ok(ctx, http.MethodPost, pathf("/nodes/%s/rotate-key", name), nil, nil)
}

// UncordonNode ends what CordonNode or DrainNode began.
func (c *Client) UncordonNode(ctx context.Context, name string) error {
	return c.ok(ctx, http.MethodPost, pathf("/nodes/%s/uncordon", name), nil, nil)
}

// DrainNode has a node's machines and requests move away. It returns at once;
// [ClusterNode.Drained] tells when they have.
func (c *Client) DrainNode(ctx context.Context, name string) error {
	return c.ok(ctx, http.MethodPost, pathf("/nodes/%s/drain", name), nil, nil)
}

// UpgradeNode has a node start the program that is on its disk now, which takes
// over while the present one serves. It returns when the new one runs;
// [ClusterNode.StartedAt] changes when it has taken over, and
// [ClusterNode.Fault] tells why it could not.
func (c *Client) UpgradeNode(ctx context.Context, name string) (u NodeUpgrade, err error) {
	return u, c.call(ctx, http.MethodPost, pathf("/nodes/%s/upgrade", name), nil, nil, &u)
}

// RemoveNode ends a node's membership. One that is up must be drained, or force
// be given.
func (c *Client) RemoveNode(ctx context.Context, name string, force bool) error {
	q := url.Values{}
	if force {
		q.Set("force", "true")
	}
	return c.ok(ctx, http.MethodDelete, pathf("/nodes/%s", name), q, nil)
}

// RecoverNodes removes nodes that are lost for good, where nothing can be decided
// without them. It is for the client of a node that keeps the state. What was written
// to none but the lost ones is lost.
func (c *Client) RecoverNodes(ctx context.Context, lost ...string) error {
	return c.ok(ctx, http.MethodPost, pathf("/nodes/recover"), nil, RecoverNodesRequest{Lost: lost})
}

// CreateJoinToken makes a token by which nodes join. Its text is in the answer,
// and cannot be had again.
func (c *Client) CreateJoinToken(ctx context.Context, req CreateJoinTokenRequest) (t JoinToken, err error) {
	return t, c.call(ctx, http.MethodPost, pathf("/nodes/tokens"), nil, req, &t)
}

// ListJoinTokens returns the join tokens without their secrets, oldest first.
func (c *Client) ListJoinTokens(ctx context.Context) (tokens []JoinToken, err error) {
	return tokens, c.call(ctx, http.MethodGet, pathf("/nodes/tokens"), nil, nil, &tokens)
}

// RevokeJoinToken makes a token useless.
func (c *Client) RevokeJoinToken(ctx context.Context, id string) error {
	return c.ok(ctx, http.MethodDelete, pathf("/nodes/tokens/%s", id), nil, nil)
}
