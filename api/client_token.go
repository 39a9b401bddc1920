package api

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
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

// CreateDeployToken makes a token for deploying the app, and returns its text.
func (c *Client) CreateDeployToken(ctx context.Context, app string, req DeployTokenRequest) (string, error) {
	var r DeployTokenResponse
	err := c.call(ctx, http.MethodPost, pathf("/apps/%s/deploy_token", app), nil, req, &r)
	return r.Token, err
}

// AuthenticateToken says what a token is; CodeUnauthorized if it is none, or not any
// more. header is an Authorization header, or the token alone.
func (c *Client) AuthenticateToken(ctx context.Context, header string) ([]CurrentToken, error) {
	var r CurrentTokens
	err := c.call(ctx, http.MethodPost, pathf("/tokens/authenticate"), nil, AuthenticateRequest{Header: header}, &r)
	return r.Tokens, err
}

// AuthorizeToken asks whether a token may do something: CodeForbidden if not,
// CodeUnauthorized if it is no token.
func (c *Client) AuthorizeToken(ctx context.Context, req AuthorizeRequest) (r AuthorizeResponse, err error) {
	return r, c.call(ctx, http.MethodPost, pathf("/tokens/authorize"), nil, req, &r)
}

// IdentityToken returns a signed word about the machine that calls, which other services
// believe by OpenID Connect. Only a machine gets one, at its socket /.fly/api.
func (c *Client) IdentityToken(ctx context.Context, req OIDCRequest) (string, error) {
	b, err := json.Marshal(req)
	if err != nil {
		return "", err
	}
	resp, err := c.send(ctx, http.MethodPost, pathf("/tokens/oidc"), nil, "application/json", bytes.NewReader(b))
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	word, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return string(word), err
}
