package cluster

import (
	"fmt"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/perigee-run/perigee/api"
)

// What a node does. A node has all roles unless it was told otherwise.
const (
	RoleHost  = "host"  // runs machines
	RoleEdge  = "edge"  // lets clients in
	RoleState = "state" // may keep the replicated state, and certifies nodes
	RoleBuild = "build" // builds images
)

// Roles returns all roles.
func Roles() []string { return []string{RoleHost, RoleEdge, RoleState, RoleBuild} }

// Default ports.
const (
	DefaultPeerPort      = 4281
	DefaultStatePort     = 4282
	DefaultRoutePort     = 4283
	DefaultWireGuardPort = 51820
)

// Node is a node's record. Its writer is the node itself, but for what an
// operator or the choice of members decides (Member, Cordoned, Draining,
// Removed, RetiredKey) and what its certifier writes (Serial and what follows).
type Node struct {
	Name   string   `json:"name"`
	Region string   `json:"region"`
	Number uint32   `json:"number"` // part of all its addresses; never zero, never changes
	Roles  []string `json:"roles"`
	// Address is the host, a name or an IP address, at which other nodes reach it.
	Address       string `json:"address"`
	PeerPort      int    `json:"peer_port"`
	StatePort     int    `json:"state_port"`
	RoutePort     int    `json:"route_port"`
	WireGuardPort int    `json:"wireguard_port"`
	WireGuardKey  string `json:"wireguard_key,omitempty"`
	// WireGuardNext is the key that the node is about to use.
	WireGuardNext string `json:"wireguard_next,omitempty"`
	Version       string `json:"version,omitempty"`
	// WantMembers is the number of members that this node was started to want;
	// the largest of all state nodes counts.
	WantMembers int       `json:"want_members,omitempty"`
	JoinedAt    time.Time `json:"joined_at"`

	Member    bool      `json:"member,omitempty"`
	Cordoned  bool      `json:"cordoned,omitempty"`
	Draining  bool      `json:"draining,omitempty"`
	Removed   bool      `json:"removed,omitempty"`
	RemovedAt time.Time `json:"removed_at,omitzero"`
	// RetiredKey is the WireGuard key that an operator wants replaced.
	RetiredKey string `json:"retired_key,omitempty"`

	// Serial is that of the newest certificate, PreviousSerial that of the one it
	// was renewed with: it may be in use still, or again when the answer was lost.
	Serial         string    `json:"serial"`
	PreviousSerial string    `json:"previous_serial,omitempty"`
	CertifiedAt    time.Time `json:"certified_at"` // the newest certificate's NotBefore
	// KeyHash is the SHA-256 of the node's public key: by it a node that repeats
	// its join is known.
	KeyHash string `json:"key_hash"`
}

// Has reports whether the node has the role.
func (n Node) Has(role string) bool { return slices.Contains(n.Roles, role) }

// ServerName is the name in the node's certificate.
func (n Node) ServerName() string { return ServerName(n.Name) }

// PeerAddr is the host and port of calls from node to node.
func (n Node) PeerAddr() string { return hostPort(n.Address, n.PeerPort) }

// StateAddr is the host and port of the state's clients.
func (n Node) StateAddr() string { return hostPort(n.Address, n.StatePort) }

// RouteAddr is the host and port where members reach each other.
func (n Node) RouteAddr() string { return hostPort(n.Address, n.RoutePort) }

// WireGuardAddr is the host and port of the mesh.
func (n Node) WireGuardAddr() string { return hostPort(n.Address, n.WireGuardPort) }

func hostPort(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }

// nodeZone is under what the names in certificates stand; it is in no DNS.
const nodeZone = ".node.perigee"

// ServerName is the name in the certificate of the node.
func ServerName(node string) string { return node + nodeZone }

var (
	nodeName   = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	regionName = regexp.MustCompile(`^[a-z][a-z0-9]{1,15}$`)
	hostName   = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$`)
)

// reservedName is the path beside those of nodes in the API.
const reservedName = "tokens"

// check reports what is wrong with what a node says of itself.
func (n Node) check() error {
	switch {
	case !nodeName.MatchString(n.Name) || n.Name == reservedName:
		return fmt.Errorf("cannot use %q as node name: want 1 to 63 lower-case letters, digits and hyphens, and not %q; give one with --name", api.Clip(n.Name), reservedName)
	case !regionName.MatchString(n.Region):
		return fmt.Errorf("cannot use %q as region: want 2 to 16 lower-case letters and digits, such as fra", api.Clip(n.Region))
	case net.ParseIP(n.Address) == nil && !hostName.MatchString(n.Address):
		return fmt.Errorf("cannot use %q as address: want the IP address or the host name at which other nodes reach this one, without a port; give it with --address", api.Clip(n.Address))
	}
	if err := checkRoles(n.Roles); err != nil {
		return err
	}
	return n.checkPorts()
}

func (n Node) checkPorts() error {
	for _, p := range []int{n.PeerPort, n.StatePort, n.RoutePort, n.WireGuardPort} {
		if p < 1 || p > 65535 {
			return fmt.Errorf("cannot use %d as port: want 1 to 65535", p)
		}
	}
	if len(n.WireGuardKey) > 64 || len(n.WireGuardNext) > 64 || len(n.Version) > 128 {
		return fmt.Errorf("cannot use the node's WireGuard key or version: it is too long")
	}
	return nil
}

func checkRoles(roles []string) error {
	if len(roles) == 0 {
		return fmt.Errorf("cannot make a node without a role; choose of %s", strings.Join(Roles(), ", "))
	}
	for i, r := range roles {
		if !slices.Contains(Roles(), r) {
			return fmt.Errorf("cannot use %q as role: there are %s", api.Clip(r), strings.Join(Roles(), ", "))
		}
		if slices.Contains(roles[:i], r) {
			return fmt.Errorf("cannot use role %q twice", r)
		}
	}
	return nil
}
