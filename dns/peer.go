package dns

import (
	"net/netip"
	"slices"
	"strings"
)

// inPeers answers <peer>._peer.internal, and lists the peers under _peer.internal.
func (v view) inPeers(labels []string) found {
	peers := v.peers(v.org)
	if len(labels) == 0 {
		return found{exists: true, text: listPeers(peers)}
	}
	for _, p := range peers {
		if len(labels) == 1 && strings.EqualFold(p.Name, labels[0]) {
			return found{exists: true, addr: p.IPv6}
		}
	}
	return found{}
}

func listPeers(peers []Peer) string {
	var names []string
	for _, p := range peers {
		names = append(names, p.Name)
	}
	slices.Sort(names)
	return strings.Join(names, ",")
}

// reversePeer finds the org's laptop with an address.
func (v view) reversePeer(a netip.Addr) found {
	for _, p := range v.peers(v.org) {
		if p.IPv6 == a {
			return found{exists: true, pointer: p.Name + "._peer.internal."}
		}
	}
	return found{}
}
