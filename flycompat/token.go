package flycompat

import (
	"context"

	graphql "github.com/graph-gophers/graphql-go"
	"github.com/perigee-run/perigee/api"
)

// token is a token with less than all rights.
type token struct {
	ID                   graphql.ID
	Name, Token          string
	TokenHeader          *string
	ExpiresAt, RevokedAt *graphql.Time
	User                 *user
}

// LimitedAccessTokens are the tokens of an app.
func (x *app) LimitedAccessTokens(context.Context, struct{ First *int32 }) (connection[*token], error) {
	return none[*token](), faulty(noTokens())
}

// LimitedAccessTokens are the tokens of an org.
func (x *organization) LimitedAccessTokens(context.Context, struct{ First *int32 }) (connection[*token], error) {
	return none[*token](), faulty(noTokens())
}

type tokenPayload struct{ LimitedAccessToken *token }

// CreateLimitedAccessToken makes a token.
func (*root) CreateLimitedAccessToken(context.Context, struct {
	Input struct {
		ClientMutationID, Expiry *string
		Name, Profile            string
		OrganizationID           graphql.ID
		ProfileParams            *JSON
	}
}) (*tokenPayload, error) {
	return nil, faulty(noTokens())
}

// DeleteLimitedAccessToken revokes a token.
func (*root) DeleteLimitedAccessToken(context.Context, struct {
	Input struct {
		ClientMutationID, Token *string
		ID                      *graphql.ID
	}
}) (*struct{ Token *string }, error) {
	return nil, faulty(noTokens())
}

func noTokens() error {
	return api.Errorf(api.CodeUnsupported, "this node has no tokens with less than all rights")
}
