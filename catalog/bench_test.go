package catalog

import (
	"fmt"
	"runtime"
	"testing"
	"time"
)

func BenchmarkPut(b *testing.B) {
	for _, sync := range []bool{true, false} {
		b.Run(fmt.Sprintf("sync=%v", sync), func(b *testing.B) {
			tab := table(b, open(b, Config{noSync: !sync}), "bench")
			for i := 0; b.Loop(); i++ {
				if _, err := tab.Put(b.Context(), fmt.Sprintf("app.m%d", i%1000), rec{Name: "machine", N: i}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkPutParallel(b *testing.B) {
	tab := table(b, open(b, Config{}), "bench")
	b.SetParallelism(16)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := tab.Put(b.Context(), "app.m", rec{Name: "machine"}); err != nil {
				b.Error(err)
			}
		}
	})
}

func BenchmarkGet(b *testing.B) {
	tab := filled(b, 10_000)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, ok := tab.Get("app42.m5042"); !ok {
				b.Error("gone")
			}
		}
	})
}

func BenchmarkList100Of10000(b *testing.B) {
	tab := filled(b, 10_000)
	for b.Loop() {
		if n := len(tab.List("app42.")); n != 100 {
			b.Fatal(n)
		}
	}
}

// BenchmarkWatch is from the call of Put to the change in another reader's hands.
func BenchmarkWatch(b *testing.B) {
	tab := table(b, open(b, Config{}), "bench")
	changes := tab.Watch(b.Context(), "")
	for i := 0; b.Loop(); i++ {
		if _, err := tab.Put(b.Context(), "app.m", rec{N: i}); err != nil {
			b.Fatal(err)
		}
		<-changes
	}
}

// BenchmarkReopen10000 is a daemon's start with 10,000 records.
func BenchmarkReopen10000(b *testing.B) {
	dir := b.TempDir()
	c := open(b, Config{Dir: dir, noSync: true})
	fill(b, table(b, c, "bench"), 10_000)
	c.Close()
	for b.Loop() {
		c := open(b, Config{Dir: dir})
		if n := len(table(b, c, "bench").List("")); n != 10_000 {
			b.Fatal(n)
		}
		c.Close()
	}
}

// BenchmarkIdleMemory reports what an open catalog with 10,000 records keeps.
func BenchmarkIdleMemory(b *testing.B) {
	for b.Loop() {
		tab := filled(b, 10_000)
		time.Sleep(100 * time.Millisecond)
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		b.ReportMetric(float64(m.HeapAlloc)/(1<<20), "heap-MiB")
		b.ReportMetric(float64(runtime.NumGoroutine()), "goroutines")
		runtime.KeepAlive(tab)
	}
}

func filled(b *testing.B, n int) *Table[rec] {
	tab := table(b, open(b, Config{noSync: true}), "bench")
	fill(b, tab, n)
	return tab
}

func fill(b *testing.B, tab *Table[rec], n int) {
	for i := range n {
		if _, err := tab.Put(b.Context(), fmt.Sprintf("app%d.m%d", i%100, i), rec{Name: "machine", N: i}); err != nil {
			b.Fatal(err)
		}
	}
}
