package mesh

import (
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"regexp"
	"strings"
)

// Config says how this node's machine networks are made. Dir is required;
// every other field has a default.
type Config struct {
	// Prefix names our devices, table and slots: 1 to 9 lower-case letters and
	// digits, a letter first. Two networks on one host need two prefixes.
	// Default "perigee".
	Prefix string
	// Node is this node's id. Default "local".
	Node string
	// NodeNumber is this node's number in the cluster, part of its machines' IPv6
	// addresses. Default: a hash of Node, which will do for a node alone.
	NodeNumber uint32
	// OrgNumber gives the number of an org, part of its machines' IPv6 addresses;
	// 0 if it has none. It must answer from memory, and always the same. Default:
	// a hash of the name, which will do for a node alone.
	OrgNumber func(org string) uint32
	// Wire is the WireGuard device that leads to other nodes and to laptops; see
	// package wire. It may come and go. Default "": packets of the mesh neither
	// leave nor enter.
	Wire string
	// Pool is the IPv4 range of the slots, /16 to /26. Default: the first of a
	// few rarely used private ranges that no route of the host overlaps.
	Pool netip.Prefix
	// IPv6 is the /16 that private IPv6 addresses come from. Default fdaa::/16.
	IPv6 netip.Prefix
	// HostPorts are TCP ports of this host that machines may reach too: the
	// public ports of the router, so that an app can call another by its public
	// name. Default none.
	HostPorts []uint16
	// AppPools are the networks whose addresses belong to apps one by one: all TCP to
	// them comes to the sockets of ListenServices, and nothing else of the host is
	// reached at them. No address of the host may be in one. Default none.
	AppPools []netip.Prefix
	// MTU of the machines' devices, in bytes. Default: that of the host's
	// default route, at most 1500.
	MTU int
	// Dir is where the namespaces are bound to files. It must be absolute.
	Dir string
	// Logger receives what changes. Default: none.
	Logger *slog.Logger
}

const slotPrefixMax = 9 // an interface name has 15 bytes: 9, a dash and five digits

var (
	prefixForm  = regexp.MustCompile(`^[a-z][a-z0-9]{0,8}$`)
	wireForm    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,14}$`)
	defaultIPv6 = netip.MustParsePrefix("fdaa::/16")
)

func (c *Config) setDefaults() error {
	if c.Prefix == "" {
		c.Prefix = "perigee"
	}
	if c.Node == "" {
		c.Node = "local"
	}
	if c.NodeNumber == 0 {
		c.NodeNumber = field("node", c.Node)
	}
	if c.OrgNumber == nil {
		c.OrgNumber = func(org string) uint32 { return field("org", org) }
	}
	if !c.IPv6.IsValid() {
		c.IPv6 = defaultIPv6
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c.validate()
}

func (c *Config) validate() error {
	if !prefixForm.MatchString(c.Prefix) {
		return fmt.Errorf("cannot use %q as network prefix: want 1 to %d lower-case letters and digits, a letter first", c.Prefix, slotPrefixMax)
	}
	if !filepath.IsAbs(c.Dir) {
		return fmt.Errorf("cannot use %q as network directory: want an absolute path", c.Dir)
	}
	if c.Pool.IsValid() && (!c.Pool.Addr().Is4() || c.Pool.Bits() < 16 || c.Pool.Bits() > 26) {
		return fmt.Errorf("cannot use %s as IPv4 pool: want an IPv4 range from /16 to /26", c.Pool)
	}
	if !c.IPv6.Addr().Is6() || c.IPv6.Addr().Is4In6() || c.IPv6.Bits() != 16 {
		return fmt.Errorf("cannot use %s as IPv6 range: want a /16, as fdaa::/16", c.IPv6)
	}
	if c.MTU != 0 && (c.MTU < 1280 || c.MTU > 65535) {
		return fmt.Errorf("cannot use %d as MTU: want 1280 to 65535 bytes", c.MTU)
	}
	if c.Wire != "" && (!wireForm.MatchString(c.Wire) || strings.HasPrefix(c.Wire, c.Prefix+"-")) {
		return fmt.Errorf("cannot use %q as WireGuard device: want 1 to 15 letters, digits, dots, hyphens and underscores, not beginning with %q as machines' devices do", c.Wire, c.Prefix+"-")
	}
	c.Pool, c.IPv6 = c.Pool.Masked(), c.IPv6.Masked()
	return nil
}
