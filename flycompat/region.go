package flycompat

import "context"

// region is a place where the cloud has nodes.
type region struct {
	Code, Name                                     string
	Latitude, Longitude                            float64
	GatewayAvailable, RequiresPaidPlan, Deprecated bool
}

// regions lists them, and names the one that answers.
func regions(ctx context.Context) (nearest string, all []*region, err error) {
	list, err := caller(ctx).Regions(ctx, "")
	all = make([]*region, len(list.Regions))
	for i, r := range list.Regions {
		all[i] = &region{Code: r.Code, Name: r.Name, Latitude: r.Latitude, Longitude: r.Longitude, GatewayAvailable: r.Gateway}
	}
	return list.Nearest, all, faulty(err)
}

type platform struct {
	RequestRegion *string
	Regions       []*region
}

// Platform is the cloud: its regions, and the one that answers.
func (*root) Platform(ctx context.Context) (*platform, error) {
	nearest, all, err := regions(ctx)
	return &platform{RequestRegion: text(nearest), Regions: all}, err
}

// NearestRegion is the one that answers.
func (*root) NearestRegion(ctx context.Context, _ struct{ WireguardGateway *bool }) (*region, error) {
	nearest, all, err := regions(ctx)
	for _, r := range all {
		if r.Code == nearest {
			return r, nil
		}
	}
	return nil, err
}
