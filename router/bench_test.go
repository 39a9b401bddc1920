package router

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// latency asks over one kept connection and reports the median.
func latency(b *testing.B, addr string) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	in := bufio.NewReader(c)
	var took []time.Duration
	for b.Loop() {
		began := time.Now()
		io.WriteString(c, "GET / HTTP/1.1\r\nHost: app.test\r\n\r\n")
		res, err := http.ReadResponse(in, nil)
		if err != nil || res.StatusCode != 200 {
			b.Fatal(res, err)
		}
		io.Copy(io.Discard, res.Body)
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Nanoseconds())/1000, "p50-µs")
}

// BenchmarkRequest compares a request to a machine directly, through its own node's router, and through an edge and the
// router of another node: the differences are what routers add.
func BenchmarkRequest(b *testing.B) {
	m := machine("m1", rawOrigin(b, answering("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")))
	host := hostNode(b, Config{}, webTable(m))
	edge := startEdge(b, Config{}, webTable(on(host, "b", "fra", m)))
	b.Run("direct", func(b *testing.B) { latency(b, netip.AddrPortFrom(m.Addr, uint16(m.Port)).String()) })
	b.Run("near", func(b *testing.B) { latency(b, host.at(80)) })
	b.Run("far", func(b *testing.B) { latency(b, edge.at(80)) })
}
