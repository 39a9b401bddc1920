package mesh

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
)

// Peer is a laptop, or another machine of somebody's own, that enters the mesh
// at this node. To the firewall and the resolver it is one of its org.
type Peer struct {
	// Org that the peer belongs to, and the only one that it reaches.
	Org string
	// Addr is what [PeerAddr] says.
	Addr netip.Addr
}

// SetPeers replaces the laptops that enter the mesh at this node. Routes and
// keys are the WireGuard device's affair. It may be called before Setup.
func (n *Network) SetPeers(peers []Peer) error {
	all := make(map[netip.Addr]Peer, len(peers))
	for _, p := range peers {
		if err := n.checkPeer(p); err != nil {
			return err
		}
		all[p.Addr] = p
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	old := n.peers
	n.peers = all
	if !n.ready {
		return nil
	}
	if err := n.admitLaptops(numbers(old), numbers(all)); err != nil {
		n.peers = old
		return err
	}
	return nil
}

func (n *Network) checkPeer(p Peer) error {
	number := n.cfg.OrgNumber(p.Org)
	own := NodePrefix(n.cfg.IPv6, n.cfg.NodeNumber)
	if number == 0 {
		return fmt.Errorf("cannot let peer %s in: org %q has no number: create the org first", p.Addr, p.Org)
	}
	if !own.Contains(p.Addr) || OrgOfAddr(p.Addr) != number {
		return fmt.Errorf("cannot let peer %s in: it is not an address of org %q in %s, that of this node", p.Addr, p.Org, own)
	}
	return nil
}

func numbers(peers map[netip.Addr]Peer) []uint32 {
	var all []uint32
	for a := range peers {
		all = append(all, OrgOfAddr(a))
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// admitLaptops changes the orgs whose laptops may speak through us with other nodes.
func (n *Network) admitLaptops(old, next []uint32) error {
	gone := without(old, next)
	come := without(next, old)
	if len(gone)+len(come) == 0 {
		return nil
	}
	return n.changeOrgs(func(c *nftables.Conn, f firewall) error {
		if err := change(c.SetDeleteElements, f.laptops, gone); err != nil {
			return err
		}
		return change(c.SetAddElements, f.laptops, come)
	})
}

func change(do func(*nftables.Set, []nftables.SetElement) error, s *nftables.Set, orgs []uint32) error {
	for some := range slices.Chunk(orgs, batchElements) {
		if err := do(s, laptopElements(some)); err != nil {
			return err
		}
	}
	return nil
}

func laptopElements(orgs []uint32) []nftables.SetElement {
	var all []nftables.SetElement
	for _, o := range orgs {
		all = append(all, laptopElement(o))
	}
	return all
}

func without(all, some []uint32) []uint32 {
	return slices.DeleteFunc(slices.Clone(all), func(o uint32) bool { return slices.Contains(some, o) })
}
