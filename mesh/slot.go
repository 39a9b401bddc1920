package mesh

import "net/netip"

// Identity says whose a slot is.
type Identity struct {
	Org     string `json:"org"`
	App     string `json:"app"`
	Machine string `json:"machine"`
}

// Slot is the network of one machine. The caller owns the value; the kernel
// holds the truth.
type Slot struct {
	// ID is the number in the device's name, unique on this node while the slot lives.
	ID int
	// NetnsPath is the file that the network namespace is bound to.
	NetnsPath string
	// HostDevice is the host's end of the veth pair; the other end is "eth0".
	HostDevice string
	// IPv4 and Gateway4 are known from the start.
	IPv4, Gateway4 netip.Addr
	// IPv6 is the machine's private address, invalid until Assign and on a host
	// without IPv6; Gateway6 is link-local, invalid on a host without IPv6.
	IPv6, Gateway6 netip.Addr
	// MTU of both devices, in bytes.
	MTU int
	// Identity is the zero value until Assign.
	Identity Identity
}

// Isolated reports whether the slot belongs to no org; see [Network.Isolate].
func (s Slot) Isolated() bool { return s.Assigned() && s.Identity.Org == "" }

// Assigned reports whether the slot belongs to a machine.
func (s Slot) Assigned() bool { return s.Identity != Identity{} }
