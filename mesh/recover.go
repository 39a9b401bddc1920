package mesh

import (
	"encoding/json"
	"fmt"

	"github.com/vishvananda/netlink"
)

// recover finds the slots that the kernel holds and removes what is half-made.
// Slots of this run stay as they are.
func (n *Network) recover() error {
	if n.ready {
		return nil
	}
	links, err := n.links()
	if err != nil {
		return fmt.Errorf("cannot list network devices: %w", err)
	}
	for _, l := range links {
		id, ours := n.slotID(l.Attrs().Name)
		if !ours {
			continue
		}
		if err := n.adopt(id, l); err != nil {
			return err
		}
	}
	return n.removeNamespaces(n.slots)
}

func (n *Network) adopt(id int, l netlink.Link) error {
	var owner Identity
	s := n.newSlot(id)
	whole := json.Unmarshal([]byte(l.Attrs().Alias), &owner) == nil && isNamespace(s.NetnsPath)
	if !whole || id >= slotCount(n.pool) {
		n.log.Warn("half-made network slot removed", "device", l.Attrs().Name)
		return n.deleteLink(l)
	}
	s.MTU, s.Identity = l.Attrs().MTU, owner
	n.slots[id] = s
	n.next = max(n.next, id+1)
	if !s.Assigned() {
		return nil
	}
	if n.ipv6 {
		s.IPv6 = n.PrivateIPv6(owner)
	}
	n.join(owner.Org)
	n.remember(s)
	return nil
}
