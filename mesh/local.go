package mesh

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
)

// pools are tried in this order. They stay clear of Docker (172.17 to 172.31,
// from below), of Kubernetes, of home routers and of cloud defaults.
var pools = []netip.Prefix{
	netip.MustParsePrefix("10.213.0.0/16"),
	netip.MustParsePrefix("172.29.0.0/16"),
	netip.MustParsePrefix("10.141.0.0/16"),
	netip.MustParsePrefix("192.168.224.0/19"),
	netip.MustParsePrefix("198.18.0.0/16"),
	netip.MustParsePrefix("10.87.0.0/16"),
	netip.MustParsePrefix("10.119.0.0/16"),
	netip.MustParsePrefix("10.167.0.0/16"),
	netip.MustParsePrefix("10.183.0.0/16"),
	netip.MustParsePrefix("10.227.0.0/16"),
	netip.MustParsePrefix("10.249.0.0/16"),
}

func (n *Network) localDevice() string { return n.cfg.Prefix + "-local" }

// hostHasIPv6 reports whether this namespace can use IPv6 at all.
func hostHasIPv6() bool {
	off, err := os.ReadFile("/proc/sys/net/ipv6/conf/all/disable_ipv6")
	return err == nil && strings.TrimSpace(string(off)) == "0"
}

// forwardPackets makes the host a router. Where that would make the kernel deaf
// to router advertisements, and so cost the host its own IPv6, it says to listen on.
func (n *Network) forwardPackets() error {
	if err := setSysctl("net/ipv4/ip_forward", "1"); err != nil {
		return err
	}
	if !n.ipv6 || sysctl("net/ipv6/conf/all/forwarding") == "1" {
		return nil
	}
	confs, _ := filepath.Glob("/proc/sys/net/ipv6/conf/*/accept_ra")
	for _, path := range confs {
		name := strings.TrimPrefix(path, "/proc/sys/")
		if filepath.Base(filepath.Dir(path)) == "all" || sysctl(name) != "1" {
			continue
		}
		if err := setSysctl(name, "2"); err != nil {
			return err
		}
	}
	return setSysctl("net/ipv6/conf/all/forwarding", "1")
}

func sysctl(name string) string {
	b, _ := os.ReadFile("/proc/sys/" + name)
	return strings.TrimSpace(string(b))
}

// setSysctl writes only what differs, so that a read-only /proc with the right
// values will do.
func setSysctl(name, value string) error {
	if sysctl(name) == value {
		return nil
	}
	if err := os.WriteFile("/proc/sys/"+name, []byte(value), 0); err != nil {
		return fmt.Errorf("cannot set %s to %s: %w: run as root, with /proc/sys writable", strings.ReplaceAll(name, "/", "."), value, err)
	}
	return nil
}

// settlePool finds the IPv4 range: that of an earlier run, the configured one,
// or the first that clashes with no route.
func (n *Network) settlePool() error {
	routes, err := n.hostRoutes()
	if err != nil {
		return err
	}
	n.mtu = n.cfg.MTU
	if n.mtu == 0 {
		n.mtu = n.uplinkMTU(routes)
	}
	if n.pool.IsValid() {
		return nil
	}
	if earlier, ok := n.earlierPool(); ok && (!n.cfg.Pool.IsValid() || n.cfg.Pool == earlier) {
		n.pool = earlier
		return nil
	}
	n.pool, err = n.choosePool(routes)
	return err
}

func (n *Network) choosePool(routes []netlink.Route) (netip.Prefix, error) {
	candidates := pools
	if n.cfg.Pool.IsValid() {
		candidates = []netip.Prefix{n.cfg.Pool}
	}
	var clashes []string
	for _, p := range candidates {
		clash, found := n.clash(p, routes)
		if !found {
			return p, nil
		}
		clashes = append(clashes, fmt.Sprintf("%s is in use by route %s", p, clash))
	}
	return netip.Prefix{}, fmt.Errorf("cannot choose an IPv4 pool: %s: configure a free private range", strings.Join(clashes, ", "))
}

// clash finds a route of others, but the default one, that overlaps p.
func (n *Network) clash(p netip.Prefix, routes []netlink.Route) (string, bool) {
	for _, r := range routes {
		dst, ok := prefixOf(r)
		if ok && dst.Bits() > 0 && dst.Overlaps(p) && !n.isOurs(r) {
			return dst.String(), true
		}
	}
	return "", false
}

func prefixOf(r netlink.Route) (netip.Prefix, bool) {
	if r.Dst == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(r.Dst.IP)
	ones, _ := r.Dst.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), ones), ok
}

func (n *Network) isOurs(r netlink.Route) bool {
	l, err := n.host.LinkByIndex(r.LinkIndex)
	return err == nil && strings.HasPrefix(l.Attrs().Name, n.cfg.Prefix+"-")
}

// earlierPool reads the range that an earlier run wrote into the local device.
func (n *Network) earlierPool() (netip.Prefix, bool) {
	l, err := n.host.LinkByName(n.localDevice())
	if err != nil {
		return netip.Prefix{}, false
	}
	pool, _, _ := strings.Cut(l.Attrs().Alias, " ")
	p, err := netip.ParsePrefix(pool)
	return p, err == nil
}

// localAlias is what the local device says of itself: the pool, and whose
// directory the slots' namespaces are in.
func (n *Network) localAlias() string { return n.pool.String() + " " + n.cfg.Dir }

// checkPrefix refuses to touch the devices of another node with the same prefix, which
// may be running or be about to come back. One whose directory is gone is not.
func (n *Network) checkPrefix() error {
	l, err := n.host.LinkByName(n.localDevice())
	if err != nil {
		return nil //nolint:nilerr // there is none: the prefix is free
	}
	_, dir, _ := strings.Cut(l.Attrs().Alias, " ")
	if dir == "" || dir == n.cfg.Dir {
		return nil
	}
	if _, err := os.Stat(dir); err != nil {
		return nil //nolint:nilerr // its state is gone, and with it all claims
	}
	return fmt.Errorf("%w: %q is the network of the node with %s; choose another prefix, or stop that node with its machines", ErrPrefixTaken, n.cfg.Prefix, dir)
}

func (n *Network) hostRoutes() ([]netlink.Route, error) {
	for {
		routes, err := n.host.RouteList(nil, netlink.FAMILY_V4)
		if errors.Is(err, netlink.ErrDumpInterrupted) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("cannot list routes: %w", err)
		}
		return routes, nil
	}
}

func (n *Network) uplinkMTU(routes []netlink.Route) int {
	mtu := 1500
	for _, r := range routes {
		if dst, ok := prefixOf(r); ok && dst.Bits() > 0 {
			continue
		}
		if l, err := n.host.LinkByIndex(r.LinkIndex); err == nil && l.Attrs().MTU >= 1280 {
			mtu = min(mtu, l.Attrs().MTU)
		}
	}
	return mtu
}

// setupLocal makes the device that holds the gateway's and the resolver's
// addresses. Addresses of nobody lead there too, where the firewall refuses
// them, and not to the host's default route.
func (n *Network) setupLocal() error {
	l, err := n.ensureLocal()
	if err != nil {
		return err
	}
	addrs := []netip.Addr{at(n.pool, gatewayOffset), at(n.pool, resolverOffset)}
	ranges := []netip.Prefix{n.pool}
	if n.ipv6 {
		addrs, ranges = append(addrs, resolver6(n.cfg.IPv6)), append(ranges, n.cfg.IPv6)
	}
	for _, a := range addrs {
		if err := addAddr(n.host, l, hostNet(a)); err != nil {
			return err
		}
	}
	for _, p := range ranges {
		if err := n.host.RouteReplace(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet(p)}); err != nil {
			return fmt.Errorf("cannot add route for %s: %w", p, err)
		}
	}
	return n.takeIn(l)
}

// ensureLocal makes the local device anew if it is of another pool.
func (n *Network) ensureLocal() (netlink.Link, error) {
	l, err := n.host.LinkByName(n.localDevice())
	if err == nil && l.Attrs().Alias == n.localAlias() {
		return l, bringUp(n.host, l, n.ipv6)
	}
	if pool, ok := n.earlierPool(); err == nil && ok && pool == n.pool {
		if err := n.host.LinkSetAlias(l, n.localAlias()); err != nil {
			return nil, fmt.Errorf("cannot write pool to device %q: %w", n.localDevice(), err)
		}
		return l, bringUp(n.host, l, n.ipv6)
	}
	if err == nil {
		if err := n.movePool(l); err != nil {
			return nil, err
		}
	}
	if err := n.addLocal(); err != nil {
		return nil, err
	}
	if l, err = n.host.LinkByName(n.localDevice()); err != nil {
		return nil, fmt.Errorf("cannot find device %q: %w", n.localDevice(), err)
	}
	if err := bringUp(n.host, l, n.ipv6); err != nil {
		return nil, err
	}
	if err := n.host.LinkSetAlias(l, n.localAlias()); err != nil {
		return nil, fmt.Errorf("cannot write pool to device %q: %w", n.localDevice(), err)
	}
	return l, nil
}

// movePool ends the earlier pool, unless machines still live in it.
func (n *Network) movePool(local netlink.Link) error {
	links, err := n.links()
	if err != nil {
		return fmt.Errorf("cannot list network devices: %w", err)
	}
	if len(links) > 1 {
		return fmt.Errorf("cannot change the IPv4 pool from %s to %s: %d machine networks use it: stop all machines first",
			local.Attrs().Alias, n.pool, len(links)-1)
	}
	return n.deleteLink(local)
}

// addLocal makes a dummy device, or where the kernel has none a bridge without
// ports, which serves as well.
func (n *Network) addLocal() error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = n.localDevice()
	err := n.host.LinkAdd(&netlink.Dummy{LinkAttrs: attrs})
	if errors.Is(err, syscall.EOPNOTSUPP) {
		err = n.host.LinkAdd(&netlink.Bridge{LinkAttrs: attrs})
	}
	if err != nil {
		return fmt.Errorf("cannot make device %q: %w", attrs.Name, err)
	}
	return nil
}
