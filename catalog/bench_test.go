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

// BenchmarkPublished10000 is a node that joins a cloud of three members in which
// 10,000 entries are published: until it has them all, and what they weigh.
func BenchmarkPublished10000(b *testing.B) {
	const n = 10_000
	tc := three(b)
	p := must[*Published[rec]](b)(NewPublished[rec](tc.node["a"].Catalog, "machines"))
	began := time.Now()
	for i := range n {
		p.Set(fmt.Sprintf("m%d", i), rec{Name: "machine", N: i, Tags: map[string]string{"app": "web", "region": "fra"}})
	}
	eventually(b, "all is stored", func() bool { return p.out.isDone() })
	b.ReportMetric(float64(n)/time.Since(began).Seconds(), "stored/s")
	for b.Loop() {
		b.StopTimer()
		before := heap()
		d := tc.add("d").start(b, tc.members("a", "b", "c")...)
		b.StartTimer()
		q := must[*Published[rec]](b)(NewPublished[rec](d.Catalog, "machines"))
		for len(q.mem.list("")) < n {
			time.Sleep(time.Millisecond)
		}
		b.StopTimer()
		b.ReportMetric(float64(heap()-before)/n, "B/entry")
		d.Close()
		b.StartTimer()
	}
}

// BenchmarkPublishedChange is from Set on one node to the change in the hands of
// a reader on another.
func BenchmarkPublishedChange(b *testing.B) {
	tc := three(b)
	p := published3(b, tc)
	changes := p["c"].Watch(b.Context())
	p["a"].Set("m", rec{N: -1})
	<-changes
	for i := 0; b.Loop(); i++ {
		p["a"].Set("m", rec{N: i})
		<-changes
	}
}

// BenchmarkPutThreeMembers is a write that two members have synced.
func BenchmarkPutThreeMembers(b *testing.B) {
	tc := three(b)
	for i := 0; b.Loop(); i++ {
		if _, err := tc.node["b"].apps.Put(b.Context(), fmt.Sprintf("k%d", i%1000), rec{N: i}); err != nil {
			b.Fatal(err)
		}
	}
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
