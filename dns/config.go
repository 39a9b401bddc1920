package dns

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/perigee-run/perigee/dns/door"
)

// Machine is what the resolver must know of one machine.
type Machine struct {
	ID, App, Region string
	// Group is the process group, as "app" or "worker".
	Group string
	// IPv6 is the private address; IPv4 is only used for reverse names and may be invalid.
	IPv6, IPv4 netip.Addr
	// Started machines are answered with; others only appear in all.vms.<app>.
	Started bool
	// RTT is the distance from this node, for top<N>.nearest; 0 here.
	RTT time.Duration
	// Metadata of the machine, for kv._metadata.
	Metadata map[string]string
}

// Source is the read-only view that .internal is answered from. It is asked on
// every query, from many goroutines, and must answer from memory.
type Source interface {
	// Machines returns every machine of an app of the org, in any state.
	Machines(org, app string) []Machine
	// MachineAt finds the org's machine with a private address.
	MachineAt(org string, a netip.Addr) (Machine, bool)
	// Has says whether the app is the org's.
	Has(org, app string) bool
	// Apps returns the names of the org's apps.
	Apps(org string) []string
	// Service returns the private address of an app of the org, behind which the
	// router wakes machines and spreads the load; invalid if it has none.
	Service(org, app string) netip.Addr
}

// Peer is a laptop in the private network of an org.
type Peer struct {
	Name string
	IPv6 netip.Addr
}

// Config says where the resolver listens and what it answers from. Listen,
// Source and OrgOf are required.
type Config struct {
	// Listen are the addresses to serve UDP and TCP on. Port 0 picks one.
	Listen []netip.AddrPort
	// Open takes one of them. Default [door.Open].
	Open func(netip.AddrPort) (door.Door, error)
	// Source answers .internal.
	Source Source
	// OrgOf says which org a source address belongs to; who belongs to none is refused.
	OrgOf func(netip.Addr) (org string, ok bool)
	// Peers returns the laptops of an org, for <peer>._peer.internal. It is asked
	// on every such query and must answer from memory. Default: none.
	Peers func(org string) []Peer
	// Private are the ranges whose reverse names are ours alone. Default fdaa::/16.
	Private []netip.Prefix
	// Region of this node: its machines come first in top<N>.nearest.
	Region string
	// Upstreams are "host:port" or "host" of the resolvers for other names.
	// Default: those of ResolvConf, read again when it changes.
	Upstreams []string
	// ResolvConf is the file to read upstreams from. Default /etc/resolv.conf, or
	// systemd-resolved's own list where that file names its stub.
	ResolvConf string
	// Timeout for one try of one upstream. Default 2 s.
	Timeout time.Duration
	// CacheSize is how many answers are kept. Default 4096.
	CacheSize int
	// Logger receives what changes. Default: none.
	Logger *slog.Logger
}

func (c *Config) setDefaults() error {
	if c.Source == nil || c.OrgOf == nil {
		return errors.New("cannot make resolver: it needs a source and a way to tell orgs apart")
	}
	if len(c.Listen) == 0 {
		return errors.New("cannot make resolver: it needs an address to listen on")
	}
	if c.Peers == nil {
		c.Peers = func(string) []Peer { return nil }
	}
	if c.Private == nil {
		c.Private = []netip.Prefix{netip.MustParsePrefix("fdaa::/16")}
	}
	if c.Timeout == 0 {
		c.Timeout = 2 * time.Second
	}
	if c.CacheSize == 0 {
		c.CacheSize = 4096
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c.checkUpstreams()
}

// resolvConfs are the files to read upstreams from, the first that has any.
func (c *Config) resolvConfs() []string {
	if c.ResolvConf != "" {
		return []string{c.ResolvConf}
	}
	return []string{systemResolvConf, resolvedConf}
}

func (c *Config) checkUpstreams() error {
	c.Upstreams = slices.Clone(c.Upstreams)
	for i, u := range c.Upstreams {
		addr, err := upstreamAddr(u)
		if err != nil {
			return fmt.Errorf("cannot use %q as upstream resolver: want an IP address, with a port if it is not 53", u)
		}
		c.Upstreams[i] = addr
	}
	return nil
}
