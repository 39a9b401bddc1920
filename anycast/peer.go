package anycast

import (
	"context"
	"net/netip"

	"github.com/osrg/gobgp/v4/api"
)

// peer is a neighbor in gobgp's words.
func (sp *speaker) peer(n Neighbor) *api.Peer {
	hold := uint64(sp.cfg.HoldTime.Seconds())
	p := &api.Peer{
		Conf:      &api.PeerConf{NeighborAddress: n.Address.String(), PeerAsn: n.ASN, AuthPassword: n.Password},
		Timers:    &api.Timers{Config: &api.TimersConfig{ConnectRetry: connectRetry, HoldTime: hold, KeepaliveInterval: hold / 3, IdleHoldTimeAfterReset: connectRetry}},
		Transport: &api.Transport{RemotePort: uint32(n.Port), LocalAddress: text(sp.cfg.LocalAddr)},
	}
	switch {
	case n.TTLSecurity:
		p.TtlSecurity = &api.TtlSecurity{Enabled: true, TtlMin: 255}
	case n.MultiHop > 1:
		p.EbgpMultihop = &api.EbgpMultihop{Enabled: true, MultihopTtl: uint32(n.MultiHop)}
	}
	for _, f := range families(sp.cfg, n) {
		p.AfiSafis = append(p.AfiSafis, &api.AfiSafi{
			Config:       &api.AfiSafiConfig{Family: f, Enabled: true},
			PrefixLimits: &api.PrefixLimit{Family: f, MaxPrefixes: sp.cfg.MaxReceived},
		})
	}
	return p
}

var (
	ipv4 = &api.Family{Afi: api.Family_AFI_IP, Safi: api.Family_SAFI_UNICAST}
	ipv6 = &api.Family{Afi: api.Family_AFI_IP6, Safi: api.Family_SAFI_UNICAST}
)

// families says what a neighbor is told: prefixes of the family that its session
// is of, with our end of the session as next hop; and those of the other family
// if no neighbor has a session of that one.
func families(cfg Config, n Neighbor) []*api.Family {
	own, other := ipv4, ipv6
	if n.Address.Is6() {
		own, other = ipv6, ipv4
	}
	out := []*api.Family{own}
	if !hasSession(cfg, n.Address.Is6()) && hasPrefix(cfg, n.Address.Is6()) {
		out = append(out, other)
	}
	return out
}

// hasSession reports whether a neighbor's session is of the family.
func hasSession(cfg Config, is4 bool) bool {
	for _, n := range cfg.Neighbors {
		if n.Address.Is4() == is4 {
			return true
		}
	}
	return false
}

func hasPrefix(cfg Config, is4 bool) bool {
	for _, p := range cfg.Prefixes {
		if p.Addr().Is4() == is4 {
			return true
		}
	}
	return false
}

// filter drops whatever neighbors send, and lets nothing out but our own paths
// for the configured prefixes.
func (sp *speaker) filter(ctx context.Context) error {
	policy := &api.Policy{Name: "own"}
	for name, is4 := range map[string]bool{"own4": true, "own6": false} {
		if !hasPrefix(sp.cfg, is4) {
			continue
		}
		if err := sp.bgp.AddDefinedSet(ctx, &api.AddDefinedSetRequest{DefinedSet: prefixSet(sp.cfg.Prefixes, name, is4)}); err != nil {
			return err
		}
		policy.Statements = append(policy.Statements, &api.Statement{
			Name:       name,
			Conditions: &api.Conditions{PrefixSet: &api.MatchSet{Type: api.MatchSet_TYPE_ANY, Name: name}, RouteType: api.Conditions_ROUTE_TYPE_LOCAL},
			Actions:    &api.Actions{RouteAction: api.RouteAction_ROUTE_ACTION_ACCEPT},
		})
	}
	if err := sp.bgp.AddPolicy(ctx, &api.AddPolicyRequest{Policy: policy}); err != nil {
		return err
	}
	for _, d := range []api.PolicyDirection{api.PolicyDirection_POLICY_DIRECTION_IMPORT, api.PolicyDirection_POLICY_DIRECTION_EXPORT} {
		assign := &api.PolicyAssignment{Name: "global", Direction: d, Policies: []*api.Policy{{Name: policy.Name}}, DefaultAction: api.RouteAction_ROUTE_ACTION_REJECT}
		if err := sp.bgp.AddPolicyAssignment(ctx, &api.AddPolicyAssignmentRequest{Assignment: assign}); err != nil {
			return err
		}
	}
	return nil
}

func prefixSet(all []netip.Prefix, name string, is4 bool) *api.DefinedSet {
	set := &api.DefinedSet{DefinedType: api.DefinedType_DEFINED_TYPE_PREFIX, Name: name}
	for _, p := range all {
		if p.Addr().Is4() == is4 {
			bits := uint32(p.Bits())
			set.Prefixes = append(set.Prefixes, &api.Prefix{IpPrefix: p.String(), MaskLengthMin: bits, MaskLengthMax: bits})
		}
	}
	return set
}
