package router

import (
	"bytes"
	"cmp"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/perigee-run/perigee/router/http1"
)

var challengePath = []byte("/.well-known/acme-challenge/")

// exchange serves the request whose head was just read, and says whether the connection may be used again.
func (c *conn) exchange() bool {
	if c.mesh {
		return c.relay()
	}
	q := &c.req
	c.ask = ask{entrance: c.entrance, secure: c.secure, force: q.Force, prefer: q.Prefer, near: q.PreferRegion, cookie: q.Cookie, host: normalHost(c.host[:0], q.Host)}
	c.identify()
	if string(q.Method) == "CONNECT" {
		q.Close = true
		return c.page(&refusal{status: http.StatusMethodNotAllowed, reason: "this is not a forward proxy"})
	}
	if !c.secure && c.r.cfg.Certificates != nil && bytes.HasPrefix(q.Target, challengePath) && c.challenge() {
		return c.skip(q.Len) && !q.Close
	}
	start := time.Time{}
	if c.debug {
		start = time.Now()
	}
	x := exchange{conn: c, keep: keeping{of: &c.r.keepable}, head: string(q.Method) == "HEAD"}
	again := x.run()
	x.keep.release()
	c.unhold()
	x.count()
	if c.debug {
		c.log(&x, start)
	}
	return again
}

// skip forgets the first n bytes of the input.
func (c *conn) skip(n int) bool {
	c.n = copy(c.b.in, c.b.in[n:c.n])
	return true
}

// exchange is one request and its answer.
type exchange struct {
	*conn
	slot   slot
	up     *upstream
	status int
	in     int64 // body bytes, both as sent on the wire
	out    int64

	consumed int          // bytes of b.in that were this request's
	complete bool         // all of the request's body is in b.out
	chunks   http1.Chunks // of the request's body
	sender   *sender
	bodyErr  error  // why the body did not go out whole
	cut      bool   // the client was at fault for that
	kept     []byte // what of the body was read after b.in, as sent on, for as long as it can be sent again
	lost     bool   // some of the body is in neither b.in nor kept
	keep     keeping
	gate     chan struct{}
	accepted atomic.Bool // another router has said that the request has its place
	replays  int
	cookie   string // to be set, of a sticky service
	notes    []byte // header lines about replays
	head     bool   // the method is HEAD
	late     bool   // the sender was ended before it was done
	overlong bool   // the machine took long, so that the client is watched
}

// run finds a machine and forwards; a request that a machine has certainly not begun on, or that may be repeated, is
// sent to another one if the connection fails.
func (x *exchange) run() bool {
	x.trip = trip{ask: &x.ask, client: x.conn, failed: x.trip.failed[:0]}
	x.trip.careful = !x.req.Idempotent() || x.req.HasBody()
	for {
		var rf *refusal
		x.slot, x.up, rf = x.r.reach(&x.trip)
		x.unhold()
		if rf != nil {
			if x.fallBack(rf) {
				continue
			}
			rf.code = cmp.Or(rf.code, codeSilent)
			return x.refuse(rf)
		}
		if x.mesh {
			if again, done := x.obey(); done {
				return again
			}
		}
		var again, retry bool
		if x.slot.peer == nil && x.slot.target.port.H2Backend {
			again, retry = x.throughH2()
		} else {
			again, retry = x.attempt()
		}
		x.slot.release()
		if !retry {
			return again
		}
	}
}

func (x *exchange) refuse(rf *refusal) bool {
	x.status = rf.status
	if rf.status == statusClientGone {
		return false
	}
	return x.page(rf)
}

// attempt sends the request over the connection at hand and passes the answer back.
func (x *exchange) attempt() (again, retry bool) {
	prepare := x.prepare
	if x.consumed > 0 {
		prepare = x.prepareAgain
	}
	if err := prepare(); err != nil {
		x.dropUp()
		return x.refuse(&refusal{status: http.StatusBadRequest, reason: err.Error()}), false
	}
	x.watch.upstream.Store(x.up)
	if p := x.slot.peer; p != nil && x.req.Idempotent() && !x.lost {
		p.await(x.up)
		defer p.unawait(x.up)
	}
	_, err := x.up.Write(x.b.out)
	if err == nil && !x.complete {
		x.sender = x.startSender()
	}
	// A machine may answer and close before it has read everything, so that the answer is looked for in any case.
	again, retry = x.answer(err)
	x.watch.upstream.Store(nil)
	return again, retry
}

// prepareAgain does what prepare has done once before, for another try.
func (x *exchange) prepareAgain() error {
	var q http1.Request
	out, err := x.parse(x.b.out[:0], &q)
	if err != nil {
		return err
	}
	if err := x.absorb(); err != nil {
		return err
	}
	out = x.appendAbout(out)
	out = append(out, x.b.in[x.req.Len:x.consumed]...)
	x.b.out = append(out, x.kept...)
	return nil
}

// absorb moves what of the body has come meanwhile to what is kept of it.
func (x *exchange) absorb() error {
	if x.complete || x.n == x.consumed {
		return nil
	}
	more := x.b.in[x.consumed:x.n]
	if x.req.Chunked {
		_, n, done, err := x.chunks.Feed(nil, more, false)
		if err != nil {
			return err
		}
		more, x.complete = more[:n], done
	} else {
		left := x.req.ContentLength - x.in
		more = more[:min(int64(len(more)), left)]
		x.complete = int64(len(more)) == left
	}
	x.kept = append(x.kept, more...)
	x.in += int64(len(more))
	x.n = x.consumed + copy(x.b.in[x.consumed:], x.b.in[x.consumed+len(more):x.n])
	return nil
}

// prepare completes the head in b.out, and adds as much of the body as is here already.
func (x *exchange) prepare() error {
	q := &x.req
	out := x.appendAbout(x.b.out)
	body := x.b.in[q.Len:x.n]
	switch {
	case q.Chunked:
		_, n, done, err := x.chunks.Feed(nil, body, false)
		if err != nil {
			return err
		}
		body, x.complete = body[:n], done
	case int64(len(body)) >= max(q.ContentLength, 0):
		body, x.complete = body[:max(q.ContentLength, 0)], true
	}
	x.b.out = append(out, body...)
	x.consumed = q.Len + len(body)
	x.in = int64(len(body))
	return nil
}

// appendAbout appends what the machine is told about the client and the connection, and the blank line.
func (x *exchange) appendAbout(out []byte) []byte {
	q := &x.req
	switch {
	case x.mesh: // the other router has said it
	case len(q.ForwardedFor) > 0 && x.r.trusts(x.c):
		out = x.r.about(out, peerIP(x.c), q.ForwardedFor, x.port, x.secure)
	default:
		out = append(out, x.about...)
	}
	if !x.mesh {
		out = append(appendID(out, x.id), x.notes...)
	}
	if x.slot.peer != nil {
		out = x.slot.order(&x.ask, x.large()).append(out)
	}
	switch {
	case q.Upgrade != nil:
		out = append(append(append(out, "Connection: Upgrade\r\nUpgrade: "...), q.Upgrade...), "\r\n"...)
	case q.Trailers:
		out = append(out, "Connection: TE\r\nTE: trailers\r\n"...)
	}
	if q.Chunked {
		out = append(out, "Transfer-Encoding: chunked\r\n"...)
	}
	return append(out, "\r\n"...)
}

// large says that the body may be too much to be kept for another try. What came with the head is there in any case.
func (x *exchange) large() bool {
	q := &x.req
	return q.Chunked || q.ContentLength > int64(x.n-q.Len) && !x.keep.whole(q.ContentLength)
}

// sender passes a request's body on while the answer may come already.
type sender struct {
	done   chan struct{}
	err    error // set before done is closed, as the others
	client bool  // the client was at fault
	sent   int64
	all    bool   // the whole body was read
	extra  []byte // bytes after the body, of the next request
}

func (x *exchange) startSender() *sender {
	s := &sender{done: make(chan struct{})}
	left := x.req.ContentLength - x.in
	x.gate = make(chan struct{})
	x.accepted.Store(x.slot.peer == nil)
	if x.accepted.Load() {
		close(x.gate)
	}
	x.r.goes.Go(func() {
		defer close(s.done)
		if x.req.Chunked {
			x.sendChunks(s)
		} else {
			x.sendLength(s, left)
		}
		if s.client {
			x.hangUp()
		}
	})
	return s
}

const piece = 256 << 10 // must come within BodyTimeout

func (x *exchange) sendLength(s *sender, left int64) {
	whole := x.keep.whole(x.req.ContentLength) // can be sent again, if need be
	for left > 0 && s.err == nil {
		if !whole && !x.letGo(s) {
			return
		}
		_ = x.c.SetReadDeadline(time.Now().Add(x.r.cfg.BodyTimeout))
		var n int64
		var err error
		if whole {
			n, err = x.passKeeping(left)
		} else {
			n, err = passOn(x.up.Conn, x.c, min(left, piece))
		}
		left -= n
		s.sent += n
		if s.err = err; errors.Is(err, io.EOF) {
			s.client = true
		}
	}
}

var errNotTaken = errors.New("the request was not taken")

// letGo makes sure that the request has its place before any of its body is sent that is not kept: whoever refuses it now
// would be the end of it. It says whether to go on.
func (x *exchange) letGo(s *sender) bool {
	<-x.gate
	if !x.accepted.Load() {
		s.err = errNotTaken
		return false
	}
	x.lost, x.kept = true, nil
	x.keep.release()
	return true
}

// passKeeping is passOn for a body that is kept.
func (x *exchange) passKeeping(n int64) (int64, error) {
	buf := bigBuffers.Get().(*[64 << 10]byte)
	defer bigBuffers.Put(buf)
	k, err := x.c.Read(buf[:min(n, int64(len(buf)))])
	x.kept = append(x.kept, buf[:k]...)
	if k > 0 {
		if _, werr := x.up.Write(buf[:k]); werr != nil {
			return int64(k), werr
		}
	}
	if err != nil {
		return int64(k), io.EOF
	}
	return int64(k), nil
}

// passOn copies n bytes, inside the kernel if both ends are plain. io.EOF says that src, and not dst, was at fault.
func passOn(dst, src net.Conn, n int64) (int64, error) {
	if _, ok := dst.(*net.TCPConn); ok {
		if _, ok := src.(*net.TCPConn); ok {
			k, err := io.CopyN(dst, src, n)
			var op *net.OpError
			if errors.As(err, &op) && (op.Op == "read" || errors.Is(err, os.ErrDeadlineExceeded)) {
				err = io.EOF
			}
			return k, err
		}
	}
	buf := bigBuffers.Get().(*[64 << 10]byte)
	defer bigBuffers.Put(buf)
	k, err := src.Read(buf[:min(n, int64(len(buf)))])
	if k > 0 {
		if _, werr := dst.Write(buf[:k]); werr != nil {
			return int64(k), werr
		}
	}
	if err != nil {
		return int64(k), io.EOF
	}
	return int64(k), nil
}

var bigBuffers = sync.Pool{New: func() any { return new([64 << 10]byte) }}

func (x *exchange) sendChunks(s *sender) {
	buf := bigBuffers.Get().(*[64 << 10]byte)
	defer bigBuffers.Put(buf)
	for {
		if !x.lost && !x.keep.more(len(buf)) && !x.letGo(s) {
			return
		}
		_ = x.c.SetReadDeadline(time.Now().Add(x.r.cfg.BodyTimeout))
		k, err := x.c.Read(buf[:])
		if k == 0 && err != nil {
			s.err, s.client = io.EOF, true
			return
		}
		_, n, done, err := x.chunks.Feed(nil, buf[:k], false)
		if err != nil {
			s.err, s.client = err, true
			return
		}
		s.sent += int64(n)
		if !x.lost {
			x.keep.less(len(buf) - n)
			x.kept = append(x.kept, buf[:n]...)
		}
		if done {
			s.extra = append(s.extra, buf[n:k]...)
			s.all = true
		}
		if _, s.err = x.up.Write(buf[:n]); s.err != nil {
			return
		}
		if done {
			return
		}
	}
}

// bodySent says whether the whole body went out. An answer often crosses with the end of the body, so that the sender is
// given a moment.
func (x *exchange) bodySent() bool {
	if x.sender == nil {
		return x.complete
	}
	timer := time.NewTimer(2 * time.Millisecond)
	defer timer.Stop()
	select {
	case <-x.sender.done:
		x.endSender()
	case <-timer.C:
	}
	return x.complete
}

// endSender stops the sender if it is not done, and takes over what it has read of the next requests.
func (x *exchange) endSender() {
	s := x.sender
	if s == nil {
		return
	}
	late := !s.finished()
	if late { // it may wait for the client, for the machine or for another router
		_ = x.up.SetWriteDeadline(time.Unix(1, 0))
		x.openGate(false)
	}
	x.stopReader(s.done)
	x.sender = nil
	x.in += s.sent
	x.complete = s.err == nil && !late || s.all || !x.req.Chunked && x.in == x.req.ContentLength
	x.late = late
	if room := len(x.b.in) - x.n; room < len(s.extra) {
		x.b.in = append(x.b.in[:x.n:x.n], make([]byte, len(s.extra)+bufferSize)...)
	}
	x.n += copy(x.b.in[x.n:], s.extra)
	x.bodyErr, x.cut = s.err, s.client && !late
}

// openGate lets the sender pass, if the request has its place, or ends it.
func (x *exchange) openGate(accepted bool) {
	select {
	case <-x.gate:
	default:
		x.accepted.Store(accepted)
		close(x.gate)
	}
}

func (s *sender) finished() bool {
	if s == nil {
		return true
	}
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// dropUp closes the connection to the machine.
func (x *exchange) dropUp() {
	_ = x.up.Close()
}

func (x *exchange) count() {
	stats := x.r.lost
	if tg := x.slot.target; tg != nil {
		stats = tg.app.stats
	}
	stats.answered(x.status)
	if x.in > 0 {
		stats.in.Add(uint64(x.in))
	}
	if x.out > 0 {
		stats.out.Add(uint64(x.out))
	}
}

func (c *conn) log(x *exchange, start time.Time) {
	machine, app := "", ""
	if x.slot.seat != nil {
		machine = x.slot.seat.door.id
	}
	if x.slot.target != nil {
		app = x.slot.target.app.name
	}
	c.r.log.Debug("request", "app", app, "machine", machine, "method", string(c.req.Method), "host", string(c.ask.host),
		"status", x.status, "took", time.Since(start), "in", x.in, "out", x.out, "id", string(c.id))
}
