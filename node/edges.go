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
	// NameServers are in the form of [zone.ParseNameServer], as the registrar has
	// them. Default: ns.<domain> at this node's public addresses.
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
		Listen: at, Open: n.openDoor, Zone: n.cfg.Domain, Source: &edgeList{Source: clientView{n}}, NameServers: servers, Prefixes: n.cfg.DNS.Prefixes, MMDB: n.cfg.DNS.MMDB, Logger: n.log,
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
	if public := n.publicAddrs(); len(given) == 0 && len(public) > 0 {
		given = []string{"ns." + n.cfg.Domain + "=" + strings.Join(public, ",")}
	}
	var out []zone.NameServer
	for _, s := range given {
		ns, err := zone.ParseNameServer(s)
		if err != nil {
			return nil, fmt.Errorf("cannot use --dns-nameserver: %w", err)
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
		if o.Name == v.n.cfg.Name {
			said.Public, said.Ill = v.n.publicAddrs(), v.n.illness()
		}
		e := zone.Edge{Node: o.Name, Region: o.Region, Up: v.n.up(o.Name) && said.Ill == "", Draining: o.Draining, Load: min(said.Load, 1)}
		for _, s := range said.Public {
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
		out = append(out, func(ctx context.Context) error {
			n.persist(ctx, "dns", n.zone.Run)
			return nil
		})
	}
	return out
}

// keepBGP announces this edge, after who did before.
func (n *Node) keepBGP(ctx context.Context) error {
	if n.anycast == nil {
		return nil
	}
	select { // one that is not open has nothing to announce
	case <-n.router.Ready():
	case <-ctx.Done():
		return nil
	}
	n.cfg.heritage.Want(ctx, wantBGP)
	n.persist(ctx, "bgp", n.anycast.Run) // announced is what keepHealth allows
	return nil
}

// keepDrain takes this edge out of service while its node drains, in the order
// that clients need: first those who lead them here are told, then those who have
// not heard of it get their time, and then the ports close. What is open ends by
// itself. Other nodes are served on until the machines are gone.
func (n *Node) keepDrain(ctx context.Context) error {
	select {
	case <-n.router.Ready():
	case <-ctx.Done():
		return nil
	}
	stop := func() {}
	defer func() { stop() }()
	draining := false
	look := func() {
		if now := n.self().Draining; now != draining {
			draining = now
			stop()
			if now {
				stop = n.leaveEdge(ctx)
			} else {
				n.returnEdge()
			}
		}
	}
	changes := n.cluster.Changes(ctx)
	look() // it may have started so
	for range changes {
		look()
	}
	return nil
}

// leaveEdge begins to leave, and returns what breaks it off.
func (n *Node) leaveEdge(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := n.drainEdge(ctx); err != nil {
			if ctx.Err() == nil {
				n.log.Warn("this edge is not empty", "err", err)
			}
			return
		}
		n.left.Store(true)
		n.sayStatusSoon()
	}()
	return func() { cancel(); <-done }
}

func (n *Node) drainEdge(ctx context.Context) error {
	n.log.Info("this edge drains: clients are led to others")
	if n.anycast != nil {
		if err := n.anycast.Drain(ctx); err != nil {
			return err
		}
	}
	if !n.self().Has(cluster.RoleEdge) {
		return nil
	}
	if why := n.mustStay(); why != "" {
		n.log.Warn("this edge stays open while its node drains", "why", why)
		return nil
	}
	if err := n.heardOfIt(ctx); err != nil {
		return err
	}
	n.log.Info("this edge lets nobody in any more")
	if err := n.router.Drain(ctx); err != nil {
		return err
	}
	return n.cfg.heritage.AwaitGone(ctx)
}

// heardOfIt waits until resolvers and clients have forgotten this edge.
func (n *Node) heardOfIt(ctx context.Context) error {
	wait := n.cfg.DrainWait
	if wait == 0 {
		wait = 5 * time.Second // routes are withdrawn already
	}
	if n.cfg.DrainWait == 0 && n.guided(func(r report) bool { return r.Zone }) {
		wait = zone.DefaultTTL + 10*time.Second
	}
	select {
	case <-time.After(wait):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// mustStay says why clients would find nobody if this edge closed.
func (n *Node) mustStay() string {
	others := slices.ContainsFunc(n.others(), func(o cluster.Node) bool {
		return o.Has(cluster.RoleEdge) && !o.Draining && n.up(o.Name) && !n.isIll(o.Name)
	})
	switch {
	case !others:
		return "no other edge is in service"
	case !n.guided(func(r report) bool { return r.Zone || r.BGP }):
		return "nothing of this cloud leads clients to its edges, neither DNS nor BGP: lead them elsewhere, then stop the node"
	}
	return ""
}

// guided reports whether a node of the cloud, this one among them, leads clients
// to edges in a way.
func (n *Node) guided(by func(report) bool) bool {
	return slices.ContainsFunc(n.cluster.Nodes(), func(o cluster.Node) bool {
		said, _ := n.heard(o.Name)
		return by(said)
	})
}

// returnEdge lets clients in again.
func (n *Node) returnEdge() {
	n.left.Store(false)
	n.router.Resume()
	if n.anycast != nil {
		n.anycast.Undrain()
	}
	n.sayStatusSoon()
	n.log.Info("this edge is in service again")
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
