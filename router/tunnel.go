package router

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// tunnel passes bytes both ways until both sides are done, one fails, or it was silent for too long. It returns how many
// went in and out, and leaves both connections useless but open.
func (r *Router) tunnel(client, machine net.Conn, tg *target) (in, out int64) {
	t := &pipe{idle: tg.port.IdleTimeout, stall: r.cfg.StallTimeout}
	_ = client.SetReadDeadline(time.Time{})
	_ = machine.SetReadDeadline(time.Time{})
	var wg sync.WaitGroup
	wg.Go(func() { in = t.half(machine, client) })
	out = t.half(client, machine)
	wg.Wait()
	return in, out
}

// pipe is what the two directions of a tunnel know of each other.
type pipe struct {
	idle, stall time.Duration
	ended       atomic.Bool  // one direction has come to its end
	moves       atomic.Int64 // grows when bytes pass, looked at when a deadline is hit
}

// half copies one direction. The end of src is passed on as such; an error ends both directions. Once the other direction
// has ended, silence means that nobody waits for this one any more.
func (t *pipe) half(dst, src net.Conn) (total int64) {
	for {
		t.arm(src)
		seen := t.moves.Load()
		n, err := io.Copy(dst, src)
		total += n
		t.moves.Add(n)
		if errors.Is(err, os.ErrDeadlineExceeded) && (t.moves.Load() > seen || t.limit() == 0) {
			continue
		}
		if err == nil && !t.ended.Swap(true) {
			closeWrite(dst)
			_ = dst.SetReadDeadline(time.Now().Add(t.limit())) // makes the other direction look at ended
			return total
		}
		_ = dst.Close()
		_ = src.Close()
		return total
	}
}

func (t *pipe) limit() time.Duration {
	if t.ended.Load() && (t.idle == 0 || t.stall < t.idle) {
		return t.stall
	}
	return t.idle
}

func (t *pipe) arm(src net.Conn) {
	if limit := t.limit(); limit > 0 {
		_ = src.SetReadDeadline(time.Now().Add(limit))
	}
}

func closeWrite(c net.Conn) {
	if w, ok := c.(interface{ CloseWrite() error }); ok {
		_ = w.CloseWrite()
	}
}
