package flycompat

import (
	"cmp"
	"context"
	"strconv"

	graphql "github.com/graph-gophers/graphql-go"
	"github.com/perigee-run/perigee/api"
)

// organization answers questions about one org.
type organization struct{ o api.Organization }

// orgs are those that the caller sees, by name.
func orgs(ctx context.Context, c *api.Client) ([]api.Organization, error) {
	all, err := c.ListOrgs(ctx)
	out := []api.Organization{}
	for _, o := range all {
		out = append(out, api.Organization{Name: o.Name, Slug: o.Slug})
	}
	return out, err
}

// org is the one with the slug.
func org(ctx context.Context, c *api.Client, slug string) (api.Organization, error) {
	all, err := orgs(ctx, c)
	if err != nil {
		return api.Organization{}, err
	}
	for _, o := range all {
		if o.Slug == slug {
			return o, nil
		}
	}
	return api.Organization{}, api.Errorf(api.CodeNotFound, "there is no organization %q", slug).WithHint("flyctl orgs list shows them")
}

// Organizations lists the orgs that the caller has to do with.
func (*root) Organizations(ctx context.Context, _ struct {
	Admin       *bool
	First       *int32
	After, Type *string
}) (connection[*organization], error) {
	all, err := orgs(ctx, caller(ctx))
	var out []*organization
	for _, o := range all {
		out = append(out, &organization{o})
	}
	return whole(out), faulty(err)
}

// Organization is one org, by its slug, which is its id as well.
func (*root) Organization(ctx context.Context, args struct {
	Slug, Name *string
	ID         *graphql.ID
}) (*organization, error) {
	o, err := org(ctx, caller(ctx), cmp.Or(cmp.Or(value(args.Slug), string(value(args.ID))), value(args.Name)))
	if err != nil {
		return nil, faulty(err)
	}
	return &organization{o}, nil
}

// ID is the slug, which is how flyctl goes on to speak of the org.
func (x *organization) ID() graphql.ID { return graphql.ID(x.o.Slug) }

// InternalNumericID is made from the slug.
func (x *organization) InternalNumericID() string { return strconv.Itoa(int(number(x.o.Slug))) }

// Slug is the org's short name.
func (x *organization) Slug() string { return x.o.Slug }

// RawSlug is the same: no org is called personal that has another name.
func (x *organization) RawSlug() string { return x.o.Slug }

// Name is the org's name.
func (x *organization) Name() string { return cmp.Or(x.o.Name, x.o.Slug) }

// Type tells the org of a person from one of several.
func (x *organization) Type() string {
	if x.o.Slug == "personal" {
		return "PERSONAL"
	}
	return "SHARED"
}

// ViewerRole is what the caller is in the org; what the token may do counts.
func (x *organization) ViewerRole() string { return "admin" }

// PaidPlan is true: nothing is kept from anybody for want of a plan.
func (x *organization) PaidPlan() bool { return true }

// Billable is true for the same reason.
func (x *organization) Billable() bool { return true }

// BillingStatus says that nothing is owed.
func (x *organization) BillingStatus() string { return "CURRENT" }

// AddOnSsoLink is for add-ons; there are none.
func (x *organization) AddOnSsoLink() *string { return nil }

// ExtensionSsoLink is for add-ons; there are none.
func (x *organization) ExtensionSsoLink(struct{ Provider string }) *string { return nil }

// ProvisionsBetaExtensions is for add-ons; there are none.
func (x *organization) ProvisionsBetaExtensions() bool { return false }

// RemoteBuilderImage is none: flyctl builds with Docker, perigee on the node.
func (x *organization) RemoteBuilderImage() *string { return nil }

// RemoteBuilderApp is none.
func (x *organization) RemoteBuilderApp() *app { return nil }

// AddOns are none.
func (x *organization) AddOns(struct{ Type *AddOnType }) connection[*addOn] { return none[*addOn]() }

type members struct{ Edges []membership }

type membership struct {
	Cursor, Role string
	Node         *user
	JoinedAt     graphql.Time
}

// Members are none: who has a token belongs to the org.
func (x *organization) Members() members { return members{Edges: []membership{}} }

// Apps are the org's apps.
func (x *organization) Apps(ctx context.Context) (connection[*app], error) {
	id := x.ID()
	return (*root)(nil).Apps(ctx, appsArgs{OrganizationID: &id})
}
