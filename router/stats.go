package router

import (
	"sync/atomic"
	"time"
)

// AppStats is what the router has counted for one app since it began. All of it only grows.
type AppStats struct {
	// Requests counts HTTP requests, Connections raw TCP connections and upgraded ones.
	Requests, Connections uint64
	// Class counts answers by the first digit of their status: Class[2] is 2xx. Class[0] counts clients that left.
	Class [6]uint64
	// BytesIn and BytesOut are bytes of bodies and streams from and to clients.
	BytesIn, BytesOut uint64
	// Wakes and WakeErrors count calls of the waker.
	Wakes, WakeErrors uint64
	// Woken counts requests that were held for a wake until the port answered; WokenTime is their sum from the beginning
	// of the wake on, WokenMax the longest.
	Woken               uint64
	WokenTime, WokenMax time.Duration
}

type appStats struct {
	requests, connections atomic.Uint64
	class                 [6]atomic.Uint64
	in, out               atomic.Uint64
	wakes, wakeErrors     atomic.Uint64
	woken                 atomic.Uint64
	wokenTime, wokenMax   atomic.Int64
	retries               retries
}

func (s *appStats) answered(status int) {
	s.requests.Add(1)
	s.retries.earn()
	class := status / 100
	if class > 5 || status == statusClientGone {
		class = 0
	}
	s.class[class].Add(1)
}

func (s *appStats) wakeDone(err error) {
	s.wakes.Add(1)
	if err != nil {
		s.wakeErrors.Add(1)
	}
}

func (s *appStats) wakeAnswered(d time.Duration) {
	s.woken.Add(1)
	s.wokenTime.Add(int64(d))
	for {
		old := s.wokenMax.Load()
		if int64(d) <= old || s.wokenMax.CompareAndSwap(old, int64(d)) {
			return
		}
	}
}

func (s *appStats) snapshot() AppStats {
	out := AppStats{
		Requests: s.requests.Load(), Connections: s.connections.Load(), BytesIn: s.in.Load(), BytesOut: s.out.Load(),
		Wakes: s.wakes.Load(), WakeErrors: s.wakeErrors.Load(),
		Woken: s.woken.Load(), WokenTime: time.Duration(s.wokenTime.Load()), WokenMax: time.Duration(s.wokenMax.Load()),
	}
	for i := range out.Class {
		out.Class[i] = s.class[i].Load()
	}
	return out
}

// Snapshot is what was counted so far, by app. Requests for hosts that nobody has are under "".
func (r *Router) Snapshot() map[string]AppStats {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make(map[string]AppStats, len(r.stats))
	for name, s := range r.stats {
		out[name] = s.snapshot()
	}
	return out
}
