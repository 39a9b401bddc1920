package zone

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/oschwald/maxminddb-golang"
)

// mmdb is a database of places in MaxMind's format.
type mmdb struct{ r *maxminddb.Reader }

// located is the part of a record that we read; MaxMind and DB-IP agree on it.
type located struct {
	Location struct {
		Latitude  *float64 `maxminddb:"latitude"`
		Longitude *float64 `maxminddb:"longitude"`
	} `maxminddb:"location"`
}

// sample is how many networks of a new database are searched for one with a
// location, before it is taken for one that has none.
const sample = 20_000

// parseMMDB takes a database held in memory, not mapped: a file that is cut
// short while it is mapped would kill the process.
func parseMMDB(b []byte) (*mmdb, error) {
	r, err := maxminddb.FromBytes(b)
	if err != nil {
		return nil, err
	}
	m := &mmdb{r}
	return m, m.check()
}

func (m *mmdb) check() error {
	networks := m.r.Networks(maxminddb.SkipAliasedNetworks)
	for n := 0; n < sample && networks.Next(); n++ {
		var rec located
		if _, err := networks.Network(&rec); err != nil {
			return err
		}
		if _, ok := rec.place(); ok {
			return nil
		}
	}
	if err := networks.Err(); err != nil {
		return err
	}
	return errors.New("its records have no location.latitude and location.longitude; use a database of cities")
}

func (l located) place() (place, bool) {
	lat, lon := l.Location.Latitude, l.Location.Longitude
	if lat == nil || lon == nil || !(*lat >= -90 && *lat <= 90 && *lon >= -180 && *lon <= 180) {
		return place{}, false
	}
	return at(*lat, *lon), true
}

// lookup returns the place of an address, and for how many bits of it that is true.
func (m *mmdb) lookup(a netip.Addr) (place, int, error) {
	if a.Is6() && m.r.Metadata.IPVersion == 4 {
		return place{}, 0, nil
	}
	var rec located
	network, _, err := m.r.LookupNetwork(net.IP(a.AsSlice()), &rec)
	if err != nil {
		return place{}, a.BitLen(), fmt.Errorf("cannot look up %s: %w", a, err)
	}
	bits, size := network.Mask.Size()
	if a.Is4() && size == 128 { // the network holds all of IPv4
		bits = max(0, bits-96)
	}
	p, _ := rec.place()
	return p, bits, nil
}
