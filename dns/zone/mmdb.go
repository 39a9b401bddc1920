package zone

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
)

// mmdb is a database of places in MaxMind's format: a binary tree of address
// bits whose leaves point to records. We read it ourselves, since all we want is
// two numbers, and since a broken file must never do more than be refused: it is
// read while the node serves.
type mmdb struct {
	tree    []byte
	nodes   int
	bits    int // of a node's two halves, each
	v6      bool
	records data
	root4   int // where IPv4 begins in a tree of IPv6
	depth4  int // how deep that is
}

const (
	marker = "\xab\xcd\xefMaxMind.com"
	// gap lies between tree and records.
	gap = 16
	// sample is how many nodes of a new database are searched for a record with a
	// location, before it is taken for one that has none.
	sample = 200_000
)

var errNoPlaces = errors.New("its records have no location.latitude and location.longitude; use a database of cities")

// parseMMDB takes a database held in memory, not mapped: a file that is cut
// short while it is mapped would kill the process.
func parseMMDB(b []byte) (*mmdb, error) {
	at := bytes.LastIndex(b, []byte(marker))
	if at < 0 {
		return nil, errors.New("it is not a database in MaxMind's format, or was cut short")
	}
	m, err := readMeta(b[:at], data(b[at+len(marker):]))
	if err != nil {
		return nil, err
	}
	m.findIPv4()
	left := sample
	if !m.anyPlace(0, 0, &left) {
		return nil, errNoPlaces
	}
	return m, nil
}

func readMeta(b []byte, meta data) (*mmdb, error) {
	var v [4]int
	for i, key := range []string{"binary_format_major_version", "node_count", "record_size", "ip_version"} {
		at, err := meta.field(0, key)
		if err != nil {
			return nil, err
		}
		if v[i], err = meta.number(at); err != nil {
			return nil, err
		}
	}
	version, nodes, bits, family := v[0], v[1], v[2], v[3]
	if version != 2 || bits != 24 && bits != 28 && bits != 32 || family != 4 && family != 6 {
		return nil, fmt.Errorf("cannot read its format: version %d, record size %d, IP version %d", version, bits, family)
	}
	if nodes < 1 || nodes > (len(b)-gap)/(bits/4) {
		return nil, fmt.Errorf("it is broken: %d nodes do not fit in %d bytes", nodes, len(b))
	}
	size := nodes * bits / 4
	return &mmdb{tree: b[:size], nodes: nodes, bits: bits, v6: family == 6, records: data(b[size+gap:])}, nil
}

// next follows one bit from a node. What is not less than nodes is a leaf.
func (m *mmdb) next(node, bit int) int {
	b := m.tree[node*m.bits/4:]
	switch {
	case m.bits == 24:
		b = b[3*bit:]
		return int(b[0])<<16 | int(b[1])<<8 | int(b[2])
	case m.bits == 32:
		b = b[4*bit:]
		return int(b[0])<<24 | int(b[1])<<16 | int(b[2])<<8 | int(b[3])
	case bit == 0:
		return int(b[3]>>4)<<24 | int(b[0])<<16 | int(b[1])<<8 | int(b[2])
	}
	return int(b[3]&15)<<24 | int(b[4])<<16 | int(b[5])<<8 | int(b[6])
}

func (m *mmdb) findIPv4() {
	for m.v6 && m.depth4 < 96 && m.root4 < m.nodes {
		m.root4 = m.next(m.root4, 0)
		m.depth4++
	}
}

// anyPlace reports whether a record below the node has a location.
func (m *mmdb) anyPlace(node, depth int, left *int) bool {
	if *left--; *left < 0 || depth > 128 {
		return false
	}
	if node >= m.nodes {
		p, err := m.place(node)
		return err == nil && p.known
	}
	return m.anyPlace(m.next(node, 0), depth+1, left) || m.anyPlace(m.next(node, 1), depth+1, left)
}

// lookup returns the place of an address, and for how many bits of it that is true.
func (m *mmdb) lookup(a netip.Addr) (place, int, error) {
	node, bits := 0, 0
	switch {
	case a.Is6() && !m.v6:
		return place{}, 0, nil
	case a.Is4():
		node = m.root4
	}
	for ; node < m.nodes && bits < a.BitLen(); bits++ {
		node = m.next(node, bit(a, bits))
	}
	p, err := m.place(node)
	if err != nil {
		return place{}, bits, fmt.Errorf("cannot find the place of %s: %w", a, err)
	}
	return p, bits, nil
}

// place reads the record of a leaf. One without a location is no error.
func (m *mmdb) place(leaf int) (place, error) {
	if leaf <= m.nodes { // nothing is known, or a tree that is too deep
		return place{}, nil
	}
	location, err := m.records.field(leaf-m.nodes-gap, "location")
	if err != nil || location < 0 {
		return place{}, err
	}
	var v [2]float64
	for i, key := range []string{"latitude", "longitude"} {
		at, err := m.records.field(location, key)
		if err != nil || at < 0 {
			return place{}, err
		}
		if v[i], err = m.records.float(at); err != nil {
			return place{}, err
		}
	}
	if !(v[0] >= -90 && v[0] <= 90 && v[1] >= -180 && v[1] <= 180) { // NaN too
		return place{}, fmt.Errorf("%g, %g is not on earth", v[0], v[1])
	}
	return at(v[0], v[1]), nil
}
