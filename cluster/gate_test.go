package cluster

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// gate passes connections on until it is shut; then bytes are swallowed, as a
// cut wire does.
type gate struct {
	l    net.Listener
	shut atomic.Bool
}

func newGate(t *testing.T, to string) *gate {
	g := &gate{l: listen(t)}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	keep := func(c net.Conn) {
		mu.Lock()
		defer mu.Unlock()
		open = append(open, c)
	}
	wg.Go(func() {
		for {
			in, err := g.l.Accept()
			if err != nil {
				return
			}
			out, err := net.DialTimeout("tcp", to, time.Second)
			if err != nil {
				in.Close()
				continue
			}
			keep(in)
			keep(out)
			wg.Go(func() { g.pump(in, out) })
			wg.Go(func() { g.pump(out, in) })
		}
	})
	t.Cleanup(func() {
		g.l.Close()
		mu.Lock()
		for _, c := range open {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return g
}

func (g *gate) pump(to, from net.Conn) {
	_, _ = io.Copy(valve{g, to}, from)
	if !g.shut.Load() {
		to.Close()
	}
}

type valve struct {
	g *gate
	w io.Writer
}

func (v valve) Write(p []byte) (int, error) {
	if v.g.shut.Load() {
		return len(p), nil
	}
	return v.w.Write(p)
}
