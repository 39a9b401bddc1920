package anycast

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// ParsePrefixes reads the text of a flag: prefixes with commas between, an
// address standing for itself: "192.0.2.1,2001:db8::/48".
func ParsePrefixes(s string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, part := range strings.Split(s, ",") {
		p, err := parsePrefix(strings.TrimSpace(part))
		if err == nil {
			err = checkPrefix(p)
		}
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

func parsePrefix(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is not a prefix; want 192.0.2.1/32 or 2001:db8::/48", s)
	}
	return p, nil
}

// ParseNeighbor reads the text of a flag: "ADDRESS,ASN" and, with commas
// between, any of password-file=PATH, port=N, multihop=N and ttl-security.
func ParseNeighbor(s string) (Neighbor, error) {
	n, err := parseNeighbor(strings.Split(s, ","))
	if err != nil {
		return Neighbor{}, fmt.Errorf("cannot use BGP neighbor %q: %w", s, err)
	}
	return n, nil
}

func parseNeighbor(parts []string) (n Neighbor, err error) {
	if len(parts) < 2 {
		return n, errors.New("want its address and AS number, 10.0.0.1,64500")
	}
	if n.Address, err = netip.ParseAddr(parts[0]); err != nil {
		return n, fmt.Errorf("%q is not an address", parts[0])
	}
	if n.ASN, err = ParseASN(parts[1]); err != nil {
		return n, err
	}
	for _, option := range parts[2:] {
		if err := n.set(option); err != nil {
			return n, err
		}
	}
	return n, nil
}

func (n *Neighbor) set(option string) error {
	key, value, has := strings.Cut(option, "=")
	switch {
	case key == "ttl-security" && !has:
		n.TTLSecurity = true
	case key == "password-file" && value != "":
		n.PasswordFile = value
	case key == "port" && value != "":
		v, err := strconv.ParseUint(value, 10, 16)
		if err != nil || v == 0 {
			return fmt.Errorf("port %q is not 1 to 65535", value)
		}
		n.Port = uint16(v)
	case key == "multihop" && value != "":
		v, err := strconv.ParseUint(value, 10, 8)
		if err != nil || v == 0 {
			return fmt.Errorf("multihop %q is not 1 to 255", value)
		}
		n.MultiHop = int(v)
	default:
		return fmt.Errorf("there is no option %q; there are password-file=PATH, port=N, multihop=N and ttl-security", option)
	}
	return nil
}

// ParseASN reads an AS number, "64512", "AS64512" or "1.10".
func ParseASN(s string) (uint32, error) {
	digits := strings.TrimPrefix(strings.ToUpper(s), "AS")
	high, low, dotted := strings.Cut(digits, ".")
	if !dotted {
		v, err := strconv.ParseUint(digits, 10, 32)
		if err != nil {
			return 0, fmt.Errorf("%q is not an AS number", s)
		}
		return uint32(v), nil
	}
	h, err := strconv.ParseUint(high, 10, 16)
	l, err2 := strconv.ParseUint(low, 10, 16)
	if err != nil || err2 != nil {
		return 0, fmt.Errorf("%q is not an AS number", s)
	}
	return uint32(h<<16 | l), nil
}

// communities are what goes with a path.
type communities struct {
	plain []uint32
	large [][3]uint32
}

// gracefulShutdown asks routers to prefer any other path (RFC 8326).
const gracefulShutdown = 65535<<16 | 0

func parseCommunities(all []string) (c communities, err error) {
	for _, s := range all {
		parts := strings.Split(s, ":")
		bits := map[int]int{2: 16, 3: 32}[len(parts)]
		var v [3]uint32
		for i, part := range parts {
			n, err := strconv.ParseUint(part, 10, max(bits, 1))
			if err != nil || bits == 0 {
				return c, fmt.Errorf("cannot use community %q: want 64512:100, or 64512:1:2 for a large one", s)
			}
			v[i] = uint32(n)
		}
		switch bits {
		case 16:
			c.plain = append(c.plain, v[0]<<16|v[1])
		case 32:
			c.large = append(c.large, v)
		}
	}
	return c, nil
}
