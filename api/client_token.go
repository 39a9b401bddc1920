package api

import (
	"context"
	"net/http"
)

// ListTokens returns the org's tokens, newest first.
func (c *Client) ListTokens(ctx context.Context, org string) ([]TokenInfo, error) {
	var r TokenList
	err := c.call(ctx, http.MethodGet, pathf("/orgs/%s/tokens", org), nil, nil, &r)
	return r.Tokens, err
}

// CreateToken makes a token; its text is in the answer and nowhere else.
func (c *Client) CreateToken(ctx context.Context, org string, req CreateTokenRequest) (r CreateTokenResponse, err error) {
	return r, c.call(ctx, http.MethodPost, pathf("/orgs/%s/tokens", org), nil, req, &r)
}

// RevokeToken makes a token useless, at once and for good.
func (c *Client) RevokeToken(ctx context.Context, org, id string) error {
	return c.ok(ctx, http.MethodDelete, pathf("/orgs/%s/tokens/%s", org, id), nil, nil)
}

// CurrentTokens says what the client's own token is.
func (c *Client) CurrentTokens(ctx context.Context) ([]CurrentToken, error) {
	var r CurrentTokens
	err := c.call(ctx, http.MethodGet, pathf("/tokens/current"), nil, nil, &r)
	return r.Tokens, err
}

// ListOrgs returns the orgs that the caller sees.
func (c *Client) ListOrgs(ctx context.Context) ([]Org, error) {
	var r OrgList
	err := c.call(ctx, http.MethodGet, pathf("/orgs"), nil, nil, &r)
	return r.Orgs, err
}

// CreateOrg makes an org; CodeNameTaken if there is one of the name.
func (c *Client) CreateOrg(ctx context.Context, req CreateOrgRequest) (o Org, err error) {
	return o, c.call(ctx, http.MethodPost, pathf("/orgs"), nil, req, &o)
}

// GetOrg returns one org.
func (c *Client) GetOrg(ctx context.Context, slug string) (o Org, err error) {
	return o, c.call(ctx, http.MethodGet, pathf("/orgs/%s", slug), nil, nil, &o)
}
