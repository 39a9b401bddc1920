//go:build linux

package fabric

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// early is by how much a packet may leave before its time: waking up takes that
// long, and packets that are due together cost one wake-up.
const early = int64(30 * time.Microsecond)

// burst is how many packets one port may send before the others have a turn.
const burst = 32

// engine is the thread that all packets pass through.
type engine struct {
	f     *Fabric
	epoll int
	event int // wakes the thread when ports change or it shall end
	done  chan struct{}

	mu      sync.Mutex // guards what follows
	removed []*Port
	ending  bool

	byFD sync.Map // int → *Port
	heap heap
	pool pool
	sums counters
}

// counters are of packets since the start.
type counters struct{ carried, lost, cut, full, nowhere atomic.Uint64 }

// Stats counts packets since the start.
func (f *Fabric) Stats() Stats {
	s := &f.engine.sums
	return Stats{s.carried.Load(), s.lost.Load(), s.cut.Load(), s.full.Load(), s.nowhere.Load()}
}

func startEngine(f *Fabric) (*engine, error) {
	e := &engine{f: f, done: make(chan struct{})}
	var err error
	if e.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("cannot make epoll: %w", err)
	}
	if e.event, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		unix.Close(e.epoll)
		return nil, fmt.Errorf("cannot make eventfd: %w", err)
	}
	if err := e.watch(e.event); err != nil {
		unix.Close(e.epoll)
		unix.Close(e.event)
		return nil, err
	}
	go e.run()
	return e, nil
}

func (e *engine) watch(fd int) error {
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}
	if err := unix.EpollCtl(e.epoll, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
		return fmt.Errorf("cannot watch device: %w", err)
	}
	return nil
}

func (e *engine) add(p *Port) error {
	e.byFD.Store(p.fd, p)
	return e.watch(p.fd)
}

// remove leaves closing to the thread, which may be at the port's device.
func (e *engine) remove(p *Port) {
	p.gone.Store(true)
	e.mu.Lock()
	e.removed = append(e.removed, p)
	e.mu.Unlock()
	e.wake()
}

func (e *engine) wake() { unix.Write(e.event, []byte{1, 0, 0, 0, 0, 0, 0, 0}) }

func (e *engine) stop() {
	e.mu.Lock()
	e.ending = true
	e.mu.Unlock()
	e.wake()
	<-e.done
}

// now is the monotonic clock.
func now() int64 {
	var ts unix.Timespec
	unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return ts.Nano()
}

// run sleeps until a packet comes or is due. Meanwhile the thread has no timer
// slack, which would add 50 µs to every delay.
func (e *engine) run() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(e.done)
	defer e.closeAll()
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
	defer func() { _ = unix.Prctl(unix.PR_SET_TIMERSLACK, 0, 0, 0, 0) }() // the default
	events := make([]unix.EpollEvent, 64)
	for e.tidy() {
		e.deliver(now())
		if !e.sleep() {
			continue
		}
		n, err := unix.EpollWait(e.epoll, events, 0)
		if err != nil && !errors.Is(err, unix.EINTR) {
			e.f.cfg.Logger.Error("the lab's switch ends", "err", err)
			return
		}
		for _, ev := range events[:max(n, 0)] {
			if p, ok := e.byFD.Load(int(ev.Fd)); ok {
				e.drain(p.(*Port))
			}
		}
	}
}

// sleep waits until something can be read or the first packet is due; it
// reports whether something can be read.
func (e *engine) sleep() bool {
	var timeout *unix.Timespec
	if len(e.heap.items) > 0 {
		ts := unix.NsecToTimespec(max(0, e.heap.items[0].at-early-now()))
		timeout = &ts
	}
	n, _ := unix.Ppoll([]unix.PollFd{{Fd: int32(e.epoll), Events: unix.POLLIN}}, timeout, nil)
	return n > 0
}

// tidy closes ports that are gone, and reports whether to go on.
func (e *engine) tidy() bool {
	var b [8]byte
	if n, _ := unix.Read(e.event, b[:]); n <= 0 {
		return true
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, p := range e.removed {
		e.byFD.Delete(p.fd)
		unix.Close(p.fd)
	}
	e.removed = nil
	return !e.ending
}

func (e *engine) closeAll() {
	e.byFD.Range(func(fd, _ any) bool {
		unix.Close(fd.(int))
		return true
	})
	unix.Close(e.epoll)
	unix.Close(e.event)
}

// drain takes a port's packets until there are none or others have a turn.
func (e *engine) drain(p *Port) {
	for range burst {
		buf := e.pool.big()
		n, err := unix.Read(p.fd, buf)
		if err != nil || n <= headerSize || p.gone.Load() {
			e.pool.put(buf)
			return
		}
		e.take(p, e.pool.fit(buf, n))
	}
}

// take decides about one packet.
func (e *engine) take(from *Port, frame []byte) {
	v := e.f.view.Load()
	to, path, sum := e.route(v, from, frame)
	if sum != nil {
		sum.Add(1)
		e.pool.put(frame)
		return
	}
	at := now() + int64(path.delay)
	if path.jitter > 0 {
		at += rand.Int64N(int64(path.jitter))
	}
	at = max(at, from.last[to.id])
	from.last[to.id] = at
	to.queued += cap(frame)
	e.heap.push(item{at: at, frame: frame, to: to})
}

// route finds the receiver, or the counter of what stands in the way.
func (e *engine) route(v *view, from *Port, frame []byte) (*Port, path, *atomic.Uint64) {
	_, dst, ok := endpoints(frame[headerSize:])
	if !ok || dst.IsMulticast() {
		return nil, path{}, &e.sums.nowhere
	}
	to := v.find(from.city, dst)
	if to == nil || from.id >= len(v.paths) || len(v.paths[from.id]) <= to.id {
		return nil, path{}, &e.sums.nowhere
	}
	p := v.paths[from.id][to.id]
	switch {
	case p.cut:
		return nil, p, &e.sums.cut
	case p.loss > 0 && rand.Float64() < p.loss:
		return nil, p, &e.sums.lost
	case to.queued+cap(frame) > e.f.cfg.QueueBytes:
		return nil, p, &e.sums.full
	}
	return to, p, nil
}

// deliver hands over what is due.
func (e *engine) deliver(at int64) {
	for len(e.heap.items) > 0 && e.heap.items[0].at <= at+early {
		i := e.heap.pop()
		i.to.queued -= cap(i.frame)
		if !i.to.gone.Load() {
			if _, err := unix.Write(i.to.fd, i.frame); err == nil {
				e.sums.carried.Add(1)
			} else {
				e.sums.nowhere.Add(1)
			}
		}
		e.pool.put(i.frame)
	}
}
