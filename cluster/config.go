package cluster

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"time"
)

// Config says who the node is. Dir is required; at later starts an empty field
// keeps what was said before.
type Config struct {
	// Dir is the node's data directory; everything here is in Dir/cluster.
	Dir string
	// Name of the node. Required at the first start; it cannot change.
	Name string
	// Region is the city code. Default "local".
	Region string
	// Roles of the node. Default: all. A node that joined has at most the roles
	// that it joined with.
	Roles []string
	// Address is the host at which other nodes reach this one, without a port.
	// Default: the address from which this server reaches the Internet, or
	// 127.0.0.1 where it has none.
	Address string
	// PeerPort, StatePort, RoutePort and WireGuardPort are where others find this
	// node. Default 4281, 4282, 4283 and 51820.
	PeerPort, StatePort, RoutePort, WireGuardPort int
	// WireGuardKey is the mesh's public key; see also [Cluster.Announce].
	WireGuardKey string
	// Version of the program.
	Version string
	// Members is how many nodes should keep the state once there are enough: 1, 3
	// or 5. Default 3. The largest number that a state node was given counts.
	Members int
	// Mourned reports whether the machines of a removed node are still being made anew;
	// until that is over nobody gets its name. Default: nobody's are.
	Mourned func(name string) bool
	// Bundle gives the files that a node which joins with these roles gets, by
	// their path in the data directory. Default: none.
	Bundle func(roles []string) (map[string][]byte, error)
	// Status says how a node is now, from what it said of itself. Default: nothing
	// is known.
	Status func(node string) Status
	// Logger defaults to slog.Default().
	Logger *slog.Logger

	now func() time.Time // tests shift it
}

// Status is how a node is now.
type Status struct {
	Up       bool      // it was heard of lately
	SeenAt   time.Time // when it was last heard of
	CPUs     int
	MemoryMB int
	HTTP     string // where it answers public port 80
	HTTPS    string // and 443
	Machines int    // that it holds
	Requests int    // that it serves
	Leaving  bool   // it drains, and clients may still come in by it
	Synced   bool   // it has the newest state, and the state takes writes
	// StartedAt is when its present program began, Fault why its last upgrade
	// failed.
	StartedAt time.Time
	Fault     string
}

// Empty reports whether a draining node has nothing left to do.
func (s Status) Empty() bool { return !s.Leaving && s.Machines == 0 && s.Requests == 0 }

func (c *Config) defaults() error {
	if c.Dir == "" {
		return errors.New("cannot open cloud: no data directory is given")
	}
	if !slices.Contains([]int{0, 1, 3, 5}, c.Members) {
		return fmt.Errorf("cannot use %d as --members: want 1, 3 or 5", c.Members)
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Mourned == nil {
		c.Mourned = func(string) bool { return false }
	}
	if c.Bundle == nil {
		c.Bundle = func([]string) (map[string][]byte, error) { return nil, nil }
	}
	if c.Status == nil {
		c.Status = func(string) Status { return Status{} }
	}
	if c.now == nil {
		c.now = time.Now
	}
	return nil
}

// fill puts what the configuration says over what the node was.
func (c *Config) fill(n Node) Node {
	n.Name, n.Region, n.Address = cmp.Or(c.Name, n.Name), cmp.Or(c.Region, n.Region, "local"), cmp.Or(c.Address, n.Address)
	if len(c.Roles) > 0 {
		n.Roles = slices.Clone(c.Roles)
	}
	if len(n.Roles) == 0 {
		n.Roles = Roles()
	}
	if n.Address == "" {
		n.Address = ownAddress()
	}
	n.PeerPort, n.StatePort = cmp.Or(c.PeerPort, n.PeerPort, DefaultPeerPort), cmp.Or(c.StatePort, n.StatePort, DefaultStatePort)
	n.RoutePort, n.WireGuardPort = cmp.Or(c.RoutePort, n.RoutePort, DefaultRoutePort), cmp.Or(c.WireGuardPort, n.WireGuardPort, DefaultWireGuardPort)
	n.WireGuardKey, n.Version = cmp.Or(c.WireGuardKey, n.WireGuardKey), cmp.Or(c.Version, n.Version)
	n.WantMembers = cmp.Or(c.Members, n.WantMembers)
	return n
}

// ownAddress asks the kernel from where it would send to the Internet; nothing
// is sent.
func ownAddress() string {
	for _, far := range []string{"192.0.2.1:9", "[2001:db8::1]:9"} {
		if c, err := net.Dial("udp", far); err == nil {
			defer c.Close()
			return c.LocalAddr().(*net.UDPAddr).IP.String()
		}
	}
	return "127.0.0.1"
}
