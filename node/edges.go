package node

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/perigee-run/perigee/anycast"
	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/cluster"
	"github.com/perigee-run/perigee/dns/zone"
)

// DNS says how this node answers for the domain as its DNS server.
type DNS struct {
	// Listen is HOST:PORT, UDP and TCP. Default: it does not.
	Listen string
	// NameServers are NAME=ADDRESS, as the registrar has them. Default: ns.<domain>
	// at this node's public addresses.
	NameServers []string
	// Prefixes and MMDB are files that tell where clients are; see package zone.
	Prefixes, MMDB string
}

// Anycast says what this node announces by BGP, and to whom.
type Anycast struct {
	// Prefixes are the addresses that all edges share; Pools those that apps get
	// addresses of their own from. Both are announced.
	Prefixes string
	Pools    []string
	// ASN is ours; Neighbors are routers in the form of [anycast.ParseNeighbor].
	ASN       string
	Neighbors []string
}

// pools are the networks of the apps' own addresses.
func (c *Config) pools() (out []netip.Prefix, err error) {
	for _, s := range c.Anycast.Pools {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, fmt.Errorf("cannot use %q as --ip-pool: want a prefix such as 203.0.113.0/28", s)
		}
		out = append(out, p)
	}
	return out, nil
}

// openClients opens what leads clients to the nearest edge: the DNS server of
// the domain and the BGP sessions, where they are asked for.
func (n *Node) openClients(context.Context) error {
	if err := n.openZone(); err != nil {
		return err
	}
	return n.openAnycast()
}

func (n *Node) openZone() error {
	if n.cfg.DNS.Listen == "" {
		return nil
	}
	at, err := listenAddrs(n.cfg.DNS.Listen)
	if err != nil {
		return err
	}
	servers, err := n.nameServers()
	if err != nil {
		return err
	}
	n.zone, err = zone.New(zone.Config{
		Listen: at, Zone: n.cfg.Domain, Source: clientView{n}, NameServers: servers, Prefixes: n.cfg.DNS.Prefixes, MMDB: n.cfg.DNS.MMDB, Logger: n.log,
	})
	return err
}

func listenAddrs(s string) ([]netip.AddrPort, error) {
	host, port, err := net.SplitHostPort(s)
	if err == nil && host == "" {
		host = "::"
	}
	at, err2 := netip.ParseAddrPort(net.JoinHostPort(host, port))
	if err != nil || err2 != nil {
		return nil, fmt.Errorf("cannot use %q as --dns-listen: want ADDRESS:PORT, such as 203.0.113.7:53", s)
	}
	return []netip.AddrPort{at}, nil
}

func (n *Node) nameServers() ([]zone.NameServer, error) {
	given := n.cfg.DNS.NameServers
	if len(given) == 0 {
		for _, a := range n.publicAddrs() {
			given = append(given, "ns."+n.cfg.Domain+"="+a)
		}
	}
	var out []zone.NameServer
	for _, s := range given {
		name, text, _ := strings.Cut(s, "=")
		ns := zone.NameServer{Name: name}
		if text != "" {
			a, err := netip.ParseAddr(text)
			if err != nil {
				return nil, fmt.Errorf("cannot use %q as --dns-nameserver: want NAME=ADDRESS, such as ns1.%s=203.0.113.7", s, n.cfg.Domain)
			}
			ns.Addrs = append(ns.Addrs, a)
		}
		if i := slices.IndexFunc(out, func(o zone.NameServer) bool { return o.Name == name }); i >= 0 {
			out[i].Addrs = append(out[i].Addrs, ns.Addrs...)
			continue
		}
		out = append(out, ns)
	}
	return out, nil
}

// clientView is the cloud as the DNS server sees it.
type clientView struct{ n *Node }

// Edges implements zone.Source.
func (v clientView) Edges() []zone.Edge {
	var out []zone.Edge
	for _, o := range v.n.cluster.Nodes() {
		if !o.Has(cluster.RoleEdge) {
			continue
		}
		said, _ := v.n.heard(o.Name)
		public := said.Public
		if o.Name == v.n.cfg.Name {
			public = v.n.publicAddrs()
		}
		e := zone.Edge{Node: o.Name, Region: o.Region, Up: v.n.up(o.Name), Draining: o.Draining}
		for _, s := range public {
			a, err := netip.ParseAddr(s)
			switch {
			case err != nil: // a name: the zone gives addresses
			case a.Is4():
				e.IPv4 = append(e.IPv4, a)
			default:
				e.IPv6 = append(e.IPv6, a)
			}
		}
		out = append(out, e)
	}
	return out
}

// App implements zone.Source.
func (v clientView) App(name string) (zone.App, bool) {
	if _, err := v.n.apps.Get(name); err != nil {
		return zone.App{}, false
	}
	return zone.App{Exists: true, IPs: v.n.apps.Addresses(name)}, true
}

func (n *Node) openAnycast() error {
	c := n.cfg.Anycast
	if len(c.Neighbors) == 0 {
		return nil
	}
	cfg := anycast.Config{Logger: n.log, GracefulShutdown: true, DrainWait: n.cfg.DrainWait}
	var err error
	if cfg.ASN, err = anycast.ParseASN(c.ASN); err != nil {
		return fmt.Errorf("cannot use --bgp-asn: %w", err)
	}
	if c.Prefixes != "" {
		if cfg.Prefixes, err = anycast.ParsePrefixes(c.Prefixes); err != nil {
			return fmt.Errorf("cannot use --anycast: %w", err)
		}
	}
	pools, err := n.cfg.pools()
	if err != nil {
		return err
	}
	cfg.Prefixes = append(cfg.Prefixes, pools...)
	for _, s := range c.Neighbors {
		neighbor, err := anycast.ParseNeighbor(s)
		if err != nil {
			return fmt.Errorf("cannot use --bgp-neighbor: %w", err)
		}
		cfg.Neighbors = append(cfg.Neighbors, neighbor)
	}
	cfg.RouterID = n.routerID()
	n.anycast, err = anycast.New(cfg)
	return err
}

// routerID is this node's IPv4 address, or its number written as one.
func (n *Node) routerID() netip.Addr {
	if a, err := netip.ParseAddr(n.self().Address); err == nil && a.Is4() {
		return a
	}
	num := n.self().Number
	return netip.AddrFrom4([4]byte{byte(num >> 24), byte(num >> 16), byte(num >> 8), byte(num)})
}

// clientWorks are what is run of it.
func (n *Node) clientWorks() (out []func(context.Context) error) {
	if n.zone != nil {
		out = append(out, n.zone.Run)
	}
	if n.anycast != nil {
		out = append(out, n.anycast.Run, n.keepAnycast)
	}
	return out
}

// keepAnycast announces this edge while it can serve: its router is open, and it
// is not draining.
func (n *Node) keepAnycast(ctx context.Context) error {
	select {
	case <-n.router.Ready():
	case <-ctx.Done():
		return nil
	}
	n.anycast.SetHealthy(true, "the router is open")
	draining := false
	for range n.cluster.Changes(ctx) {
		if now := n.self().Draining; now != draining {
			draining = now
			n.drainAnycast(ctx, now)
		}
	}
	return nil
}

func (n *Node) drainAnycast(ctx context.Context, draining bool) {
	if !draining {
		n.anycast.Undrain()
		return
	}
	if err := n.anycast.Drain(ctx); err != nil && ctx.Err() == nil {
		n.log.Warn("cannot withdraw from BGP", "err", err)
	}
}

// bgpProblems are sessions that do not stand.
func (n *Node) bgpProblems() (out []api.Problem) {
	if n.anycast == nil {
		return nil
	}
	for _, s := range n.anycast.Status().Sessions {
		if !s.Established && time.Since(s.Since) > 10*time.Second {
			out = append(out, api.Problem{Name: "bgp", Fault: fmt.Sprintf("no session with %s: %s", s.Neighbor, s.Error), Cure: "clients of other edges are not affected; look at both ends' configuration"})
		}
	}
	return out
}
