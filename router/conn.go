package router

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/perigee-run/perigee/router/http1"
)

const bufferSize = 16 << 10

// buffers are what a connection needs while a request is on its way; between requests it has none.
type buffers struct {
	in  []byte // from the client
	up  []byte // from the machine
	out []byte // heads as they are sent on
}

var spareBuffers = sync.Pool{New: func() any {
	return &buffers{in: make([]byte, bufferSize), up: make([]byte, bufferSize), out: make([]byte, 0, bufferSize+4<<10)}
}}

func (b *buffers) free() {
	if len(b.in) == bufferSize && len(b.up) == bufferSize && cap(b.out) < 4*bufferSize {
		spareBuffers.Put(b)
	}
}

// conn is a client's HTTP/1 connection. One goroutine serves it, one request after the other; at most one more reads
// from the client meanwhile, either to send a body on or to see whether the client is still there.
type conn struct {
	r   *Router
	c   net.Conn
	tcp *net.TCPConn // c, if there is no TLS
	entrance
	secure bool
	about  []byte // header lines about the client, the same for every request
	debug  bool
	gone   bool // handed over

	since     atomic.Int64 // when it became idle, Unix nanoseconds; 0: long ago
	state     atomic.Int32 // connIdle, connBusy or connClosed
	idleUntil time.Time    // the read deadline as it stands, zero if unknown

	b   *buffers
	n   int // bytes of b.in that are filled
	req http1.Request
	res http1.Response

	ask   ask
	trip  trip
	host  [256]byte
	id    []byte
	idBuf [64]byte

	watch watch

	mesh     bool  // the client is another router of ours
	order    order // what it wants
	hostSeat *seat // the machine it means
}

const (
	connIdle int32 = iota
	connBusy
	connClosed
)

// serveHTTP1 serves a connection until it ends. first is what was read from it already.
func (r *Router) serveHTTP1(nc net.Conn, e entrance, secure bool, first []byte) {
	r.serveConn(r.newConn(nc, e, secure, false), first)
}

func (r *Router) newConn(nc net.Conn, e entrance, secure, mesh bool) *conn {
	c := &conn{r: r, c: nc, entrance: e, secure: secure, mesh: mesh, debug: r.log.Enabled(r.life, slog.LevelDebug)}
	c.tcp, _ = nc.(*net.TCPConn)
	c.since.Store(time.Now().UnixNano())
	if !mesh {
		c.about = r.about(make([]byte, 0, 320), peerIP(nc), nil, e.port, secure)
	}
	return c
}

func (r *Router) serveConn(c *conn, first []byte) {
	r.enterLive(c)
	r.settled(c.c)
	defer r.leaveLive(c)
	defer c.close()
	if len(first) > 0 {
		c.borrow()
		c.n = copy(c.b.in, first)
	}
	for c.next() {
	}
	if c.b != nil {
		c.b.free()
	}
}

// close ends the connection, unless it speaks HTTP/2 and has gone to who serves that.
func (c *conn) close() {
	if !c.gone {
		_ = c.c.Close()
	}
}

func (c *conn) borrow() {
	if c.b == nil {
		c.b = spareBuffers.Get().(*buffers)
	}
}

// Close ends the connection whatever it does.
func (c *conn) Close() error {
	c.state.Store(connClosed)
	if u := c.watch.upstream.Load(); u != nil {
		_ = u.Close()
	}
	return c.c.Close()
}

// closeIdle closes the connection if it is between two requests. A new one may have its first request under way, and
// another router, which cannot always ask again, its next one.
func (c *conn) closeIdle() {
	if time.Since(time.Unix(0, c.since.Load())) < patience {
		return
	}
	if c.state.CompareAndSwap(connIdle, connClosed) {
		_ = c.c.Close()
	}
}

// next serves one request and says whether another may follow.
func (c *conn) next() bool {
	if c.n == 0 && !c.await() {
		return false
	}
	if !c.state.CompareAndSwap(connIdle, connBusy) {
		return false
	}
	if !c.readHead() || !c.exchange() {
		return false
	}
	if c.n == 0 {
		c.b.free()
		c.b = nil
	}
	if c.mesh || c.ending() { // this answer did not say that it is the last
		c.since.Store(time.Now().UnixNano())
	} else {
		c.since.Store(0)
	}
	return c.state.CompareAndSwap(connBusy, connIdle)
}

// await waits for the first bytes of a request, without a buffer.
func (c *conn) await() bool {
	now := time.Now()
	if c.idleUntil.Sub(now) < c.r.cfg.IdleTimeout*7/8 { // set anew only now and then: it costs something
		c.idleUntil = now.Add(c.r.cfg.IdleTimeout)
		_ = c.c.SetReadDeadline(c.idleUntil)
	}
	if c.b != nil {
		c.b.free()
		c.b = nil
	}
	var err error
	if c.tcp != nil {
		err = c.firstRaw()
	} else {
		err = c.firstTLS()
	}
	return err == nil
}

// firstRaw waits until the socket has something and only then takes a buffer for it.
func (c *conn) firstRaw() error {
	rc, err := c.tcp.SyscallConn()
	if err != nil {
		return err
	}
	var n int
	var readErr error
	err = rc.Read(func(fd uintptr) bool {
		c.borrow()
		n, readErr = syscall.Read(int(fd), c.b.in)
		if readErr == syscall.EAGAIN || readErr == syscall.EINTR {
			c.b.free()
			c.b = nil
			return false
		}
		return true
	})
	if err = errors.Join(err, readErr); err != nil {
		return err
	}
	if n <= 0 {
		return io.EOF
	}
	c.n = n
	return nil
}

// firstTLS waits for one byte; the rest of its record is in the TLS layer's own buffer then.
func (c *conn) firstTLS() error {
	var one [1]byte
	if _, err := io.ReadFull(c.c, one[:]); err != nil {
		return err
	}
	c.borrow()
	c.b.in[0], c.n = one[0], 1
	k, err := c.c.Read(c.b.in[1:])
	c.n += k
	return err
}

// readHead parses the request's head, reading the rest of it. It answers for what is wrong with it.
func (c *conn) readHead() bool {
	for slow := false; ; slow = true {
		out, err := c.parse(c.b.out[:0], &c.req)
		if err == nil {
			c.b.out = out
			if slow {
				c.idleUntil = time.Time{}
			}
			return true
		}
		if !errors.Is(err, http1.ErrMore) {
			return c.badHead(err)
		}
		if !slow {
			_ = c.c.SetReadDeadline(time.Now().Add(c.r.cfg.HeaderTimeout))
		}
		if err := c.moreHead(); err != nil {
			return c.cutHead(err)
		}
	}
}

// parse reads the head at the start of b.in and appends what of it travels on. Another router's may be a little longer,
// by what the first one adds.
func (c *conn) parse(out []byte, q *http1.Request) ([]byte, error) {
	if c.mesh {
		return http1.AppendRelayed(out, c.b.in[:c.n], c.r.cfg.MaxHead+4<<10, q)
	}
	return http1.AppendRequest(out, c.b.in[:c.n], c.r.cfg.MaxHead, q)
}

// moreHead reads on until the head could be complete: to parse it again for each byte that trickles in would be dear.
func (c *conn) moreHead() error {
	for {
		if c.n == len(c.b.in) {
			bigger := make([]byte, c.r.cfg.MaxHead+bufferSize)
			copy(bigger, c.b.in)
			c.b.in = bigger
		}
		k, err := c.c.Read(c.b.in[c.n:])
		from := max(0, c.n-3)
		c.n += k
		if err != nil || c.n >= c.r.cfg.MaxHead || endsHead(c.b.in[from:c.n]) {
			return err
		}
	}
}

func endsHead(b []byte) bool {
	for i := 0; i+1 < len(b); i++ {
		if b[i] == '\n' && (b[i+1] == '\n' || b[i+1] == '\r' && i+2 < len(b) && b[i+2] == '\n') {
			return true
		}
	}
	return false
}

func (c *conn) badHead(err error) bool {
	if !c.mesh && errors.Is(err, http1.ErrVersion) && bytes.HasPrefix(c.b.in[:c.n], h2Preface) {
		_ = c.c.SetDeadline(time.Time{})
		c.gone = c.r.webFor(c.entrance).in.give(&edgeConn{Conn: c.c, entrance: c.entrance, first: bytes.Clone(c.b.in[:c.n])})
		return false
	}
	status := http.StatusBadRequest
	switch {
	case errors.Is(err, http1.ErrTooLarge):
		status = http.StatusRequestHeaderFieldsTooLarge
	case errors.Is(err, http1.ErrVersion):
		status = http.StatusHTTPVersionNotSupported
	case errors.Is(err, http1.ErrCoding):
		status = http.StatusNotImplemented
	}
	c.req = http1.Request{Minor: 1, Close: true, Method: []byte("GET")}
	c.identify()
	c.r.lost.answered(status)
	return c.page(&refusal{status: status, reason: err.Error()})
}

// cutHead is for heads that do not come to an end.
func (c *conn) cutHead(err error) bool {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.req = http1.Request{Minor: 1, Close: true, Method: []byte("GET")}
		c.identify()
		c.r.lost.answered(http.StatusRequestTimeout)
		return c.page(&refusal{status: http.StatusRequestTimeout, reason: "the request's head did not come in time"})
	}
	return false
}

// watch looks whether the client is still there while its request waits.
type watch struct {
	ctx      context.Context
	cancel   context.CancelFunc
	done     chan struct{}            // closed when the reader is gone; nil if there is none
	upstream atomic.Pointer[upstream] // closed when the client goes
}

// hold implements client: it begins to watch, and returns a context that ends when the client goes away.
func (c *conn) hold() context.Context {
	w := &c.watch
	if w.ctx == nil {
		w.ctx, w.cancel = context.WithCancel(c.r.life)
		c.listenFor()
	}
	return w.ctx
}

// listenFor reads what the client sends meanwhile, as far as there is room: it belongs to the body or the next request.
func (c *conn) listenFor() {
	w := &c.watch
	if c.n >= len(c.b.in) {
		return
	}
	_ = c.c.SetReadDeadline(time.Time{})
	done := make(chan struct{})
	w.done = done
	cancel := w.cancel
	c.r.goes.Go(func() {
		defer close(done)
		for c.n < len(c.b.in) {
			k, err := c.c.Read(c.b.in[c.n:])
			c.n += k
			if err != nil {
				if !errors.Is(err, os.ErrDeadlineExceeded) {
					cancel()
					c.hangUp()
				}
				return
			}
		}
	})
}

// hangUp ends what is under way with the machine.
func (c *conn) hangUp() {
	if u := c.watch.upstream.Load(); u != nil {
		_ = u.Close()
	}
}

// unhold ends the watch; what it has read is in c.b.in.
func (c *conn) unhold() {
	w := &c.watch
	if w.ctx == nil {
		return
	}
	c.stopReader(w.done)
	w.cancel()
	w.ctx, w.cancel, w.done = nil, nil, nil
}

// stopReader interrupts the goroutine that reads from the client, and waits for it.
func (c *conn) stopReader(done <-chan struct{}) {
	if done == nil {
		return
	}
	_ = c.c.SetReadDeadline(time.Unix(1, 0))
	<-done
	_ = c.c.SetReadDeadline(time.Time{})
	c.idleUntil = time.Time{}
}
