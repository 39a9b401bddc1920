package machine

import (
	"testing"
	"time"

	"github.com/perigee-run/perigee/api"
)

// BenchmarkWake measures how long a request is held by this room: from Wake to
// its answer, with a real sandbox, network and catalog. The part named "own" is
// what is left without the sandbox and the network.
func BenchmarkWake(b *testing.B) {
	n := newNode(b)
	d := n.run()
	id := d.create(b, web())
	if err := d.WaitHealthy(b.Context(), id); err != nil {
		b.Fatal(err)
	}
	for name, sleep := range map[string]func() error{
		"paused":    func() error { return d.Pause(b.Context(), id, "") },
		"suspended": func() error { return d.Suspend(b.Context(), id, "") },
		"stopped":   func() error { return d.Stop(b.Context(), id, api.StopRequest{}, "") },
	} {
		b.Run(name, func(b *testing.B) {
			own := 0.0
			for b.Loop() {
				b.StopTimer()
				ok(b, sleep())
				until(b, "the pool is full", func() bool { return d.pool.size() == d.cfg.Pool })
				b.StartTimer()
				from := time.Now()
				_, err := d.Wake(b.Context(), id)
				took := milliseconds(time.Since(from))
				ok(b, err)
				own += took - outside(d, id)
			}
			b.ReportMetric(own/float64(b.N), "own-ms/op")
		})
	}
}

// outside is what the sandbox and the network took of the latest start.
func outside(d *daemon, id string) float64 {
	detail := d.lookup(id).now().rec.Events[0].Detail
	if detail["how"] == "paused" {
		return detail["total_ms"].(float64)
	}
	return detail["sandbox_ms"].(float64) + detail["assign_ms"].(float64)
}
