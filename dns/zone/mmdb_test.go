package zone

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"
	"github.com/oschwald/maxminddb-golang"
)

// mmdbWriter writes the format as it is published: a binary tree of address
// bits, a data section, and metadata at the end.
type mmdbWriter struct {
	v6    bool
	nodes [][2]uint32 // 0 is none, n < leaf is a node, else data at n-leaf
	data  bytes.Buffer
}

const leaf = 1 << 30

func newMMDB(v6 bool) *mmdbWriter { return &mmdbWriter{v6: v6, nodes: make([][2]uint32, 1)} }

// add puts a record in; longer prefixes must come after shorter ones do not occur.
func (w *mmdbWriter) add(prefix string, record map[string]any) {
	p := netip.MustParsePrefix(prefix)
	bits := p.Bits()
	a := p.Addr().As16()
	if p.Addr().Is4() {
		four := p.Addr().As4()
		a = [16]byte{12: four[0], 13: four[1], 14: four[2], 15: four[3]}
		bits += 96
	}
	first := 0
	if !w.v6 {
		first = 96
	}
	at := uint32(w.data.Len())
	writeValue(&w.data, record)
	n := uint32(0)
	for i := first; i < bits; i++ {
		b := int(a[i/8]>>(7-i%8)) & 1
		if i == bits-1 {
			w.nodes[n][b] = leaf + at
			return
		}
		if w.nodes[n][b] == 0 {
			w.nodes = append(w.nodes, [2]uint32{})
			w.nodes[n][b] = uint32(len(w.nodes) - 1)
		}
		n = w.nodes[n][b]
	}
}

func (w *mmdbWriter) bytes(kind string) []byte {
	count := uint32(len(w.nodes))
	var out bytes.Buffer
	for _, n := range w.nodes {
		for _, v := range n {
			switch {
			case v == 0:
				v = count
			case v >= leaf:
				v = v - leaf + count + 16
			}
			_ = binary.Write(&out, binary.BigEndian, v)
		}
	}
	out.Write(make([]byte, 16))
	out.Write(w.data.Bytes())
	out.WriteString("\xab\xcd\xefMaxMind.com")
	version := uint16(4)
	if w.v6 {
		version = 6
	}
	writeValue(&out, map[string]any{
		"node_count": count, "record_size": uint16(32), "ip_version": version, "database_type": kind, "languages": []any{},
		"binary_format_major_version": uint16(2), "binary_format_minor_version": uint16(0), "build_epoch": uint32(1), "description": map[string]any{},
	})
	return out.Bytes()
}

func writeValue(out *bytes.Buffer, v any) {
	switch v := v.(type) {
	case string:
		head(out, 2, len(v))
		out.WriteString(v)
	case float64:
		head(out, 3, 8)
		_ = binary.Write(out, binary.BigEndian, math.Float64bits(v))
	case uint16:
		head(out, 5, 2)
		_ = binary.Write(out, binary.BigEndian, v)
	case uint32:
		head(out, 6, 4)
		_ = binary.Write(out, binary.BigEndian, v)
	case map[string]any:
		head(out, 7, len(v))
		for key, value := range v {
			writeValue(out, key)
			writeValue(out, value)
		}
	case []any:
		out.Write([]byte{byte(len(v)), 11 - 7})
	}
}

func head(out *bytes.Buffer, kind, size int) {
	if size < 29 {
		out.WriteByte(byte(kind<<5 | size))
		return
	}
	out.Write([]byte{byte(kind<<5 | 29), byte(size - 29)})
}

func inCity(lat, lon float64) map[string]any {
	return map[string]any{
		"country":  map[string]any{"iso_code": "XX"},
		"location": map[string]any{"latitude": lat, "longitude": lon, "time_zone": "Europe/Somewhere"},
	}
}

func testMMDB(v6 bool) []byte {
	w := newMMDB(v6)
	w.add("198.51.100.0/24", inCity(51.5, -0.1))
	w.add("203.0.113.0/25", inCity(-33.9, 151.2))
	w.add("203.0.113.128/25", map[string]any{"country": map[string]any{"iso_code": "YY"}})
	if v6 {
		w.add("2001:db8:aaaa::/48", inCity(40.7, -74))
	}
	return w.bytes("Test-City")
}

// TestMMDB: where the file of prefixes knows nothing.
func TestMMDB(t *testing.T) {
	for _, v6 := range []bool{true, false} {
		cfg := config(world())
		dir := t.TempDir()
		cfg.MMDB, cfg.Prefixes = filepath.Join(dir, "city.mmdb"), filepath.Join(dir, "prefixes")
		write(t, cfg.MMDB, string(testMMDB(v6)))
		write(t, cfg.Prefixes, "198.51.100.128/25 iad\n")
		s := run(t, cfg)
		for _, tt := range []struct {
			client, want string
			scope        int
		}{
			{"198.51.100.0/25", "192.0.2.2", 25}, // the /24 of the database, without the /25 of the file
			{"198.51.100.128/25", "192.0.2.1", 25},
			{"203.0.113.0/25", "192.0.2.3", 25},
			{"203.0.113.128/25", "*", 25}, // no location
			{"2001:db8:aaaa::/56", "192.0.2.1", 48},
		} {
			if !v6 && strings.Contains(tt.client, ":") {
				tt.want, tt.scope = "*", 0
			}
			m := query(t, s, "udp", "shop."+zone, dns.TypeA, from(tt.client))
			if got := values(m); scope(m) != tt.scope || tt.want != "*" && got != tt.want || tt.want == "*" && len(m.Answer) != 2 {
				t.Errorf("%s: got %s with scope %d, want %s with %d", tt.client, got, scope(m), tt.want, tt.scope)
			}
		}
	}
}

func TestMMDBReload(t *testing.T) {
	cfg := config(world())
	cfg.MMDB = filepath.Join(t.TempDir(), "city.mmdb")
	write(t, cfg.MMDB, string(testMMDB(true)))
	s := run(t, cfg)
	ask := func() string {
		return values(query(t, s, "udp", "shop."+zone, dns.TypeA, from("198.51.100.0/24")))
	}
	if got := ask(); got != "192.0.2.2" {
		t.Fatal(got)
	}
	w := newMMDB(true)
	w.add("198.51.100.0/24", inCity(-33.9, 151.2))
	write(t, cfg.MMDB, string(w.bytes("Test-City")))
	eventually(t, func() bool { return ask() == "192.0.2.3" })
}

func TestMMDBWithoutPlaces(t *testing.T) {
	w := newMMDB(true)
	w.add("198.51.100.0/24", map[string]any{"country": map[string]any{"iso_code": "XX"}})
	if _, err := parseMMDB(w.bytes("Test-Country")); err == nil || !strings.Contains(err.Error(), "use a database of cities") {
		t.Errorf("got %v", err)
	}
}

// TestSecondReader: another reader of the format finds the same.
func TestSecondReader(t *testing.T) {
	files := map[string][]byte{"IPv6": testMMDB(true), "IPv4": testMMDB(false)}
	if path := os.Getenv("PERIGEE_TEST_MMDB"); path != "" { // an operator's own database
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		files[path] = b
	}
	for name, b := range files {
		ours, err := parseMMDB(b)
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := maxminddb.FromBytes(b)
		if err != nil {
			t.Fatal(err)
		}
		defer theirs.Close()
		for i := range 20_000 {
			a := netip.AddrFrom4([4]byte{byte(rand.IntN(256)), byte(rand.IntN(256)), byte(rand.IntN(256)), byte(i)})
			switch i % 4 {
			case 1:
				a = netip.MustParseAddr("198.51.100.9")
			case 2:
				a = netip.AddrFrom4([4]byte{203, 0, 113, byte(i / 4)})
			case 3:
				a = netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0xaa, 0xaa, byte(i / 4), byte(i)})
			}
			compare(t, name, ours, theirs, a)
		}
	}
}

func compare(t *testing.T, name string, ours *mmdb, theirs *maxminddb.Reader, a netip.Addr) {
	t.Helper()
	if a.Is6() && !ours.v6 {
		return
	}
	var want struct {
		Location struct {
			Latitude  *float64 `maxminddb:"latitude"`
			Longitude *float64 `maxminddb:"longitude"`
		} `maxminddb:"location"`
	}
	network, _, err := theirs.LookupNetwork(a.AsSlice(), &want)
	if err != nil {
		t.Fatal(err)
	}
	got, bits, err := ours.lookup(a)
	lat := want.Location.Latitude
	if err != nil || got.known != (lat != nil) || lat != nil && (got.lat != *lat || got.lon != *want.Location.Longitude) {
		t.Errorf("%s: %s is at %+v (%v), another reader says %+v", name, a, got, err, want)
	}
	if ones, size := network.Mask.Size(); size == a.BitLen() && ones != bits {
		t.Errorf("%s: %s: %d bits, another reader says %d", name, a, bits, ones)
	}
}

// TestValues: sizes and pointers of all lengths.
func TestValues(t *testing.T) {
	pad := func(n int, tail ...byte) data { return append(make(data, n), tail...) }
	for _, tt := range []struct {
		d        data
		at       int
		kind, to int
		next     int
	}{
		{data{0x20, 5}, 0, kindPointer, 5, 2},
		{data{0x27, 255}, 0, kindPointer, 2047, 2},
		{data{0x28, 0, 0}, 0, kindPointer, 2048, 3},
		{data{0x2f, 255, 255}, 0, kindPointer, 526335, 3},
		{data{0x30, 0, 0, 0}, 0, kindPointer, 526336, 4},
		{data{0x38, 1, 2, 3, 4}, 0, kindPointer, 0x01020304, 5},
		{data{0x5d, 0}, 0, kindString, 29, 2},
		{data{0x5e, 0, 1}, 0, kindString, 286, 3},
		{data{0x5f, 0, 0, 0}, 0, kindString, 65821, 4},
		{pad(7, 0x01, 7), 7, kindBool, 1, 9},
	} {
		v, err := tt.d.head(tt.at)
		if err != nil || v != (value{tt.kind, tt.to, tt.next}) {
			t.Errorf("% x: %+v, %v", tt.d, v, err)
		}
	}
	for _, broken := range []data{{}, {0x28, 0}, {0x5d}, {0}, {0x20, 0}} {
		if v, err := broken.follow(0); err == nil {
			t.Errorf("% x: %+v", broken, v)
		}
	}
}

// TestNodeSizes: the three sizes of tree nodes.
func TestNodeSizes(t *testing.T) {
	for bits, tree := range map[int][]byte{
		24: {0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6}, 32: {0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 0, 4, 5, 6}, 28: {0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 0x9a, 4, 5, 6},
	} {
		m := &mmdb{tree: tree, bits: bits}
		left, right := 0x010203, 0x040506
		if bits == 28 {
			left, right = 0x9010203, 0xa040506
		}
		if l, r := m.next(1, 0), m.next(1, 1); l != left || r != right {
			t.Errorf("%d bits: %x and %x", bits, l, r)
		}
	}
}

// FuzzMMDB: a broken database is refused, or answers without harm.
func FuzzMMDB(f *testing.F) {
	f.Add(testMMDB(true), []byte{198, 51, 100, 1})
	f.Add(testMMDB(false), []byte{203, 0, 113, 1})
	f.Fuzz(func(t *testing.T, b, address []byte) {
		db, err := parseMMDB(b)
		a, ok := netip.AddrFromSlice(address)
		if err != nil || !ok {
			return
		}
		if _, bits, err := db.lookup(a.Unmap()); err == nil && (bits < 0 || bits > a.Unmap().BitLen()) {
			t.Errorf("%s: %d bits", a, bits)
		}
	})
}

// FuzzPrefixes: the tree finds what looking through all lines finds, for all of
// the network that it says.
func FuzzPrefixes(f *testing.F) {
	f.Add([]byte(places3), []byte{198, 51, 100, 7})
	f.Add([]byte("0.0.0.0/0 fra\n10.0.0.1 iad\n::/0 syd"), []byte{10, 0, 0, 1})
	f.Add([]byte("10.0.0.0/8"), []byte{})
	f.Fuzz(func(t *testing.T, text, address []byte) {
		p, err := parsePrefixes(text)
		a, ok := netip.AddrFromSlice(address)
		if err != nil || !ok {
			return
		}
		a = a.Unmap()
		got, bits := p.lookup(a)
		if bits < 0 || bits > a.BitLen() {
			t.Fatalf("%d bits of %s", bits, a)
		}
		holds, _ := a.Prefix(bits)
		longest, want := -1, ""
		for line := range strings.Lines(string(text)) {
			line, _, _ = strings.Cut(line, "#")
			fields := strings.Fields(line)
			if len(fields) != 2 {
				continue
			}
			pre, err := parsePrefix(fields[0])
			if err != nil {
				t.Fatal(err)
			}
			if pre.Contains(a) && pre.Bits() > longest {
				longest, want = pre.Bits(), fields[1]
			}
			if pre.Overlaps(holds) && pre.Bits() > bits {
				t.Errorf("%s is one answer, but %s is in it", holds, pre)
			}
		}
		if got != want {
			t.Errorf("%s: got %q, want %q", a, got, want)
		}
	})
}

// FuzzQuery hands any bytes that are a message to the zone: it must answer with a
// message that can be sent, fits, repeats the question and is not much larger.
func FuzzQuery(f *testing.F) {
	for _, name := range []string{"shop." + zone, zone, "own." + zone, "_acme-challenge.shop." + zone, "example.com.", ".", `w\.x\000.` + zone, "a.b.wild." + zone} {
		for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeTXT, dns.TypeANY, dns.TypeSOA, dns.TypeNS} {
			q := new(dns.Msg).SetQuestion(name, qtype)
			from("198.51.100.0/24")(q)
			b, err := q.Pack()
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b, false)
		}
	}
	cfg := config(world())
	cfg.RateLimit = 1e9
	s, err := New(cfg)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(s.Close)
	places, err := parsePrefixes([]byte(places3))
	if err != nil {
		f.Fatal(err)
	}
	s.places.prefixes.Store(places)
	f.Fuzz(func(t *testing.T, b []byte, tcp bool) {
		q := new(dns.Msg)
		if q.Unpack(b) != nil {
			return
		}
		m := s.respond(netip.MustParseAddr("127.0.0.1"), q, tcp)
		if m == nil {
			return
		}
		if !m.Response || m.Id != q.Id || !slices.Equal(m.Question, q.Question) || m.RecursionAvailable {
			t.Errorf("not a reply: %v", m)
		}
		out, err := m.Pack()
		if err != nil {
			t.Skip("the question itself cannot be packed again:", err)
		}
		if !tcp && len(out) > udpSize && len(m.Answer) > 0 {
			t.Errorf("%d bytes over UDP", len(out))
		}
		if !tcp && len(out) > len(b)+400 {
			t.Errorf("%d bytes for a question of %d", len(out), len(b))
		}
	})
}
