package httpapi

import (
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/token"
)

const (
	pOrg    = "/v1/orgs/{org_slug}"
	pTokens = pOrg + "/tokens"
)

func (s *Server) tokenRoutes() []route {
	return []route{
		{rGet, pTokens, owns, "Tokens_list", "List the org's tokens, without their texts", nil, get(s.listTokens)},
		{rPost, pTokens, owns, "Tokens_create", "Make a token; its text is shown this once", nil, take(s.createToken).with(http.StatusCreated)},
		{rDelete, pTokens + "/{token_id}", owns, "Tokens_revoke", "Make a token useless, at once and for good", nil, act(s.revokeToken)},
		{rPost, pApp + "/deploy_token", owns, "App_deploy_token", "Make a token for deploying this app", nil, take(s.createDeployToken)},

		{rGet, "/v1/tokens/current", known, "Tokens_current", "What the caller's token is and may", nil, get(s.currentTokens)},
		{rPost, "/v1/tokens/authenticate", known, "Tokens_authenticate", "What a token is, or 401", nil, take(s.authenticateToken)},
		{rPost, "/v1/tokens/authorize", known, "Tokens_authorize", "Whether a token may do something, or 401 or 403", nil, take(s.authorizeToken)},
		{rPost, "/v1/tokens/oidc", known, "Tokens_oidc", "A signed word about the machine that calls, for other services", nil, plain[api.OIDCRequest]{s.identityToken}},
		{rGet, "/.well-known/openid-configuration", open, "Meta_openid_configuration", "How words about machines are checked", nil, get(s.openIDConfiguration)},
		{rGet, "/.well-known/jwks", open, "Meta_jwks", "The keys that words about machines are checked by", nil, get(s.openIDKeys)},
	}
}

// plain is an endpoint with a JSON body and an answer of plain text.
type plain[I any] struct {
	do func(c *call, in I) (string, error)
}

func (t plain[I]) serve(c *call) error {
	var in I
	if err := c.read(&in); err != nil {
		return err
	}
	out, err := t.do(c, in)
	if err != nil {
		return err
	}
	c.w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	c.w.Header().Set("Cache-Control", "no-store")
	_, _ = c.w.Write([]byte(out)) // the client may be gone
	return nil
}

func (t plain[I]) describe(op *huma.Operation, reg huma.Registry) {
	body[I](op, reg)
	op.Responses = map[string]*huma.Response{"200": {Description: "OK", Content: map[string]*huma.MediaType{"text/plain": {Schema: &huma.Schema{Type: huma.TypeString}}}}}
}

// tokens is the store of tokens, or an error in words where the node has none.
func (s *Server) tokens() (*token.Store, error) {
	if s.cfg.Tokens == nil {
		return nil, api.Errorf(api.CodeUnsupported, "this node has no tokens but its own")
	}
	return s.cfg.Tokens, nil
}

func (s *Server) listTokens(c *call) (api.TokenList, error) {
	t, err := s.tokens()
	if err != nil {
		return api.TokenList{}, err
	}
	org, err := s.org(c)
	if err != nil {
		return api.TokenList{}, err
	}
	return api.TokenList{Tokens: t.List(org)}, nil
}

func (s *Server) createToken(c *call, in api.CreateTokenRequest) (api.CreateTokenResponse, error) {
	t, err := s.tokens()
	if err != nil {
		return api.CreateTokenResponse{}, err
	}
	org, err := s.org(c)
	if err != nil {
		return api.CreateTokenResponse{}, err
	}
	return t.Mint(c.r.Context(), token.Maker{Name: c.who.Name, Scope: c.who.Scope}, org, in)
}

func (s *Server) createDeployToken(c *call, in api.DeployTokenRequest) (api.DeployTokenResponse, error) {
	t, err := s.tokens()
	if err != nil {
		return api.DeployTokenResponse{}, err
	}
	a, err := s.cfg.Apps.Get(c.path("app_name"))
	if err != nil {
		return api.DeployTokenResponse{}, err
	}
	made, err := t.Mint(c.r.Context(), token.Maker{Name: c.who.Name, Scope: c.who.Scope}, a.Org, api.CreateTokenRequest{Kind: api.TokenDeploy, App: a.Name, Expiry: in.Expiry})
	return api.DeployTokenResponse{Token: made.Token}, err
}

func (s *Server) revokeToken(c *call) error {
	t, err := s.tokens()
	if err != nil {
		return err
	}
	return t.Revoke(c.r.Context(), c.path("org_slug"), c.path("token_id"))
}

// current is the caller in the API's words.
func (p Principal) current() api.CurrentToken {
	t := api.CurrentToken{}
	if l, ok := p.Scope.(token.Limits); ok {
		t = l.Current()
	}
	t.TokenID, t.User, t.Kind, t.SourceMachineID = p.Token, p.Name, p.Kind, p.Machine
	return t
}

func (s *Server) currentTokens(c *call) (api.CurrentTokens, error) {
	return api.CurrentTokens{Tokens: []api.CurrentToken{c.who.current()}}, nil
}

func (s *Server) authenticateToken(_ *call, in api.AuthenticateRequest) (api.CurrentTokens, error) {
	p, err := s.holder(in.Header)
	if err != nil {
		return api.CurrentTokens{}, err
	}
	return api.CurrentTokens{Tokens: []api.CurrentToken{p.current()}}, nil
}

func (s *Server) authorizeToken(_ *call, in api.AuthorizeRequest) (api.AuthorizeResponse, error) {
	p, err := s.holder(in.Header)
	if err != nil {
		return api.AuthorizeResponse{}, err
	}
	w := token.Want{Class: token.Class(in.Access.Action), Org: in.Access.OrgSlug, App: in.Access.AppName, Machine: in.Access.Machine, Command: in.Access.Command}
	if w.Class == known || w.Class == open || !isClass(w.Class) {
		return api.AuthorizeResponse{}, invalid("access.action", "there is no action %q", api.Clip(in.Access.Action)).WithHint("reads, changes, execs, shells, owns or operates")
	}
	if w.App != "" {
		if org := s.orgOf(w.App); w.Org == "" || w.Org == org {
			w.Org = org
		} else {
			return api.AuthorizeResponse{}, token.Forbidden(w, "it is not of the org that is named")
		}
	}
	if w.Class == execs && w.Command == nil {
		w.Altered = true // a token for some commands only may not run any
	}
	if err := p.Scope.May(w); err != nil {
		return api.AuthorizeResponse{}, err
	}
	return api.AuthorizeResponse{Access: in.Access, VerifiedToken: p.current()}, nil
}

func isClass(c token.Class) bool {
	for _, known := range token.Classes {
		if c == known {
			return true
		}
	}
	return false
}

// holder is who has the token of a header, or the token itself. The cloud's own is
// not taken: to ask about it would be to try it.
func (s *Server) holder(header string) (Principal, error) {
	t, err := s.tokens()
	if err != nil {
		return Principal{}, err
	}
	return Tokens{Store: t}.Authenticate(&http.Request{Header: http.Header{"Authorization": {withScheme(header)}}})
}

func withScheme(header string) string {
	if header = strings.TrimSpace(header); header == "" || strings.Contains(header, " ") {
		return header
	}
	return "Bearer " + header
}

func (s *Server) identityToken(c *call, in api.OIDCRequest) (string, error) {
	switch {
	case s.cfg.Issuer == nil:
		return "", noIssuer()
	case in.AWSPrincipalTags:
		return "", api.Errorf(api.CodeUnsupported, "claims for AWS principal tags are not made").WithField("aws_principal_tags").WithHint("leave it out")
	case c.who.Machine == "":
		return "", api.Errorf(api.CodeForbidden, "only a machine gets a word about itself").WithHint("call from inside a machine, over /.fly/api")
	}
	a, err := s.cfg.Apps.Get(c.who.App)
	if err != nil {
		return "", err
	}
	m, err := s.cfg.Machines.Get(c.r.Context(), c.who.Machine)
	if err != nil {
		return "", err
	}
	return s.cfg.Issuer.Sign(token.Identity{
		AppID: a.ID, AppName: a.Name, OrgID: a.Org, OrgName: a.Org, MachineID: m.ID, MachineName: m.Name, MachineVersion: m.InstanceID, Region: m.Region,
		Image: imageName(m.ImageRef), ImageDigest: m.ImageRef.Digest,
	}, in.Aud)
}

// imageName is repository and tag, where there is one.
func imageName(i api.ImageRef) string {
	if i.Tag == "" {
		return i.Repository
	}
	return i.Repository + ":" + i.Tag
}

func (s *Server) openIDConfiguration(*call) (api.OIDCConfiguration, error) {
	if s.cfg.Issuer == nil {
		return api.OIDCConfiguration{}, noIssuer()
	}
	return s.cfg.Issuer.Configuration(), nil
}

func (s *Server) openIDKeys(*call) (api.OIDCKeys, error) {
	if s.cfg.Issuer == nil {
		return api.OIDCKeys{}, noIssuer()
	}
	return s.cfg.Issuer.Keys(), nil
}

func noIssuer() error {
	return api.Errorf(api.CodeNotFound, "this node does not sign words about machines")
}
