//go:build linux

package lab

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
)

// The lab's addresses are of ranges that no real network routes: 100.64.0.0/10,
// of carriers, and 2001:db8::/32, of documentation. A city has a /16 and a /48.
// 192.0.2.0/24 and 2001:db8:a::/48 are left to anycast services.

// firstHost leaves the low numbers to the lab itself.
const firstHost = 10

func cityNet4(city int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{100, byte(64 + city), 0, 0}), 16)
}

func cityNet6(city int) netip.Prefix {
	a := [16]byte{0x20, 0x01, 0x0d, 0xb8, 1, byte(city)}
	return netip.PrefixFrom(netip.AddrFrom16(a), 48)
}

// addr4 and addr6 are the addresses of a city's host by its number.
func addr4(city, n int) netip.Addr {
	a := cityNet4(city).Addr().As4()
	a[2], a[3] = byte(n>>8), byte(n)
	return netip.AddrFrom4(a)
}

func addr6(city, n int) netip.Addr {
	a := cityNet6(city).Addr().As16()
	a[14], a[15] = byte(n>>8), byte(n)
	return netip.AddrFrom16(a)
}

// Places is the path of a file with a line "prefix city" for each of the cities'
// networks: what a DNS server needs to know where visitors are.
func (l *Lab) Places() string { return l.path("places") }

func (l *Lab) writePlaces() error {
	var b strings.Builder
	for i, city := range l.cfg.Cities {
		fmt.Fprintf(&b, "%s %s\n%s %s\n", cityNet4(i), city, cityNet6(i), city)
	}
	if err := os.WriteFile(l.Places(), []byte(b.String()), 0o644); err != nil {
		return fmt.Errorf("cannot write where the cities' addresses are: %w", err)
	}
	return nil
}
