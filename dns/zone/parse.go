package zone

import (
	"fmt"
	"net/netip"
	"strings"
)

// ParseNameServer reads the text of a flag: a name, and after = its addresses
// with commas between, "ns1.apps.example.com=192.0.2.53,2001:db8::53". A name
// outside of the zone needs none.
func ParseNameServer(s string) (NameServer, error) {
	name, list, has := strings.Cut(s, "=")
	if _, err := fullName(name); err != nil {
		return NameServer{}, fmt.Errorf("cannot use name server %q: %w", s, err)
	}
	ns := NameServer{Name: name}
	if !has {
		return ns, nil
	}
	for _, part := range strings.Split(list, ",") {
		a, err := netip.ParseAddr(part)
		if err != nil || a.Zone() != "" {
			return NameServer{}, fmt.Errorf("cannot use name server %q: %q is not an address; want ns1.apps.example.com=192.0.2.53", s, part)
		}
		ns.Addrs = append(ns.Addrs, a.Unmap())
	}
	return ns, nil
}
