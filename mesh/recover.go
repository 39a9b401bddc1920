package mesh

import (
	"encoding/json"
	"fmt"
	"net/netip"

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
	var whose Identity
	s := n.newSlot(id)
	whole := json.Unmarshal([]byte(l.Attrs().Alias), &whose) == nil && isNamespace(s.NetnsPath)
	cutShort := (whose == Identity{}) != (l.Attrs().Group == 0)
	if !whole || cutShort || id >= slotCount(n.pool) {
		n.log.Warn("half-made network slot removed", "device", l.Attrs().Name)
		return n.deleteLink(l)
	}
	n.next = max(n.next, id+1)
	n.slots[id] = s
	s.MTU, s.Identity = l.Attrs().MTU, whose
	if !s.Assigned() {
		return nil
	}
	if n.ipv6 {
		s.IPv6 = n.addressOf(l, whose)
	}
	n.remember(s)
	return n.rejoin(l, whose.Org)
}

// addressOf is the address that the machine was given, by the route to it: it
// keeps that until its next start, whatever numbers the node and the org have now.
func (n *Network) addressOf(l netlink.Link, whose Identity) netip.Addr {
	routes, err := n.host.RouteList(l, netlink.FAMILY_V6)
	if err != nil {
		return n.PrivateIPv6(whose)
	}
	for _, r := range routes {
		if p, ok := prefixOf(r); ok && p.Bits() == 128 && n.cfg.IPv6.Contains(p.Addr()) {
			return p.Addr()
		}
	}
	return n.PrivateIPv6(whose)
}

// rejoin keeps the group that the org's devices have.
func (n *Network) rejoin(l netlink.Link, name string) error {
	o := n.orgs[name]
	if o == nil {
		o = &org{group: l.Attrs().Group, number: n.orgNumber(name)}
		n.orgs[name] = o
	}
	n.group = max(n.group, o.group)
	o.slots++
	if l.Attrs().Group == o.group {
		return nil
	}
	return n.setGroup(l, o.group)
}
