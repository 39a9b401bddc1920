package router

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/textproto"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/perigee-run/perigee/router/http1"
)

// HTTP/2 is spoken by net/http's server; this file bridges its requests to the same machines, places and connections
// that HTTP/1 uses.

var h2Preface = []byte("PRI * HTTP/2.0\r\n")

// edgeConn is an accepted connection that remembers how it came in, and bytes that were read from it already.
type edgeConn struct {
	net.Conn
	entrance
	first []byte
}

func (c *edgeConn) Read(b []byte) (int, error) {
	if len(c.first) > 0 {
		n := copy(b, c.first)
		c.first = c.first[n:]
		return n, nil
	}
	return c.Conn.Read(b)
}

// CloseWrite lets a tunnel end one direction.
func (c *edgeConn) CloseWrite() error {
	closeWrite(c.Conn)
	return nil
}

// handover is the listener of the HTTP/2 server: it accepts what others have accepted before.
type handover struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (h *handover) give(c net.Conn) bool {
	select {
	case h.conns <- c:
		return true
	case <-h.done:
		return false
	}
}

func (h *handover) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

func (h *handover) Close() error {
	h.once.Do(func() { close(h.done) })
	return nil
}

func (h *handover) Addr() net.Addr { return &net.TCPAddr{} }

// webConn is what requests of one HTTP/2 connection have in common.
type webConn struct {
	entrance
	secure bool
	ip     string
	about  []byte
}

type webKey struct{}

func (r *Router) newWeb() *webServer {
	protos := new(http.Protocols)
	protos.SetHTTP2(true)
	protos.SetUnencryptedHTTP2(true)
	return &webServer{in: &handover{conns: make(chan net.Conn), done: make(chan struct{})}, srv: &http.Server{
		Handler: http.HandlerFunc(r.serveWebRequest), Protocols: protos,
		IdleTimeout: r.cfg.IdleTimeout, ReadHeaderTimeout: r.cfg.HeaderTimeout, MaxHeaderBytes: r.cfg.MaxHead,
		HTTP2:       &http.HTTP2Config{MaxConcurrentStreams: 250, SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second},
		ErrorLog:    log.New(io.Discard, "", 0), // it would log what clients do wrong
		ConnContext: r.webContext,
		ConnState:   r.webState,
	}}
}

func (r *Router) webContext(ctx context.Context, c net.Conn) context.Context {
	t, secure := c.(*tls.Conn)
	if secure {
		c = t.NetConn()
	}
	w := &webConn{secure: secure, ip: peerIP(c)}
	if e, ok := c.(*edgeConn); ok {
		w.entrance = e.entrance
	}
	w.about = bytes.Replace(r.about(nil, w.ip, nil, w.port, secure), []byte("Via: 1.1"), []byte("Via: 2"), 1)
	return context.WithValue(ctx, webKey{}, w)
}

// webState counts the server's connections among the router's goroutines.
func (r *Router) webState(_ net.Conn, s http.ConnState) {
	switch s {
	case http.StateNew:
		r.goes.Add(1)
	case http.StateClosed, http.StateHijacked:
		r.goes.Done()
	}
}

// webFor is the server for connections that came in so.
func (r *Router) webFor(e entrance) *webServer {
	if e.inside {
		return r.inside
	}
	return r.web.Load()
}

func (r *Router) serveWeb(w *webServer) {
	if err := w.srv.Serve(w.in); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
		r.log.Error("http/2 server ended", "err", err)
	}
}

// web is one request that came over HTTP/2, or that goes out over it.
type web struct {
	r      *Router
	w      http.ResponseWriter
	req    *http.Request
	conn   *webConn
	id     []byte
	ask    ask
	trip   trip
	slot   slot
	up     *upstream
	status int
	in     atomic.Int64
	out    int64

	load    *upload
	keep    keeping
	replays int
	notes   []byte // header lines about replays
}

func (r *Router) serveWebRequest(w http.ResponseWriter, req *http.Request) {
	r.goes.Add(1)
	defer r.goes.Done()
	x := &web{r: r, w: w, req: req, keep: keeping{of: &r.keepable}}
	x.conn, _ = req.Context().Value(webKey{}).(*webConn)
	x.ask = ask{
		entrance: x.conn.entrance, secure: x.conn.secure, host: normalHost(nil, []byte(req.Host)),
		force: wish(req, "Force-Instance-Id"), prefer: wish(req, "Prefer-Instance-Id"), near: wish(req, "Prefer-Region"),
		cookie: []byte(strings.Join(req.Header["Cookie"], "; ")),
	}
	if id := []byte(req.Header.Get("X-Request-Id")); goodID(id) {
		x.id = id
	} else {
		x.id = newID(nil)
	}
	defer x.count(time.Now()) // also when a stream is cut off, which is a panic
	x.run()
}

// wish is a client's wish where its request should go.
func wish(req *http.Request, name string) []byte {
	if v := req.Header.Get("Fly-" + name); v != "" {
		return []byte(v)
	}
	return []byte(req.Header.Get("Perigee-" + name))
}

func (x *web) count(start time.Time) {
	stats := x.r.lost
	if tg := x.slot.target; tg != nil {
		stats = tg.app.stats
	}
	stats.answered(x.status)
	stats.in.Add(uint64(x.in.Load()))
	stats.out.Add(uint64(x.out))
	x.r.log.Debug("request", "proto", "h2", "method", x.req.Method, "host", x.req.Host, "status", x.status, "took", time.Since(start), "id", string(x.id))
}

func (x *web) idempotent() bool {
	q := http1.Request{Method: []byte(x.req.Method)}
	return q.Idempotent() && !x.hasBody()
}

// hasBody says that a body follows; the server gives a Body in any case.
func (x *web) hasBody() bool { return x.req.ContentLength != 0 }

func (x *web) run() {
	if strings.ContainsAny(x.req.RequestURI, " \t") || x.req.Method == http.MethodConnect {
		x.refuse(refuse(http.StatusBadRequest, "malformed request target"))
		return
	}
	x.trip = trip{ask: &x.ask, client: patient{x.req.Context()}, careful: !x.idempotent()}
	defer x.endLoad()
	for {
		var rf *refusal
		x.slot, x.up, rf = x.r.reach(&x.trip)
		if rf != nil {
			if note := x.trip.fallBack(rf); note != "" {
				x.notes = fmt.Appendf(x.notes, "Fly-Replay-Failed: %s\r\n", note)
				continue
			}
			x.refuse(rf)
			return
		}
		if !x.attempt() {
			return
		}
	}
}

func (x *web) endLoad() {
	if x.load != nil {
		x.load.close()
	}
	x.keep.release()
}

// attempt forwards to the machine at hand, and says whether the request may be sent again.
func (x *web) attempt() (retry bool) {
	defer x.slot.release()
	if x.slot.peer == nil && x.slot.target.port.H2Backend {
		return x.overH2()
	}
	return x.overH1()
}

// refuse answers for the router itself.
func (x *web) refuse(rf *refusal) {
	if x.status = rf.status; rf.status == statusClientGone {
		panic(http.ErrAbortHandler)
	}
	h := x.w.Header()
	h.Set("Fly-Request-Id", string(x.id))
	if rf.status == http.StatusMovedPermanently {
		h.Set("Location", x.r.httpsURL(x.req.Host, x.req.RequestURI))
		x.w.WriteHeader(rf.status)
		return
	}
	kind, body := pageBody(rf, x.req.Header.Get("Accept"), x.id)
	h.Set("Content-Type", kind)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("Cache-Control", "no-store")
	if rf.retry > 0 {
		h.Set("Retry-After", strconv.Itoa(rf.retry))
	}
	x.w.WriteHeader(rf.status)
	_, _ = x.w.Write(body)
}

// lines are the request's header lines as a machine gets them.
func (x *web) lines(out []byte) []byte {
	for name, values := range x.req.Header {
		if hopByHop(name) || http1.Private([]byte(name)) {
			continue
		}
		for _, v := range values {
			out = append(append(append(append(out, name...), ": "...), v...), "\r\n"...)
		}
	}
	if via := x.req.Header.Get("X-Forwarded-For"); via != "" && x.r.trustsIP(x.conn.ip) {
		out = x.r.about(out, x.conn.ip, []byte(via), x.conn.port, x.conn.secure)
	} else {
		out = append(out, x.conn.about...)
	}
	return append(appendID(out, x.id), x.notes...)
}

func hopByHop(name string) bool {
	switch name {
	case "Connection", "Te", "Upgrade", "Transfer-Encoding", "Keep-Alive", "Content-Length", "Host", "Trailer", "Expect":
		return true
	}
	return false
}

// overH1 sends the request to the machine, or to the router of its node, as HTTP/1.1. It says whether it may be sent again.
func (x *web) overH1() (retry bool) {
	b := spareBuffers.Get().(*buffers)
	defer b.free()
	stop := context.AfterFunc(x.req.Context(), func() { _ = x.up.Close() })
	if p := x.slot.peer; p != nil && x.idempotent() {
		p.await(x.up)
		defer p.unawait(x.up)
	}
	_, err := x.up.Write(x.head(b.out[:0]))
	if x.hasBody() && err == nil {
		x.send()
	}
	_ = x.up.SetReadDeadline(x.deadline())
	a := h1Answer{web: x, b: b}
	var rf *refusal
	if err = a.read(); err == nil {
		if rf, retry = a.accept(); rf == nil && !retry {
			err = a.deliver()
		}
	}
	whole, again := x.sent(err)
	alive := stop()
	if err == nil && whole && alive && a.clean && !a.res.Close {
		x.r.keep(&x.slot, x.up, time.Duration(a.res.KeepAlive)*time.Second)
	} else {
		_ = x.up.Close()
	}
	switch {
	case err == nil && retry && !again:
		rf = refuse(http.StatusBadGateway, "the request cannot be sent again: "+notKept, maxReplayBody)
		retry = false
	case err == nil:
	case !alive:
		rf = &refusal{status: statusClientGone}
	case a.begun: // too late for a page: the stream is reset
		panic(http.ErrAbortHandler)
	case x.load != nil && x.load.silent():
		rf = refuse(http.StatusRequestTimeout, "the client sent nothing more of its body for %s", x.r.cfg.BodyTimeout)
	case !a.got && again && x.repeatable() && x.mayRepeat(err):
		x.trip.fresh = true
		return true
	default:
		rf = x.badAnswer(err)
	}
	if rf != nil {
		x.refuse(rf)
	}
	return retry
}

// repeatable says that the method, and what is there of the body, let the request be sent again.
func (x *web) repeatable() bool {
	q := http1.Request{Method: []byte(x.req.Method)}
	return q.Idempotent() && (x.slot.peer != nil || !x.hasBody())
}

func (x *web) mayRepeat(err error) bool {
	if x.slot.peer == nil {
		return mayRepeat(x.up, err)
	}
	return !errors.Is(err, os.ErrDeadlineExceeded) && x.trip.again(&x.slot, x.up)
}

// send begins to send the body.
func (x *web) send() {
	if x.load == nil {
		x.load = x.newUpload()
	}
	x.load.sendTo(x.up, x.slot.peer == nil)
}

// sent ends the sending of the body. It says whether all of it went out, and whether it could be sent again. An answer
// often crosses with the end of the body, so that it is given a moment.
func (x *web) sent(err error) (whole, again bool) {
	if x.load == nil {
		return err == nil, true
	}
	return x.load.stop(2 * time.Millisecond)
}

func (x *web) badAnswer(err error) *refusal {
	e := exchange{conn: &conn{}, slot: x.slot}
	return e.badAnswer(err, nil)
}

func (x *web) deadline() time.Time {
	if idle := x.slot.target.port.IdleTimeout; idle > 0 {
		return time.Now().Add(idle)
	}
	return time.Time{}
}

func (x *web) head(out []byte) []byte {
	out = append(append(append(out, x.req.Method...), ' '), x.req.RequestURI...)
	out = append(append(append(out, " HTTP/1.1\r\nHost: "...), x.req.Host...), "\r\n"...)
	out = x.lines(out)
	if x.slot.peer != nil {
		out = x.slot.order(&x.ask, x.req.ContentLength < 0 || !x.keep.whole(x.req.ContentLength)).append(out)
	}
	if strings.Contains(x.req.Header.Get("Te"), "trailers") {
		out = append(out, "Connection: TE\r\nTE: trailers\r\n"...)
	}
	switch {
	case x.req.ContentLength > 0:
		out = fmt.Appendf(out, "Content-Length: %d\r\n", x.req.ContentLength)
	case x.hasBody():
		out = append(out, "Transfer-Encoding: chunked\r\n"...)
	case x.req.Method == "POST" || x.req.Method == "PUT" || x.req.Method == "PATCH":
		out = append(out, "Content-Length: 0\r\n"...)
	}
	return append(out, "\r\n"...)
}

// h1Answer is a machine's HTTP/1.1 answer on its way into an HTTP/2 stream.
type h1Answer struct {
	*web
	b     *buffers
	res   http1.Response
	lines []byte // the final head's
	rest  []byte
	got   bool // the machine sent something
	begun bool // the client has got the head
	clean bool
}

// read reads up to the final head, and passes interim ones on.
func (a *h1Answer) read() error {
	n := 0
	for {
		out, err := http1.AppendResponse(a.b.out[:0], a.b.up[:n], a.r.cfg.MaxHead, &a.res)
		switch {
		case errors.Is(err, http1.ErrMore):
			if n == len(a.b.up) {
				a.b.up = append(a.b.up, make([]byte, a.r.cfg.MaxHead)...)
			}
			k, err := a.up.Read(a.b.up[n:])
			if k == 0 {
				return unexpected(err)
			}
			a.got = true
			n += k
		case err != nil:
			return err
		case a.res.Status == http.StatusSwitchingProtocols:
			return http1.BadError("a change of protocol that HTTP/2 does not have")
		case a.res.Status == http.StatusContinue && a.slot.peer != nil && a.res.Host != nil:
			if a.load != nil {
				a.load.accept()
			}
			n = copy(a.b.up, a.b.up[a.res.Len:n])
			a.got = false // nothing of the app yet
		case a.res.Status < 200:
			a.headers(out)
			if a.res.Status != http.StatusContinue {
				a.w.WriteHeader(a.res.Status)
			}
			clear(a.w.Header())
			n = copy(a.b.up, a.b.up[a.res.Len:n])
		default:
			a.lines = out
			a.rest = a.b.up[a.res.Len:n]
			return nil
		}
	}
}

// accept looks at a final head before any of it goes to the client, as exchange.accept does. It returns a refusal, or
// that there is to be another try, or neither: the answer is to be delivered.
func (a *h1Answer) accept() (rf *refusal, retry bool) {
	if a.slot.peer != nil {
		code, n, ok := parseReport(a.res.Host)
		if ok {
			a.slot.seat.heard(n)
		}
		if code != codeOK {
			return a.heed(code, ok)
		}
	}
	if a.res.Replay != nil || a.res.ReplayBody {
		return a.replay()
	}
	a.headers(a.lines)
	return nil, false
}

// heed takes another router's refusal.
func (a *h1Answer) heed(code string, ok bool) (rf *refusal, retry bool) {
	_ = a.up.SetReadDeadline(time.Now().Add(time.Second))
	text := readShort(a.up, a.rest, &a.res)
	a.clean = text != nil
	a.trip.fresh = false
	if !ok {
		return refuse(http.StatusBadGateway, "node %q answered what no router of ours says", a.slot.peer.node), false
	}
	rf = &refusal{status: a.res.Status, reason: string(text), code: code}
	if a.trip.final(&a.slot, rf) {
		return rf, false
	}
	return nil, true
}

// replay does what the app asks for instead of an answer.
func (a *h1Answer) replay() (rf *refusal, retry bool) {
	body := []byte{}
	if !a.res.Bodyless(a.req.Method == http.MethodHead) {
		_ = a.up.SetReadDeadline(time.Now().Add(5 * time.Second))
		body = readReplayBody(a.up, a.rest, &a.res)
	}
	a.clean = body != nil
	var rp *replay
	var err error
	switch {
	case !a.res.ReplayBody:
		rp, err = parseReplay(string(a.res.Replay))
	case body == nil:
		err = fmt.Errorf("its body is not whole, or longer than %d bytes", maxReplayJSON)
	default:
		rp, err = parseReplayJSON(body)
	}
	return a.takeReplay(rp, err)
}

// takeReplay makes the next try one of the replay.
func (x *web) takeReplay(rp *replay, err error) (rf *refusal, retry bool) {
	if err == nil {
		err = x.r.mayReplay(x.slot.target, rp, x.replays)
	}
	if err != nil {
		return refuse(http.StatusBadGateway, "machine %q asked to replay the request: %v", x.slot.seat.door.id, err), false
	}
	x.replays++
	x.trip.replay(rp, &x.slot)
	x.notes = fmt.Appendf(x.notes[:0], "Fly-Replay-Src: %s\r\n", rp.source(x.slot.regionOf(), time.Now()))
	return nil, true
}

// sign adds what this router has to say of an answer.
func (x *web) sign(via string) {
	h := x.w.Header()
	h.Set("Fly-Request-Id", string(x.id))
	h.Add("Via", via)
	if x.slot.target.tokens != nil {
		if c := x.slot.newCookie(&x.ask); c != "" {
			h.Add("Set-Cookie", c)
		}
	}
}

func (a *h1Answer) headers(out []byte) {
	h := a.w.Header()
	http1.Fields(out[bytes.IndexByte(out, '\n')+1:], func(name, value []byte) {
		h.Add(textproto.CanonicalMIMEHeaderKey(string(name)), string(value))
	})
}

func (a *h1Answer) deliver() error {
	a.status = a.res.Status
	h := a.w.Header()
	a.sign("1.1 perigee")
	if _, ok := h["Date"]; !ok {
		h["Date"] = nil // not ours to add
	}
	if _, ok := h["Content-Type"]; !ok {
		h["Content-Type"] = nil // nor to guess
	}
	a.w.WriteHeader(a.status)
	a.begun = true
	if len(a.rest) == 0 && a.res.ContentLength != 0 && !a.res.Bodyless(a.req.Method == http.MethodHead) {
		_ = http.NewResponseController(a.w).Flush() // more may be long in coming
	}
	switch {
	case a.res.Bodyless(a.req.Method == http.MethodHead):
		a.clean = len(a.rest) == 0
		return nil
	case a.res.Chunked:
		return a.chunked()
	case a.res.ContentLength >= 0:
		return a.byLength(a.res.ContentLength)
	}
	return a.toTheEnd()
}

func (a *h1Answer) next() error {
	if idle := a.slot.target.port.IdleTimeout; idle > 0 {
		_ = a.up.SetReadDeadline(time.Now().Add(idle))
	}
	k, err := a.up.Read(a.b.up)
	a.rest = a.b.up[:k]
	if k == 0 {
		return err
	}
	return nil
}

// write passes bytes to the client. live says that more may be long in coming, so that these must not wait for it.
func (a *h1Answer) write(b []byte, live bool) error {
	if len(b) == 0 {
		return nil
	}
	a.out += int64(len(b))
	if _, err := a.w.Write(b); err != nil || !live {
		return err
	}
	return http.NewResponseController(a.w).Flush()
}

func (a *h1Answer) byLength(left int64) error {
	for {
		b := a.rest[:min(int64(len(a.rest)), left)]
		left -= int64(len(b))
		a.clean = len(b) == len(a.rest)
		if err := a.write(b, left > 0); err != nil || left == 0 {
			return err
		}
		if err := a.next(); err != nil {
			return unexpected(err)
		}
	}
}

func (a *h1Answer) chunked() error {
	var c http1.Chunks
	for {
		plain, n, done, err := c.Feed(a.b.out[:0], a.rest, true)
		if err != nil {
			return err
		}
		if err := a.write(plain, !done); err != nil {
			return err
		}
		if done {
			a.clean = n == len(a.rest)
			http1.Fields(c.Trailer, func(name, value []byte) { a.w.Header().Add(http.TrailerPrefix+string(name), string(value)) })
			return nil
		}
		if err := a.next(); err != nil {
			return unexpected(err)
		}
	}
}

func (a *h1Answer) toTheEnd() error {
	for {
		if err := a.write(a.rest, true); err != nil {
			return err
		}
		if err := a.next(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}
