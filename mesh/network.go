package mesh

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Network is the machine networks of one node. It belongs to the network
// namespace it was made in. All methods may be called from many goroutines.
type Network struct {
	cfg  Config
	log  *slog.Logger
	host *netlink.Handle

	// mu guards what follows, and makes a change here and in the firewall one step.
	mu    sync.RWMutex
	ready bool // Setup has succeeded
	ipv6  bool
	pool  netip.Prefix
	mtu   int
	next  int // where the search for a free slot begins
	slots map[int]*Slot
	addrs map[netip.Addr]owner // of the machines, also of those being assigned
	orgs  map[string]*org
	group uint32 // the last one given to an org
	peers map[netip.Addr]Peer
	stale map[int]bool // released ids whose address may be in tracked connections
}

// org is what the kernel knows an org by while it has slots here.
type org struct {
	group  uint32 // of its devices
	number uint32 // in addresses; 0 if not known, and then it is cut off from other nodes
	slots  int
}

// owner says whose an address is, and in which slot.
type owner struct {
	Identity
	slot int
}

// New checks the configuration and opens the kernel's doors. It changes
// nothing; call Setup next, and Close in the end.
func New(cfg Config) (*Network, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("cannot open netlink: %w", err)
	}
	return &Network{cfg: cfg, log: cfg.Logger, host: h,
		slots: map[int]*Slot{}, addrs: map[netip.Addr]owner{}, orgs: map[string]*org{}, peers: map[netip.Addr]Peer{}, stale: map[int]bool{}}, nil
}

// Close frees what New opened. Slots, devices and rules stay: machines keep
// running while the daemon is away.
func (n *Network) Close() { n.host.Close() }

// Setup makes the host ready, finds the slots of an earlier run, removes what
// that run left half-made, and puts the firewall in force. It may be called
// again at any time, with machines running.
func (n *Network) Setup(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := os.MkdirAll(n.netnsDir(), 0o700); err != nil {
		return fmt.Errorf("cannot make network directory: %w", err)
	}
	n.ipv6 = hostHasIPv6()
	for _, step := range []func() error{n.checkPrefix, n.forwardPackets, n.settlePool, n.setupLocal, n.recover, n.applyFirewall, n.forgetFlows} {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := step(); err != nil {
			return err
		}
	}
	n.ready = true
	n.log.Info("network ready", "pool", n.pool, "ipv6", n.ipv6, "mtu", n.mtu, "slots", len(n.slots))
	return nil
}

// Teardown removes every slot, device, route and rule of ours. Only the
// forwarding switches of the kernel stay as they are, since others may have come to need them.
func (n *Network) Teardown(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ready = false
	err := n.removeFirewall()
	links, lerr := n.links()
	if lerr != nil {
		return fmt.Errorf("cannot list network devices: %w", lerr)
	}
	for _, l := range links {
		if cerr := ctx.Err(); cerr != nil {
			return cerr
		}
		if derr := n.deleteLink(l); derr != nil {
			err = derr
		}
	}
	if derr := n.removeNamespaces(nil); derr != nil {
		err = derr
	}
	n.stale = map[int]bool{}
	n.slots, n.addrs, n.orgs = map[int]*Slot{}, map[netip.Addr]owner{}, map[string]*org{}
	n.peers = map[netip.Addr]Peer{}
	return err
}

// ResolverAddrs returns the addresses that the machines' resolver must listen
// on, port 53, best first. It is empty before Setup.
func (n *Network) ResolverAddrs() []netip.Addr {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if !n.pool.IsValid() {
		return nil
	}
	addrs := []netip.Addr{at(n.pool, resolverOffset)}
	if n.ipv6 {
		addrs = append([]netip.Addr{resolver6(n.cfg.IPv6)}, addrs...)
	}
	return addrs
}

// Pool returns the IPv4 range in use, invalid before Setup.
func (n *Network) Pool() netip.Prefix {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.pool
}

// IPv6 reports whether machines get private IPv6 addresses; false before Setup
// and where the host has IPv6 switched off.
func (n *Network) IPv6() bool {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.ipv6
}

// PrivateIPv6 returns the address a machine has, or will have, on this node.
func (n *Network) PrivateIPv6(id Identity) netip.Addr {
	return PrivateIPv6(n.cfg.IPv6, n.cfg.NodeNumber, n.orgNumber(id.Org), id.Machine)
}

// orgNumber is 0, a number of ours, for what is of no org.
func (n *Network) orgNumber(name string) uint32 {
	if name == "" {
		return 0
	}
	return n.cfg.OrgNumber(name)
}

// Lookup says which machine an address of ours belongs to.
func (n *Network) Lookup(a netip.Addr) (Identity, bool) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	o, ok := n.addrs[a.Unmap()]
	return o.Identity, ok
}

// OrgOf says which org a source address belongs to: what the resolver asks.
func (n *Network) OrgOf(a netip.Addr) (string, bool) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if o, ok := n.addrs[a.Unmap()]; ok {
		return o.Org, true
	}
	p, ok := n.peers[a]
	return p.Org, ok
}

func (n *Network) netnsDir() string { return filepath.Join(n.cfg.Dir, "netns") }

func (n *Network) device(id int) string { return fmt.Sprintf("%s-%d", n.cfg.Prefix, id) }
