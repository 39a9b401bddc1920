package api

import (
	"context"
	"net/http"
)

// ListWireGuardPeers returns the org's peers by name.
func (c *Client) ListWireGuardPeers(ctx context.Context, org string) (p []WireGuardPeer, err error) {
	return p, c.call(ctx, http.MethodGet, pathf("/orgs/%s/wireguard_peers", org), nil, nil, &p)
}

// CreateWireGuardPeer lets a peer into the org's private network.
func (c *Client) CreateWireGuardPeer(ctx context.Context, org string, req CreateWireGuardPeerRequest) (p WireGuardPeer, err error) {
	return p, c.call(ctx, http.MethodPost, pathf("/orgs/%s/wireguard_peers", org), nil, req, &p)
}

// DeleteWireGuardPeer shuts a peer out.
func (c *Client) DeleteWireGuardPeer(ctx context.Context, org, name string) error {
	return c.ok(ctx, http.MethodDelete, pathf("/orgs/%s/wireguard_peers/%s", org, name), nil, nil)
}
