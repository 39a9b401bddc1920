package flycompat

import (
	"context"
	"errors"
	"slices"
	"strings"

	graphql "github.com/graph-gophers/graphql-go"
	"github.com/perigee-run/perigee/api"
)

var (
	errNoInput = errors.New("this is not for input")
	errNoName  = errors.New("this is not a name")
)

// root answers the questions at the top.
type root struct{}

// connection is a list as GraphQL clients page through it; ours are whole.
type connection[T any] struct {
	PageInfo   pageInfo
	TotalCount int32
	Nodes      []T
}

type pageInfo struct {
	HasNextPage bool
	EndCursor   *string
}

func whole[T any](nodes []T) connection[T] {
	return connection[T]{TotalCount: int32(len(nodes)), Nodes: orEmpty(nodes)}
}

// none is an empty list of things that do not exist here.
func none[T any]() connection[T] { return whole[T](nil) }

type appsArgs struct {
	Type, After, Before, Role *string
	First, Last               *int32
	OrganizationID            *graphql.ID
}

// Apps lists the apps that the caller may see. None of them has a role: those are
// for apps that Fly itself runs.
func (*root) Apps(ctx context.Context, args appsArgs) (connection[*app], error) {
	all, err := caller(ctx).ListApps(ctx)
	if err != nil || value(args.Role) != "" {
		return none[*app](), faulty(err)
	}
	org := string(value(args.OrganizationID))
	all = slices.DeleteFunc(all, func(a api.App) bool { return org != "" && a.Organization.Slug != org })
	return whole(appsOf(all)), nil
}

type appArgs struct{ Name, InternalID *string }

// App is one app. That there is none is said in the words that flyctl looks for.
func (*root) App(ctx context.Context, args appArgs) (*app, error) {
	a, err := caller(ctx).GetApp(ctx, value(args.Name))
	if api.IsCode(err, api.CodeNotFound) || value(args.Name) == "" {
		return nil, faulty(api.Errorf(api.CodeNotFound, "Could not find App %q", value(args.Name)).WithHint("flyctl apps list shows them"))
	}
	if err != nil {
		return nil, faulty(err)
	}
	return &app{a: a}, nil
}

// AppNameAvailable says whether a new app could have the name, as far as the
// caller can know.
func (*root) AppNameAvailable(ctx context.Context, args struct{ Name string }) (bool, error) {
	_, err := caller(ctx).GetApp(ctx, args.Name)
	if api.IsCode(err, api.CodeNotFound) {
		return true, nil
	}
	return false, faulty(err)
}

// Machine finds the app of a machine by its id alone.
func (*root) Machine(ctx context.Context, args struct{ MachineID string }) (*machine, error) {
	c := caller(ctx)
	apps, err := c.ListApps(ctx)
	if err != nil {
		return nil, faulty(err)
	}
	for _, a := range apps {
		m, err := c.GetMachine(ctx, a.Name, args.MachineID)
		if err == nil {
			return &machine{m: m}, nil
		}
		if !api.IsCode(err, api.CodeNotFound) {
			return nil, faulty(err)
		}
	}
	return nil, faulty(api.Errorf(api.CodeNotFound, "there is no machine %q", args.MachineID))
}

// CanPerformBluegreenDeployment is true for every app that there is.
func (*root) CanPerformBluegreenDeployment(ctx context.Context, args struct{ Name string }) (bool, error) {
	_, err := caller(ctx).GetApp(ctx, args.Name)
	return err == nil, faulty(err)
}

// LatestImageTag is for Fly's own images; there are none.
func (*root) LatestImageTag(struct {
	Repository string
	SnapshotID *graphql.ID
}) *string {
	return nil
}

// LatestImageDetails are of Fly's own images. Of any other Fly says that it does not
// know it, in words that flyctl looks for.
func (*root) LatestImageDetails(args struct {
	Image      string
	FlyVersion *string
}) (*imageVersion, error) {
	return nil, faulty(api.Errorf(api.CodeNotFound, "Unknown repository %q: nobody says which of its images is the newest", args.Image))
}

// AddOns are none.
func (*root) AddOns(struct {
	Type  *AddOnType
	First *int32
}) connection[*addOn] {
	return none[*addOn]()
}

// AddOn is never there.
func (*root) AddOn(struct {
	Name, Provider *string
	ID             *graphql.ID
}) *addOn {
	return nil
}

// addOn is what Fly sells beside machines.
type addOn struct {
	ID                                        graphql.ID
	Name, PrimaryRegion, Status, ErrorMessage *string
	PublicURL, PrivateIP, Password, SsoLink   *string
	Metadata, Options, Environment            *JSON
	ReadRegions                               *[]string
	Organization                              *organization
	App                                       *app
	AddOnPlan                                 *addOnPlan
}

type addOnPlan struct {
	ID                             graphql.ID
	Name, DisplayName, Description *string
}

// imageVersion is a reference in its parts.
type imageVersion struct {
	Registry, Repository, Tag, Digest string
	Version                           *string
}

// versionOf takes a reference apart.
func versionOf(ref string) *imageVersion {
	v := &imageVersion{}
	ref, v.Digest, _ = strings.Cut(ref, "@")
	if i := strings.LastIndexByte(ref, ':'); i > strings.LastIndexByte(ref, '/') {
		ref, v.Tag = ref[:i], ref[i+1:]
	}
	host, rest, ok := strings.Cut(ref, "/")
	if !ok || !strings.ContainsAny(host, ".:") && host != "localhost" {
		host, rest = "docker.io", ref
	}
	v.Registry, v.Repository = host, rest
	return v
}
