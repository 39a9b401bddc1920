package flycompat

import (
	"context"

	graphql "github.com/graph-gophers/graphql-go"
	"github.com/perigee-run/perigee/api"
)

// app answers questions about one app; what takes a call of its own is asked for
// only if the query names it.
type app struct{ a api.App }

func appsOf(all []api.App) []*app {
	out := make([]*app, len(all))
	for i := range all {
		out[i] = &app{a: all[i]}
	}
	return out
}

// ID is the app's name, which is how flyctl goes on to speak of it.
func (x *app) ID() graphql.ID { return graphql.ID(x.a.Name) }

// InternalNumericID is made from the name.
func (x *app) InternalNumericID() int32 { return number(x.a.Name) }

// Name is the app's name.
func (x *app) Name() string { return x.a.Name }

// Hostname is the name under which the app answers.
func (x *app) Hostname() *string { return text(x.a.Hostname) }

// CnameTarget is what a custom name should point to.
func (x *app) CnameTarget() *string { return text(x.a.Hostname) }

// AppURL is the address to open in a browser.
func (x *app) AppURL() *string { return text(x.a.URL) }

// Deployed reports whether the app has machines or a release.
func (x *app) Deployed() bool { return x.a.Status == "deployed" }

// Status is the app's status.
func (x *app) Status() string { return x.a.Status }

// State is the same in the words of older clients.
func (x *app) State() string {
	if x.a.Status == "deployed" {
		return "DEPLOYED"
	}
	return "PENDING"
}

// Version is that of the newest complete release.
func (x *app) Version() int32 { return int32(x.a.Release) }

// PlatformVersion says that the app is made of machines, as all are.
func (x *app) PlatformVersion() string { return "machines" }

// Network is the private network; the default one has no name in Fly's words.
func (x *app) Network() *string {
	if x.a.Network == "default" {
		return nil
	}
	return text(x.a.Network)
}

// NetworkID is made from the network's name.
func (x *app) NetworkID() *int32 {
	n := number(x.a.Organization.Slug + "/" + x.a.Network)
	return &n
}

// CreatedAt is when the app was made.
func (x *app) CreatedAt() graphql.Time { return clock(x.a.CreatedAt) }

// Organization is the app's owner.
func (x *app) Organization() *organization { return &organization{o: x.a.Organization} }

// Role is for apps that Fly itself runs.
func (x *app) Role() *struct{ Name string } { return nil }

// ImageUpgradeAvailable is for Fly's own images.
func (x *app) ImageUpgradeAvailable() bool { return false }

// ImageVersionTrackingEnabled is for Fly's own images.
func (x *app) ImageVersionTrackingEnabled() bool { return false }

// LatestImageDetails is for Fly's own images.
func (x *app) LatestImageDetails() *imageVersion { return nil }

// SharedIPAddress is none: the edges answer every app by its name.
func (x *app) SharedIPAddress() *string { return nil }

// CurrentLock is none: leases keep deploys apart.
func (x *app) CurrentLock() *struct {
	LockID     graphql.ID
	Expiration graphql.Time
} {
	return nil
}

// Allocations are of a platform that is no more.
func (x *app) Allocations(struct{ ShowCompleted *bool }) []struct {
	ID        graphql.ID
	Region    string
	PrivateIP *string
} {
	return nil
}

// AddOns are none.
func (x *app) AddOns(struct{ Type *AddOnType }) connection[*addOn] { return none[*addOn]() }

// EgressIPAddresses are none: machines leave by their node's address.
func (x *app) EgressIPAddresses() connection[*egressAddress] { return none[*egressAddress]() }

type egressAddress struct {
	ID         graphql.ID
	IP, Region string
	Version    int32
	UpdatedAt  graphql.Time
}

// Regions are where the cloud has nodes.
func (x *app) Regions(ctx context.Context) ([]*region, error) {
	_, all, err := regions(ctx)
	return all, err
}

// Config is the definition of the release that runs.
func (x *app) Config(ctx context.Context) (*struct{ Definition *JSON }, error) {
	r, err := x.current(ctx)
	if err != nil || r == nil {
		return &struct{ Definition *JSON }{}, err
	}
	return &struct{ Definition *JSON }{object(r.r.Definition)}, nil
}

type secret struct {
	Name, Digest string
	CreatedAt    graphql.Time
}

// Secrets are the app's secrets without their values.
func (x *app) Secrets(ctx context.Context) ([]secret, error) {
	all, err := caller(ctx).ListSecrets(ctx, x.a.Name)
	out := make([]secret, len(all))
	for i, s := range all {
		out[i] = secret{Name: s.Name, Digest: s.Digest, CreatedAt: clock(s.CreatedAt)}
	}
	return out, faulty(err)
}

type port struct {
	Port     int32
	Handlers []string
}

type service struct {
	Description  *string
	Protocol     string
	InternalPort int32
	Ports        []port
}

// Services are those of the app's first machine: all of a group are alike.
func (x *app) Services(ctx context.Context) ([]service, error) {
	out := []service{}
	all, err := caller(ctx).ListMachines(ctx, x.a.Name)
	if err != nil || len(all) == 0 || all[0].Config == nil {
		return out, faulty(err)
	}
	for _, s := range all[0].Config.Services {
		v := service{Protocol: s.Protocol, InternalPort: int32(s.InternalPort), Ports: []port{}}
		for _, p := range s.Ports {
			v.Ports = append(v.Ports, port{Port: int32(p.Port), Handlers: orEmpty(p.Handlers)})
		}
		out = append(out, v)
	}
	return out, nil
}

type ipAddress struct {
	ID            graphql.ID
	Address, Type string
	Region        *string
	CreatedAt     graphql.Time
	Network       *struct {
		Name         string
		Organization *organization
	}
	ServiceName *string
}

func addressOf(i api.IPAssignment) *ipAddress {
	return &ipAddress{ID: graphql.ID(i.IP), Address: i.IP, Type: i.Type, Region: text(i.Region), CreatedAt: clock(i.CreatedAt), ServiceName: text(i.ServiceName)}
}

// IPAddresses are the app's own addresses.
func (x *app) IPAddresses(ctx context.Context, _ struct{ First *int32 }) (connection[*ipAddress], error) {
	all, err := caller(ctx).ListIPs(ctx, x.a.Name)
	var out []*ipAddress
	for _, i := range all {
		out = append(out, addressOf(i))
	}
	return whole(out), faulty(err)
}

type image struct {
	ID                 graphql.ID
	Ref, Digest        string
	CompressedSizeFull BigInt
	Manifest           *JSON
}

// Image brings an image to the cloud and says which one it is.
func (x *app) Image(ctx context.Context, args struct{ Ref string }) (*image, error) {
	i, err := caller(ctx).ResolveImage(ctx, x.a.Name, args.Ref)
	if err != nil {
		return nil, faulty(err)
	}
	// The reference by digest is what machines get, whatever the tag means later. Were
	// the digest named beside it, flyctl would write it behind the reference once more.
	return &image{ID: graphql.ID(i.Digest), Ref: i.Ref, CompressedSizeFull: BigInt(i.Size)}, nil
}

// ImageDetails is the image of the release that runs.
func (x *app) ImageDetails(ctx context.Context) (*imageVersion, error) {
	r, err := x.current(ctx)
	if err != nil || r == nil {
		return nil, err
	}
	return versionOf(r.r.Image), nil
}

// Machines are the app's machines.
func (x *app) Machines(ctx context.Context, _ struct{ Active *bool }) (connection[*machine], error) {
	all, err := caller(ctx).ListMachines(ctx, x.a.Name)
	var out []*machine
	for _, m := range all {
		out = append(out, &machine{m: m, of: x})
	}
	return whole(out), faulty(err)
}
