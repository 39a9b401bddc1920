//go:build linux

package wire_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/perigee-run/perigee/lab"
	"github.com/perigee-run/perigee/mesh/wire"
)

// newLab is an internet with real round trips.
func newLab(t testing.TB, cities ...string) *lab.Lab {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root to make namespaces")
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		t.Skip("needs /dev/net/tun")
	}
	dir, err := os.MkdirTemp("", "wire") // t.TempDir is too long for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := lab.New(t.Context(), lab.Config{Cities: cities, Dir: filepath.Join(dir, "l"), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// end is a device on a host of its own.
type end struct {
	t     testing.TB
	host  *lab.Host
	addr  netip.Addr
	key   string
	dev   *wire.Device
	conn  net.PacketConn
	heard chan string // addresses that answered
}

func newEnd(t testing.TB, l *lab.Lab, city string, number int) *end {
	t.Helper()
	h, err := l.AddHost(fmt.Sprintf("%s-%d", city, number), city)
	if err != nil {
		t.Fatal(err)
	}
	e := &end{t: t, host: h, addr: netip.MustParseAddr(fmt.Sprintf("fdaa:0:%x::1", number)), key: filepath.Join(t.TempDir(), "key"), heard: make(chan string, 100)}
	e.start()
	t.Cleanup(e.stop)
	return e
}

func (e *end) start() {
	e.t.Helper()
	err := e.host.Do(func() (err error) {
		e.dev, err = wire.New(wire.Config{Device: "wg0", KeyFile: e.key, Address: netip.PrefixFrom(e.addr, 128)})
		return err
	})
	if err != nil {
		e.t.Fatal(err)
	}
	if e.conn, err = e.host.ListenPacket("udp", netip.AddrPortFrom(e.addr, 7).String()); err != nil {
		e.t.Fatal(err)
	}
	go e.answer(e.conn)
}

func (e *end) stop() {
	e.conn.Close()
	if err := e.dev.Remove(); err != nil {
		e.t.Error(err)
	}
}

// answer is what the nodes' probers do.
func (e *end) answer(c net.PacketConn) {
	b := make([]byte, 64)
	for {
		n, from, err := c.ReadFrom(b)
		if err != nil {
			return
		}
		if string(b[:n]) == "ask" {
			c.WriteTo([]byte("reply"), from)
			continue
		}
		select {
		case e.heard <- from.(*net.UDPAddr).IP.String():
		default:
		}
	}
}

func (e *end) peer() wire.Peer {
	return wire.Peer{Name: e.host.Name, Key: e.dev.PublicKey(), Endpoint: netip.AddrPortFrom(e.host.Addr4, wire.DefaultPort).String(),
		Keepalive: 25 * time.Second, Allowed: []netip.Prefix{netip.PrefixFrom(e.addr, 128)}}
}

func (e *end) knows(others ...*end) {
	var all []wire.Peer
	for _, o := range others {
		all = append(all, o.peer())
	}
	if err := e.dev.SetPeers(context.Background(), all); err != nil {
		e.t.Error(err)
	}
}

func (e *end) ask(o *end) {
	e.conn.WriteTo([]byte("ask"), net.UDPAddrFromAddrPort(netip.AddrPortFrom(o.addr, 7)))
}

// reach asks the other end until it answers, and returns when it did.
func (e *end) reach(o *end, limit time.Duration) time.Time {
	for len(e.heard) > 0 {
		<-e.heard
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	ends := time.After(limit)
	for {
		e.ask(o)
		select {
		case who := <-e.heard:
			if who == o.addr.String() {
				return time.Now()
			}
		case <-tick.C:
		case <-ends:
			s, err := e.dev.Status()
			e.t.Errorf("%s does not reach %s in %s: %+v, %v", e.host.Name, o.host.Name, limit, s, err)
			return time.Now()
		}
	}
}

// link is two ends, far from each other.
type link [2]*end

// links are several pairs, all with the same round trip.
func links(t testing.TB, l *lab.Lab, count int) (all []link) {
	for i := range count {
		all = append(all, link{newEnd(t, l, "fra", 2*i+1), newEnd(t, l, "syd", 2*i+2)})
	}
	return all
}

// join has both hear of each other at times of their own, and returns how long
// after that both were answered.
func (l link) join(within time.Duration) time.Duration {
	var known, reached [2]time.Time
	var both sync.WaitGroup
	for i, e := range l {
		both.Go(func() {
			time.Sleep(rand.N(within))
			e.knows(l[1-i])
			known[i] = time.Now()
			reached[i] = e.reach(l[1-i], patient)
		})
	}
	both.Wait()
	return latest(reached).Sub(latest(known))
}

// speak returns how long both take until they were answered.
func (l link) speak() time.Duration {
	began := time.Now()
	var reached [2]time.Time
	var both sync.WaitGroup
	for i, e := range l {
		both.Go(func() { reached[i] = e.reach(l[1-i], patient) })
	}
	both.Wait()
	return latest(reached).Sub(began)
}

func latest(t [2]time.Time) time.Time {
	if t[0].After(t[1]) {
		return t[0]
	}
	return t[1]
}

// patient is for what must happen at all on a machine that does much else.
const patient = 60 * time.Second

// rekeyTimeout is how long WireGuard rests after a greeting that was lost.
const rekeyTimeout = 5 * time.Second

// each does something with all links at once, some times, and returns how long it took.
func each(all []link, times int, do func(link) time.Duration) (took []time.Duration) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, l := range all {
		wg.Go(func() {
			for range times {
				d := do(l)
				mu.Lock()
				took = append(took, d)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	slices.Sort(took)
	return took
}

// check wants links that did not wait for WireGuard's own next try. Some may on a
// machine that is busy.
func check(t *testing.T, what string, took []time.Duration) {
	t.Helper()
	middle := took[len(took)/2]
	t.Logf("%s: %s to %s, median %s", what, took[0].Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond), middle.Round(time.Millisecond))
	if middle > rekeyTimeout {
		t.Errorf("%s: half of the links take longer than %s", what, rekeyTimeout)
	}
}

// TestLinksStand: both ends hear of each other, at about the same time and at
// once have something to say, which makes their handshakes cross; then one or the
// other loses its sessions, as a node that starts again does.
func TestLinksStand(t *testing.T) {
	l := newLab(t, "fra", "syd")
	all := links(t, l, 4)
	t.Logf("the round trip is %s", l.RTT("fra", "syd"))
	for _, within := range []time.Duration{1, 500 * time.Millisecond} {
		check(t, fmt.Sprintf("joined within %s", within), each(all, 3, func(l link) time.Duration {
			l[0].knows()
			l[1].knows()
			return l.join(within)
		}))
	}
	for i, who := range []string{"one end", "the other end"} {
		check(t, who+" started again", each(all, 1, func(l link) time.Duration {
			l[i].stop()
			l[i].start()
			l[i].knows(l[1-i])
			return l.speak()
		}))
	}
}
