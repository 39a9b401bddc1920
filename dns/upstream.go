package dns

import (
	"net"
	"net/netip"
)

// upstreamAddr completes "192.0.2.1", "fe80::1%eth0" or "[2001:db8::1]:5353" to host:port.
func upstreamAddr(s string) (string, error) {
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return ap.String(), nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return "", err
	}
	return net.JoinHostPort(a.String(), "53"), nil
}
