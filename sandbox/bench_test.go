package sandbox_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/perigee-run/perigee/sandbox"
)

// The benchmarks measure from the call to the machine's first HTTP byte,
// through a network namespace and a veth pair, and report medians:
//
//	go test -run - -bench . -benchtime 20x
//
// With PERIGEE_BENCH_NODE=image.erofs, an image that has /usr/bin/node,
// /app/server.js and /express/server.js on port 8080, Node.js too.

type app struct {
	name, rootfs string
	args         []string
}

func apps() []app {
	list := []app{{"tiny", built.busybox, []string{"/bin/httpd", "-f", "-p", "8080", "-h", "/www"}}}
	if image := os.Getenv("PERIGEE_BENCH_NODE"); image != "" {
		list = append(list, app{"node", image, []string{"/usr/bin/node", "/app/server.js"}},
			app{"express", image, []string{"/usr/bin/node", "/express/server.js"}})
	}
	return list
}

func (k *kit) appSpec(a app, w *network) sandbox.Spec {
	s := k.spec(a.args...)
	s.Rootfs, s.Netns = a.rootfs, w.path
	s.Resources = sandbox.Resources{MemoryMiB: 512, CPUs: 2, PIDs: 256}
	return s
}

// times are a benchmark's samples.
type times struct{ call, first, cpu []time.Duration }

// took measures do and then the time to the first byte.
func (m *times) took(b *testing.B, w *network, do func() error) {
	start := time.Now()
	must(b, do())
	m.call = append(m.call, time.Since(start))
	w.get(b, 8080)
	m.first = append(m.first, time.Since(start))
}

func (m *times) report(b *testing.B) {
	median := func(d []time.Duration) float64 {
		slices.Sort(d)
		return float64(d[len(d)/2].Microseconds()) / 1000
	}
	b.ReportMetric(median(m.call), "ms-call-p50")
	b.ReportMetric(median(m.first), "ms-first-byte-p50")
	b.ReportMetric(float64(m.first[0].Microseconds())/1000, "ms-first-byte-min")
	b.ReportMetric(float64(m.first[len(m.first)*9/10].Microseconds())/1000, "ms-first-byte-p90")
	if len(m.cpu) > 0 {
		b.ReportMetric(median(m.cpu), "ms-cpu-p50")
	}
	b.ReportMetric(0, "ns/op")
}

// each runs one benchmark for every app.
func each(b *testing.B, run func(b *testing.B, k *kit, a app, m *times)) {
	if built.why != "" {
		b.Skip(built.why)
	}
	for _, a := range apps() {
		b.Run(a.name, func(b *testing.B) {
			k := newKit(b)
			var m times
			run(b, k, a, &m)
			m.report(b)
		})
	}
}

// settle waits until the host has little else to do, for at most a few
// seconds: other work on the same processors is not what is measured.
func settle() {
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); {
		idle, total := cpuTimes()
		time.Sleep(100 * time.Millisecond)
		idleNow, totalNow := cpuTimes()
		if totalNow > total && float64(idleNow-idle) > 0.85*float64(totalNow-total) {
			return
		}
	}
}

// cpuTimes are the host's idle and total ticks.
func cpuTimes() (idle, total uint64) {
	b, _ := os.ReadFile("/proc/stat")
	line, _, _ := strings.Cut(string(b), "\n")
	for i, f := range strings.Fields(line)[1:] {
		n, _ := strconv.ParseUint(f, 10, 64)
		total += n
		if i == 3 || i == 4 {
			idle += n
		}
	}
	return idle, total
}

func BenchmarkColdFromNothing(b *testing.B) {
	each(b, func(b *testing.B, k *kit, a app, m *times) {
		for range b.N {
			w := newNetwork(b)
			s := k.appSpec(a, w)
			settle()
			m.took(b, w, func() error { return k.Start(b.Context(), s, "") })
			must(b, k.Destroy(b.Context(), s.ID))
		}
	})
}

func BenchmarkColdFromPool(b *testing.B) {
	each(b, func(b *testing.B, k *kit, a app, m *times) {
		for i := range b.N {
			w := newNetwork(b)
			s := k.appSpec(a, w)
			from := fmt.Sprint("p", i)
			must(b, k.Prepare(b.Context(), from, w.path))
			settle()
			m.took(b, w, func() error { return k.Start(b.Context(), s, from) })
			if st, err := k.Stats(b.Context(), s.ID); err == nil {
				m.cpu = append(m.cpu, time.Duration(st.CPUNanos))
			}
			must(b, k.Destroy(b.Context(), s.ID))
		}
	})
}

func BenchmarkPaused(b *testing.B) {
	each(b, func(b *testing.B, k *kit, a app, m *times) {
		w := newNetwork(b)
		s := k.appSpec(a, w)
		must(b, k.Start(b.Context(), s, ""))
		w.get(b, 8080)
		for range b.N {
			must(b, k.Pause(b.Context(), s.ID))
			settle()
			m.took(b, w, func() error { return k.Resume(b.Context(), s.ID) })
		}
	})
}

func BenchmarkSnapshotFromPool(b *testing.B) {
	each(b, func(b *testing.B, k *kit, a app, m *times) {
		w := newNetwork(b)
		s := k.appSpec(a, w)
		must(b, k.Start(b.Context(), s, ""))
		w.get(b, 8080)
		dir := filepath.Join(k.dir, "snap")
		start := time.Now()
		must(b, k.Checkpoint(b.Context(), s.ID, dir))
		b.ReportMetric(float64(time.Since(start).Microseconds())/1000, "ms-save")
		must(b, k.Destroy(b.Context(), s.ID))
		for i := range b.N {
			w.address(b)
			from := fmt.Sprint("p", i)
			must(b, k.Prepare(b.Context(), from, w.path))
			settle()
			s.ID = fmt.Sprint("r", i)
			m.took(b, w, func() error { return k.Restore(b.Context(), s, from, dir) })
			must(b, k.Destroy(b.Context(), s.ID))
		}
	})
}
