package dns

import (
	"encoding/hex"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// reverse finds the org's machine or app with an address.
func (v view) reverse(a netip.Addr) found {
	if m, ok := v.MachineAt(v.org, a); ok {
		return found{exists: true, pointer: m.ID + ".vm." + m.App + ".internal."}
	}
	for _, app := range v.Apps(v.org) {
		if v.Service(v.org, app) == a {
			return found{exists: true, pointer: app + ".flycast."}
		}
	}
	return v.reversePeer(a)
}

// reverseAddr reads a whole address from a name under in-addr.arpa or ip6.arpa.
func reverseAddr(name string) (netip.Addr, bool) {
	labels := dns.SplitDomainName(strings.ToLower(name))
	slices.Reverse(labels)
	switch {
	case len(labels) == 6 && labels[0] == "arpa" && labels[1] == "in-addr":
		a, err := netip.ParseAddr(strings.Join(labels[2:], "."))
		return a, err == nil
	case len(labels) == 34 && labels[0] == "arpa" && labels[1] == "ip6":
		return nibbles(labels[2:])
	}
	return netip.Addr{}, false
}

func nibbles(labels []string) (netip.Addr, bool) {
	b, err := hex.DecodeString(strings.Join(labels, ""))
	if err != nil || slices.ContainsFunc(labels, func(l string) bool { return len(l) != 1 }) {
		return netip.Addr{}, false
	}
	return netip.AddrFromSlice(b)
}
