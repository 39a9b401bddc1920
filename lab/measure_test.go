//go:build linux

package lab

import (
	"net/netip"
	"slices"
	"testing"
	"time"
)

// BenchmarkDelay says how far round trips are from what they should be.
func BenchmarkDelay(b *testing.B) {
	l := newLab(b, "iad", "ewr")
	from, to := addHost(b, l, "a", "iad"), addHost(b, l, "b", "ewr")
	echo(b, to, to.Addr4)
	c, err := from.Dial(b.Context(), "udp", netip.AddrPortFrom(to.Addr4, 7).String())
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	want := l.RTT("iad", "ewr")
	var off []time.Duration
	buf := make([]byte, 64)
	for b.Loop() {
		began := time.Now()
		c.Write([]byte("x"))
		c.SetDeadline(began.Add(time.Second))
		if _, err := c.Read(buf); err != nil {
			b.Fatal(err)
		}
		off = append(off, time.Since(began)-want)
	}
	slices.Sort(off)
	b.ReportMetric(float64(off[len(off)/2].Microseconds()), "µs-off-p50")
	b.ReportMetric(float64(off[len(off)*99/100].Microseconds()), "µs-off-p99")
}

// BenchmarkTransfer is one TCP connection between two cities.
func BenchmarkTransfer(b *testing.B) {
	l := newLab(b, "iad", "ewr")
	from, to := addHost(b, l, "a", "iad"), addHost(b, l, "b", "ewr")
	const size = 256 << 20
	b.SetBytes(size)
	for b.Loop() {
		transfer(b, from, to, to.Addr4, size)
	}
}
