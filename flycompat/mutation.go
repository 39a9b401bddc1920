package flycompat

import (
	"cmp"
	"context"
	"strings"

	graphql "github.com/graph-gophers/graphql-go"
	"github.com/perigee-run/perigee/api"
)

// appPayload is what becomes of an app.
type appPayload struct {
	App              *app
	ClientMutationID *string
}

// appAgain is the app after something was done to it.
func appAgain(ctx context.Context, name string) (*appPayload, error) {
	a, err := caller(ctx).GetApp(ctx, name)
	return &appPayload{App: &app{a: a}}, faulty(err)
}

// CreateApp makes an app.
func (*root) CreateApp(ctx context.Context, args struct {
	Input struct {
		ClientMutationID, Name, Runtime, PreferredRegion, Network, AppRoleID *string
		OrganizationID                                                       graphql.ID
		Machines, Heroku, EnableSubdomains                                   *bool
	}
}) (*appPayload, error) {
	in := args.Input
	if _, err := caller(ctx).CreateApp(ctx, api.CreateAppRequest{AppName: value(in.Name), OrgSlug: string(in.OrganizationID), Network: value(in.Network)}); err != nil {
		return nil, faulty(err)
	}
	return appAgain(ctx, value(in.Name))
}

type organizationPayload struct{ Organization *organization }

// DeleteApp destroys an app with all that belongs to it.
func (*root) DeleteApp(ctx context.Context, args struct{ AppID graphql.ID }) (*organizationPayload, error) {
	a, err := caller(ctx).GetApp(ctx, string(args.AppID))
	if err == nil {
		err = caller(ctx).DeleteApp(ctx, string(args.AppID))
	}
	return &organizationPayload{&organization{a.Organization}}, faulty(err)
}

type releasePayload struct{ Release *release }

// CreateRelease writes down a release that the client carries out.
func (*root) CreateRelease(ctx context.Context, args struct {
	Input struct {
		ClientMutationID, PlatformVersion, Strategy *string
		AppID                                       graphql.ID
		BuildID                                     *graphql.ID
		Image                                       string
		Definition                                  *JSON
	}
}) (*releasePayload, error) {
	in := args.Input
	r, err := record(ctx, caller(ctx), string(in.AppID), in.Image, value(in.Strategy), in.Definition.object())
	return &releasePayload{&release{r}}, faulty(err)
}

// UpdateRelease says what has become of it.
func (*root) UpdateRelease(ctx context.Context, args struct {
	Input struct {
		ClientMutationID *string
		ReleaseID        graphql.ID
		Status           string
		Metadata         *JSON
	}
}) (*releasePayload, error) {
	r, err := conclude(ctx, caller(ctx), string(args.Input.ReleaseID), args.Input.Status)
	return &releasePayload{&release{r}}, faulty(err)
}

// SetSecrets sets secrets. It makes no release: flyctl makes one itself.
func (*root) SetSecrets(ctx context.Context, args struct {
	Input struct {
		ClientMutationID *string
		AppID            graphql.ID
		Secrets          []struct{ Key, Value string }
		ReplaceAll       *bool
	}
}) (*releasePayload, error) {
	c, name, values := caller(ctx), string(args.Input.AppID), map[string]*string{}
	if value(args.Input.ReplaceAll) {
		old, err := c.ListSecrets(ctx, name)
		if err != nil {
			return nil, faulty(err)
		}
		for _, s := range old {
			values[s.Name] = nil
		}
	}
	for _, s := range args.Input.Secrets {
		values[s.Key] = &s.Value
	}
	_, err := c.SetSecrets(ctx, name, values)
	return &releasePayload{}, faulty(err)
}

// UnsetSecrets removes secrets.
func (*root) UnsetSecrets(ctx context.Context, args struct {
	Input struct {
		ClientMutationID *string
		AppID            graphql.ID
		Keys             []string
	}
}) (*releasePayload, error) {
	values := map[string]*string{}
	for _, k := range args.Input.Keys {
		values[k] = nil
	}
	_, err := caller(ctx).SetSecrets(ctx, string(args.Input.AppID), values)
	return &releasePayload{}, faulty(err)
}

type addressPayload struct {
	App       *app
	IPAddress *ipAddress
}

// AllocateIPAddress gives an app an address of its own.
func (*root) AllocateIPAddress(ctx context.Context, args struct {
	Input struct {
		ClientMutationID, Region, Network, ServiceName *string
		AppID                                          graphql.ID
		Type                                           string
		OrganizationID                                 *graphql.ID
	}
}) (*addressPayload, error) {
	in := args.Input
	i, err := caller(ctx).AllocateIP(ctx, string(in.AppID), api.AllocateIPRequest{Type: in.Type, Region: value(in.Region)})
	if err != nil {
		return nil, faulty(err)
	}
	p, err := appAgain(ctx, string(in.AppID))
	return &addressPayload{App: p.App, IPAddress: addressOf(i)}, err
}

// ReleaseIPAddress takes an address from an app.
func (*root) ReleaseIPAddress(ctx context.Context, args struct {
	Input struct {
		ClientMutationID, IP *string
		AppID, IPAddressID   *graphql.ID
	}
}) (*appPayload, error) {
	name, ip := string(value(args.Input.AppID)), cmp.Or(value(args.Input.IP), string(value(args.Input.IPAddressID)))
	if err := caller(ctx).ReleaseIP(ctx, name, ip); err != nil {
		return nil, faulty(err)
	}
	return appAgain(ctx, name)
}

// LogOut has nothing to do: the client forgets its token, which may be in use
// elsewhere.
func (*root) LogOut(struct {
	Input struct{ ClientMutationID *string }
}) *struct{ Ok bool } {
	return &struct{ Ok bool }{true}
}

// record writes down a release that a client carries out.
func record(ctx context.Context, c *api.Client, name, image, strategy string, definition map[string]any) (api.Release, error) {
	strategy = strings.ToLower(strategy)
	switch strategy {
	case "rolling_one":
		strategy = "rolling"
	case "simple":
		strategy = "immediate"
	}
	if !strings.Contains(image, "@") { // a tag may mean another image by the time of a rollback
		if i, err := c.ResolveImage(ctx, name, image); err == nil {
			image = i.Ref
		}
	}
	return c.RecordRelease(ctx, name, api.RecordReleaseRequest{Image: image, Strategy: strategy, Definition: definition, Description: "flyctl deploy"})
}

// conclude says what has become of a release. Words that the API does not have
// are failures that say so.
func conclude(ctx context.Context, c *api.Client, id, status string) (api.Release, error) {
	name, version, err := parseReleaseID(id)
	if err != nil {
		return api.Release{}, err
	}
	req := api.UpdateReleaseRequest{Status: status}
	switch status {
	case api.ReleasePending, api.ReleaseRunning, api.ReleaseComplete, api.ReleaseFailed:
	case "succeeded":
		req.Status = api.ReleaseComplete
	default:
		req.Status, req.Reason = api.ReleaseFailed, status
	}
	return c.UpdateRelease(ctx, name, version, req)
}
