package mesh

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// servicePort is where the router takes connections to addresses of apps, on the
// resolver's addresses. The firewall leads them there; nobody else gets in.
const servicePort = 4285

// routesOfServices marks our routes in the kernel's local table.
const routesOfServices = netlink.RouteProtocol(0x71)

// servicePrefix holds what every node answers for: the addresses of apps, and in
// org 0 the resolver. No node has the number 0.
func servicePrefix(base netip.Prefix) netip.Prefix { return NodePrefix(base, 0) }

// ServiceAddr returns the private address of an app, at which the machines of its
// org reach the router of their own node, whichever that is. The zero address
// stands for an org without a number.
func ServiceAddr(base netip.Prefix, org uint32, app string) netip.Addr {
	if org == 0 {
		return netip.Addr{}
	}
	sum := sha256.Sum256([]byte("service\x00" + app))
	return private(base, 0, org, binary.BigEndian.Uint32(sum[:]), binary.BigEndian.Uint16(sum[4:]))
}

// ServiceAddr is the function of the same name, with the org by name; invalid
// on a host without IPv6.
func (n *Network) ServiceAddr(org, app string) netip.Addr {
	if !n.IPv6() {
		return netip.Addr{}
	}
	return ServiceAddr(n.cfg.IPv6, n.cfg.OrgNumber(org), app)
}

// ListenServices opens the sockets that take connections to the addresses of
// apps, private ones and those of [Config.AppPools], on every port. The local
// address of such a connection is the one that it was made to.
func (n *Network) ListenServices(ctx context.Context) (all []net.Listener, err error) {
	lc := net.ListenConfig{Control: transparent, KeepAlive: -1}
	lc.SetMultipathTCP(false) // such a socket takes no options once it listens
	for _, a := range n.ResolverAddrs() {
		l, err := lc.Listen(ctx, "tcp", netip.AddrPortFrom(a, servicePort).String())
		if err != nil {
			for _, l := range all {
				_ = l.Close()
			}
			return nil, fmt.Errorf("cannot take connections to the addresses of apps: %w", err)
		}
		all = append(all, l)
	}
	return all, nil
}

// transparent lets a socket have connections to addresses that are not its own.
func transparent(network, _ string, rc syscall.RawConn) (err error) {
	level, option := unix.SOL_IP, unix.IP_TRANSPARENT
	if network == "tcp6" {
		level, option = unix.SOL_IPV6, unix.IPV6_TRANSPARENT
	}
	e := rc.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, option, 1) })
	return errors.Join(e, err)
}

// services are the ranges whose addresses belong to apps one by one.
func (n *Network) services() []netip.Prefix {
	if !n.ipv6 {
		return n.cfg.AppPools
	}
	return append([]netip.Prefix{servicePrefix(n.cfg.IPv6)}, n.cfg.AppPools...)
}

// takeIn has the kernel take packets for the services as its own. A route of
// somebody else for the same range, as of one that announces it, stands beside ours.
func (n *Network) takeIn(l netlink.Link) error {
	if err := n.checkPools(); err != nil {
		return err
	}
	want := map[string]bool{}
	for _, p := range n.services() {
		want[p.String()] = true
		if err := n.host.RouteReplace(serviceRoute(l, p)); err != nil {
			return fmt.Errorf("cannot take in packets for %s: %w", p, err)
		}
	}
	return n.forgetServices(l, want)
}

func serviceRoute(l netlink.Link, p netip.Prefix) *netlink.Route {
	r := &netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet(p), Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, Protocol: routesOfServices, Priority: 2048}
	if p.Addr().Is4() {
		r.Scope = netlink.SCOPE_HOST
	}
	return r
}

// forgetServices removes the routes of pools that are no more.
func (n *Network) forgetServices(l netlink.Link, want map[string]bool) error {
	filter := &netlink.Route{LinkIndex: l.Attrs().Index, Table: unix.RT_TABLE_LOCAL, Protocol: routesOfServices}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := n.host.RouteListFiltered(family, filter, netlink.RT_FILTER_OIF|netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL)
		if err != nil {
			return fmt.Errorf("cannot list the routes of app addresses: %w", err)
		}
		for _, r := range routes {
			if p, ok := prefixOf(r); !ok || want[p.String()] {
				continue
			}
			if err := n.host.RouteDel(&r); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("cannot remove the route of %s: %w", r.Dst, err)
			}
		}
	}
	return nil
}

// checkPools refuses a pool that would take the host's own address from it.
func (n *Network) checkPools() error {
	if len(n.cfg.AppPools) == 0 {
		return nil
	}
	addrs, err := n.host.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return fmt.Errorf("cannot list the addresses of this host: %w", err)
	}
	for _, p := range n.cfg.AppPools {
		for _, a := range addrs {
			if ip, ok := netip.AddrFromSlice(a.IP); ok && p.Contains(ip.Unmap()) {
				return fmt.Errorf("cannot give apps addresses of %s: this host itself has %s; choose a pool of addresses that no host has", p, ip.Unmap())
			}
		}
	}
	return nil
}

// leadRules lead every TCP connection to the address of an app to the router's one
// socket, whatever its port: so no other program of this host is ever reached there.
func (n *Network) leadRules(r rules) {
	r.add(daddr(netip.PrefixFrom(resolver6(n.cfg.IPv6), 128)), accept())
	private := servicePrefix(n.cfg.IPv6)
	r.add(n.fromMachine(), daddr(private), n.lead(private))
	if n.cfg.Wire != "" {
		r.add(n.fromWire(), daddr(private), n.lead(private))
	}
	for _, p := range n.cfg.AppPools {
		r.add(daddr(p), n.lead(p))
	}
}

func (n *Network) lead(to netip.Prefix) []expr.Any {
	family, socket := byte(unix.NFPROTO_IPV6), resolver6(n.cfg.IPv6)
	if to.Addr().Is4() {
		family, socket = unix.NFPROTO_IPV4, at(n.pool, resolverOffset)
	}
	return append(proto(unix.IPPROTO_TCP),
		&expr.Immediate{Register: regKey, Data: socket.AsSlice()},
		&expr.Immediate{Register: regPort, Data: binaryutil.BigEndian.PutUint16(servicePort)},
		&expr.TProxy{Family: family, TableFamily: byte(nftables.TableFamilyINet), RegAddr: regKey, RegPort: regPort},
		&expr.Verdict{Kind: expr.VerdictAccept})
}

// regPort is beyond the 16 bytes of register 1.
const regPort = 2

// led matches packets for the router's socket.
func led() []expr.Any {
	return equal(&expr.Socket{Key: expr.SocketKeyTransparent, Register: regKey}, 1)
}

// machineServiceRules say which apps' addresses machines reach: the private ones of
// their own org, and all public ones. And at none of them anything but the router.
func (n *Network) machineServiceRules(r rules, f firewall) {
	r.add(daddr(servicePrefix(n.cfg.IPv6)), orgAndGroup(destination6, expr.MetaKeyIIFGROUP), member(f.remote), led(), accept())
	r.refuse(daddr(servicePrefix(n.cfg.IPv6)))
	n.poolRules(r)
}

// laptopServiceRules let laptops that enter here reach the apps of their org.
func (n *Network) laptopServiceRules(r rules, f firewall) {
	own := NodePrefix(n.cfg.IPv6, n.cfg.NodeNumber)
	r.add(n.fromWire(), saddr(own), daddr(servicePrefix(n.cfg.IPv6)), bothOrgs(), member(f.laptops), led(), accept())
}

// poolRules close every door of the host at apps' public addresses but the router's.
func (n *Network) poolRules(r rules, match ...[]expr.Any) {
	for _, p := range n.cfg.AppPools {
		to := append(match[:len(match):len(match)], daddr(p))
		r.add(append(to, tracked(), accept())...)
		r.add(append(to, proto(unix.IPPROTO_ICMP), accept())...)
		r.add(append(to, proto(unix.IPPROTO_ICMPV6), accept())...)
		r.add(append(to, led(), accept())...)
		r.refuse(to...)
	}
}
