// Package region knows cities: the codes that nodes name as their region, where
// on earth they are, and how far light has to travel between them. The DNS
// server picks the nearest by it, the lab takes its delays from it.
//
// It does not know which regions a cloud has: that is what its nodes say. A
// region that is not in this list works everywhere but has no place on earth.
// The next city is a line in cities.go.
package region

import (
	"math"
	"slices"
	"strings"
	"time"
)

// City is a place that may be a region.
type City struct {
	// Code is the IATA-like code that nodes and configurations use, "fra".
	Code string
	// Name is for people, "Frankfurt, Germany".
	Name string
	// Lat and Lon are in degrees, north and east positive.
	Lat, Lon float64
}

// Lookup finds a city by its code, in lower case.
func Lookup(code string) (City, bool) {
	i, ok := slices.BinarySearchFunc(cities, code, func(c City, code string) int { return strings.Compare(c.Code, code) })
	if !ok {
		return City{}, false
	}
	return cities[i], true
}

// Cities returns all of them by code. The slice is the caller's.
func Cities() []City { return slices.Clone(cities) }

// Distance is the great-circle distance in kilometres.
func Distance(aLat, aLon, bLat, bLon float64) float64 {
	const earth, rad = 6371, math.Pi / 180
	sin := func(x float64) float64 { s := math.Sin(x * rad / 2); return s * s }
	h := sin(bLat-aLat) + math.Cos(aLat*rad)*math.Cos(bLat*rad)*sin(bLon-aLon)
	return 2 * earth * math.Asin(math.Sqrt(min(h, 1)))
}

// RTT estimates the round trip between two cities over the internet: light in
// fibre goes 200 km a millisecond, and cables take about 1.5 times the
// great-circle way. Measured pairs, such as Frankfurt to Sydney at some 290 ms,
// are within a quarter of it.
func RTT(a, b City) time.Duration {
	if a.Code == b.Code {
		return time.Millisecond
	}
	km := Distance(a.Lat, a.Lon, b.Lat, b.Lon)
	return time.Millisecond + time.Duration(2*1.5*km/200*float64(time.Millisecond)).Round(100*time.Microsecond)
}
