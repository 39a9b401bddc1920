package flycompat

import (
	"context"

	graphql "github.com/graph-gophers/graphql-go"
	"github.com/perigee-run/perigee/api"
)

// machine answers questions about one machine.
type machine struct {
	m  api.Machine
	of *app // where it is known already
}

// ID is the machine's id.
func (x *machine) ID() graphql.ID { return graphql.ID(x.m.ID) }

// Name is the machine's name.
func (x *machine) Name() string { return x.m.Name }

// State is the machine's state.
func (x *machine) State() string { return x.m.State }

// Region is where the machine is.
func (x *machine) Region() string { return x.m.Region }

// Config is the machine's configuration.
func (x *machine) Config() *JSON { return &JSON{x.m.Config} }

// CreatedAt is when the machine was made.
func (x *machine) CreatedAt() graphql.Time { return clock(x.m.CreatedAt) }

// Host is the node that the machine is on.
func (x *machine) Host() *struct{ ID graphql.ID } {
	return &struct{ ID graphql.ID }{graphql.ID(x.m.Node)}
}

// App is the machine's app.
func (x *machine) App(ctx context.Context) (*app, error) {
	if x.of != nil {
		return x.of, nil
	}
	a, err := caller(ctx).GetApp(ctx, x.m.App)
	return &app{a: a}, faulty(err)
}

type machineAddress struct {
	Family, Kind, IP string
	MaskSize         int32
}

// IPs is the machine's address in its private network.
func (x *machine) IPs() connection[machineAddress] {
	if x.m.PrivateIP == "" {
		return none[machineAddress]()
	}
	return whole([]machineAddress{{Family: "v6", Kind: "privatenet", IP: x.m.PrivateIP, MaskSize: 112}})
}

// EgressIPAddresses are none: machines leave by their node's address.
func (x *machine) EgressIPAddresses() connection[*egressAddress] { return none[*egressAddress]() }
