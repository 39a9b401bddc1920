package zone

import (
	"bufio"
	"bytes"
	"fmt"
	"net/netip"
	"strings"
)

// prefixes finds the region of an address. It is a binary tree over the address
// bits, so that a lookup knows how many bits it looked at: that is for how large
// a network the answer holds.
type prefixes struct {
	v4, v6 *prefixNode
	count  int
}

type prefixNode struct {
	child  [2]*prefixNode
	region string // "" where no line says
}

// maxPrefixes bounds the memory that a file can take: some 60 bytes a bit.
const maxPrefixes = 1_000_000

// parsePrefixes reads lines "prefix region", with # before comments. An address
// alone is a prefix of its full length.
func parsePrefixes(text []byte) (*prefixes, error) {
	p := &prefixes{v4: new(prefixNode), v6: new(prefixNode)}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		line, _, _ := strings.Cut(lines.Text(), "#")
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		if err := p.add(fields); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("cannot read lines: %w", err)
	}
	return p, nil
}

func (p *prefixes) add(fields []string) error {
	if len(fields) != 2 {
		return fmt.Errorf("want a prefix and a region, as in 192.0.2.0/24 fra, not %d words", len(fields))
	}
	pre, err := parsePrefix(fields[0])
	if err != nil {
		return err
	}
	if err := checkRegion(fields[1]); err != nil {
		return err
	}
	if p.count++; p.count > maxPrefixes {
		return fmt.Errorf("more than %d prefixes", maxPrefixes)
	}
	n := p.root(pre.Addr())
	for i := range pre.Bits() {
		b := bit(pre.Addr(), i)
		if n.child[b] == nil {
			n.child[b] = new(prefixNode)
		}
		n = n.child[b]
	}
	if n.region != "" && n.region != fields[1] {
		return fmt.Errorf("prefix %s is in region %s already", pre, n.region)
	}
	n.region = fields[1]
	return nil
}

func parsePrefix(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		return netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()), nil
	}
	pre, err := netip.ParsePrefix(s)
	if err != nil || pre.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf("%q is not a prefix such as 192.0.2.0/24 or 2001:db8::/32", s)
	}
	if pre != pre.Masked() {
		return netip.Prefix{}, fmt.Errorf("prefix %s has bits beyond its length; want %s", pre, pre.Masked())
	}
	return pre, nil
}

func checkRegion(code string) error {
	for _, r := range code {
		if (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' {
			return fmt.Errorf("%q is not a region: want a code such as fra", code)
		}
	}
	return nil
}

func (p *prefixes) root(a netip.Addr) *prefixNode {
	if a.Is4() {
		return p.v4
	}
	return p.v6
}

// lookup returns the region of the longest prefix that holds the address, "" if
// none does, and for how many bits of the address that is true.
func (p *prefixes) lookup(a netip.Addr) (region string, bits int) {
	n := p.root(a)
	for bits = 0; ; bits++ {
		if n.region != "" {
			region = n.region
		}
		if n.child[0] == nil && n.child[1] == nil {
			return region, bits
		}
		if n = n.child[bit(a, bits)]; n == nil {
			return region, bits + 1
		}
	}
}

// bit returns the address's i-th bit from the left.
func bit(a netip.Addr, i int) int {
	if a.Is4() {
		b := a.As4()
		return int(b[i/8]>>(7-i%8)) & 1
	}
	b := a.As16()
	return int(b[i/8]>>(7-i%8)) & 1
}
