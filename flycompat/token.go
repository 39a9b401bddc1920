package flycompat

import (
	"cmp"
	"context"
	"strings"
	"time"

	graphql "github.com/graph-gophers/graphql-go"
	"github.com/perigee-run/perigee/api"
)

// token is a token with less than all rights. Its text is shown once, when it is
// made.
type token struct {
	ID                   graphql.ID
	Name, Token          string
	TokenHeader          *string
	ExpiresAt, RevokedAt *graphql.Time
	User                 *user
}

func tokenOf(org string, t api.TokenInfo) *token {
	return &token{ID: tokenID(org, t.ID), Name: cmp.Or(t.Name, t.Kind), ExpiresAt: clockOf(t.ExpiresAt), RevokedAt: clockOf(t.RevokedAt), User: userOf(t.CreatedBy)}
}

func clockOf(t *time.Time) *graphql.Time {
	if t == nil {
		return nil
	}
	return &graphql.Time{Time: *t}
}

// tokenID names a token in the whole cloud: flyctl revokes one without saying
// whose it is.
func tokenID(org, id string) graphql.ID { return graphql.ID(org + "." + id) }

// LimitedAccessTokens are the tokens of an app.
func (x *app) LimitedAccessTokens(ctx context.Context, _ struct{ First *int32 }) (connection[*token], error) {
	return tokens(ctx, x.a.Organization.Slug, func(t api.TokenInfo) bool { return t.App == x.a.Name })
}

// LimitedAccessTokens are the tokens of an org.
func (x *organization) LimitedAccessTokens(ctx context.Context, _ struct{ First *int32 }) (connection[*token], error) {
	return tokens(ctx, x.o.Slug, func(t api.TokenInfo) bool { return t.App == "" })
}

func tokens(ctx context.Context, org string, wanted func(api.TokenInfo) bool) (connection[*token], error) {
	all, err := caller(ctx).ListTokens(ctx, org)
	var out []*token
	for _, t := range all {
		if wanted(t) {
			out = append(out, tokenOf(org, t))
		}
	}
	return whole(out), faulty(err)
}

type tokenPayload struct{ LimitedAccessToken *token }

type createTokenInput struct {
	ClientMutationID, Expiry *string
	Name, Profile            string
	OrganizationID           graphql.ID
	ProfileParams            *JSON
}

// kinds are our kinds of token for Fly's profiles. Narrower ones flyctl makes out of
// these by itself, which takes a macaroon of Fly's own shape.
var kinds = map[string]string{"deploy": api.TokenDeploy, "deploy_organization": api.TokenOrg}

// CreateLimitedAccessToken makes a token.
func (*root) CreateLimitedAccessToken(ctx context.Context, args struct{ Input createTokenInput }) (*tokenPayload, error) {
	in, org := args.Input, string(args.Input.OrganizationID)
	req := api.CreateTokenRequest{Kind: kinds[in.Profile], Name: in.Name, Expiry: value(in.Expiry)}
	if req.Kind == "" {
		return nil, faulty(api.Errorf(api.CodeUnsupported, "this cloud makes no tokens of the profile %q", in.Profile).
			WithHint("deploy or deploy_organization; perigee tokens create makes others"))
	}
	req.App, _ = in.ProfileParams.object()["app_id"].(string)
	t, err := caller(ctx).CreateToken(ctx, org, req)
	if err != nil {
		return nil, faulty(err)
	}
	out := tokenOf(org, t.TokenInfo)
	header := "Bearer " + t.Token
	out.Token, out.TokenHeader = t.Token, &header
	return &tokenPayload{out}, nil
}

// DeleteLimitedAccessToken revokes a token.
func (*root) DeleteLimitedAccessToken(ctx context.Context, args struct {
	Input struct {
		ClientMutationID, Token *string
		ID                      *graphql.ID
	}
}) (*struct{ Token *string }, error) {
	org, id, ok := strings.Cut(string(value(args.Input.ID)), ".")
	if !ok {
		return nil, faulty(api.Errorf(api.CodeInvalid, "%q is not the id of a token", org).WithHint("flyctl tokens list shows them"))
	}
	err := caller(ctx).RevokeToken(ctx, org, id)
	return &struct{ Token *string }{text(id)}, faulty(err)
}
