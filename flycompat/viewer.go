package flycompat

import (
	"cmp"
	"context"
	"strings"

	graphql "github.com/graph-gophers/graphql-go"
)

// user is a person or a program, as far as its token says.
type user struct {
	ID              graphql.ID
	Name            *string
	Email           string
	EnablePaidHobby bool
}

// AgreedToProviderTos is true: there are no terms to agree to.
func (*user) AgreedToProviderTos(struct{ ProviderName string }) bool { return true }

// userOf is who has the name. flyctl shows users by their address; a token that is
// called by no address is shown as one of this cloud.
func userOf(name string) *user {
	email := name
	if name == "" {
		email = "perigee"
	}
	if !strings.Contains(email, "@") {
		email += "@perigee"
	}
	return &user{ID: graphql.ID(cmp.Or(name, "perigee")), Name: text(name), Email: email}
}

// viewer is the caller.
type viewer struct{ u *user }

// ToUser gives the caller as a user.
func (v viewer) ToUser() (*user, bool) { return v.u, true }

// ToMacaroon says that callers are users.
func (v viewer) ToMacaroon() (*struct{ Email string }, bool) { return nil, false }

// Viewer says who the caller is.
func (*root) Viewer(ctx context.Context) (*viewer, error) {
	all, err := caller(ctx).CurrentTokens(ctx)
	if err != nil || len(all) == 0 {
		return nil, faulty(err)
	}
	return &viewer{userOf(cmp.Or(all[0].User, all[0].Kind))}, nil
}
