package router

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/perigee-run/perigee/router/http1"
)

// lookAfter is how long a machine may take before we look whether the client still waits: most answers are quicker,
// and pay nothing for it.
const lookAfter = 250 * time.Millisecond

// answer passes the machine's answer to the client. retry says that the request may be sent again; then the client
// has got nothing yet.
func (x *exchange) answer(sendErr error) (again, retry bool) {
	_ = x.up.SetReadDeadline(time.Now().Add(lookAfter))
	rest, got, err := x.readAnswer()
	if err == nil {
		return x.accept(rest)
	}
	x.endSender()
	lost := x.watch.ctx != nil && x.watch.ctx.Err() != nil
	x.unhold()
	x.dropUp()
	switch {
	case lost, x.cut && errors.Is(x.bodyErr, io.EOF):
		return x.refuse(&refusal{status: statusClientGone}), false
	case x.cut:
		return x.refuse(&refusal{status: http.StatusBadRequest, reason: x.bodyErr.Error()}), false
	case !got && x.req.Idempotent() && x.mayRepeat(err):
		x.trip.fresh = true
		return false, true
	}
	return x.refuse(x.badAnswer(err, sendErr)), false
}

// accept looks at a final head before any of it goes to the client: another router may have refused the request, and the
// app may want it to be replayed elsewhere.
func (x *exchange) accept(rest []byte) (again, retry bool) {
	if x.slot.peer != nil {
		if refused, again, retry := x.heed(rest); refused {
			return again, retry
		}
	}
	if !x.mesh && (x.res.Replay != nil || x.res.ReplayBody) {
		return x.replay(rest)
	}
	if x.slot.target.tokens != nil {
		x.cookie = x.slot.newCookie(&x.ask)
	}
	return x.deliver(rest), false
}

// mayRepeat is the same for requests whose body is whole; for one to another node it also asks whether what is there of
// the body can be sent again, and keeps an outage from multiplying the load.
func (x *exchange) mayRepeat(err error) bool {
	if x.slot.peer == nil {
		return x.complete && !x.lost && mayRepeat(x.up, err)
	}
	if x.lost || errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	return x.trip.again(&x.slot, x.up)
}

// mayRepeat says whether a request that can be sent again should be. A kept connection may have been closed before the
// request came, so it is sent once more, on a new one. A machine that dies under a new connection probably died of the
// request, which must not be the end of others too; and one that is just slow is not asked twice.
func mayRepeat(u *upstream, err error) bool {
	return u.used && !errors.Is(err, os.ErrDeadlineExceeded)
}

// badAnswer says why there is no answer to pass on.
func (x *exchange) badAnswer(err, sendErr error) *refusal {
	id := x.slot.seat.door.id
	if p := x.slot.peer; p != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return refuse(http.StatusBadGateway, "the connection to node %q broke before machine %q answered", p.node, id)
	}
	var bad http1.BadError
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return refuse(http.StatusGatewayTimeout, "machine %q did not answer in time", id)
	case errors.As(err, &bad), errors.Is(err, http1.ErrTooLarge), errors.Is(err, http1.ErrCoding):
		return refuse(http.StatusBadGateway, "machine %q answered what is not HTTP/1.1: %v", id, err)
	case sendErr != nil:
		return refuse(http.StatusBadGateway, "machine %q closed the connection while the request was sent", id)
	}
	return refuse(http.StatusBadGateway, "machine %q closed the connection before it answered", id)
}

// readAnswer reads up to the final head, which is in b.out then, without its end; interim answers (1xx) go to the
// client at once. rest is what follows the head; got says that the machine sent anything at all.
func (x *exchange) readAnswer() (rest []byte, got bool, err error) {
	n, parsed := 0, 0
	for {
		k, err := x.readUp(x.b.up[n:])
		if k == 0 {
			return nil, n > 0, unexpected(err)
		}
		for n += k; ; {
			out, err := http1.AppendResponse(x.b.out[:0], x.b.up[parsed:n], x.r.cfg.MaxHead, &x.res)
			if errors.Is(err, http1.ErrMore) {
				break
			}
			if err != nil {
				return nil, true, err
			}
			x.b.out, parsed = out, parsed+x.res.Len
			if x.slot.peer != nil && x.res.Status == http.StatusContinue && x.res.Host != nil {
				if x.sender != nil {
					x.openGate(true)
				}
				continue
			}
			if x.res.Status >= 200 || x.res.Status == http.StatusSwitchingProtocols {
				return x.b.up[parsed:n], true, nil
			}
			if x.req.Minor == 1 {
				if _, err := x.c.Write(append(out, "\r\n"...)); err != nil {
					return nil, true, err
				}
			}
		}
		n, parsed = x.roomForHead(n, parsed), 0
	}
}

// roomForHead moves what is not parsed yet to the front, and makes the buffer larger if it is full of it.
func (x *exchange) roomForHead(n, parsed int) int {
	n = copy(x.b.up, x.b.up[parsed:n])
	if n == len(x.b.up) {
		x.b.up = append(x.b.up, make([]byte, x.r.cfg.MaxHead)...)
	}
	return n
}

func unexpected(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// readUp reads from the machine, however long it takes.
func (x *exchange) readUp(buf []byte) (int, error) {
	for {
		k, err := x.up.Read(buf)
		if k > 0 || !x.overdue(err) {
			return k, err
		}
	}
}

// overdue takes care of a read from the machine that ran into its deadline; false says that err is final. From now on
// the client is watched, unless its body is being sent on: then the sender sees it leave.
func (x *exchange) overdue(err error) bool {
	idle := x.slot.target.port.IdleTimeout
	switch {
	case !errors.Is(err, os.ErrDeadlineExceeded):
		return false
	case !x.sender.finished():
		_ = x.up.SetReadDeadline(time.Now().Add(lookAfter))
		return true
	case x.overlong && idle > 0:
		return false
	}
	x.endSender()
	if !x.overlong {
		x.overlong = true
		x.hold()
	}
	if idle > 0 {
		_ = x.up.SetReadDeadline(time.Now().Add(idle))
	} else {
		_ = x.up.SetReadDeadline(time.Time{})
	}
	return true
}

// touch extends the deadline of a machine that has just shown life.
func (x *exchange) touch() {
	if idle := x.slot.target.port.IdleTimeout; x.overlong && idle > 0 {
		_ = x.up.SetReadDeadline(time.Now().Add(idle))
	}
}

// framing is how an answer's body is passed on.
type framing byte

const (
	noBody    framing = iota
	byLength          // Content-Length
	asChunks          // chunks, passed on as they are
	toChunks          // ends with the connection, but not for the client
	fromChunk         // chunks, for a client that does not know them
	untilEnd          // ends with the connection, for such a client
)

func (x *exchange) framing() framing {
	s, modern := &x.res, x.req.Minor == 1
	switch {
	case s.Bodyless(x.head):
		return noBody
	case s.Chunked && modern:
		return asChunks
	case s.Chunked:
		return fromChunk
	case s.ContentLength >= 0:
		return byLength
	case modern:
		return toChunks
	}
	return untilEnd
}

// deliver passes the final answer on and says whether the client may send another request.
func (x *exchange) deliver(rest []byte) bool {
	x.status = x.res.Status
	if x.status == http.StatusSwitchingProtocols {
		return x.upgrade(rest)
	}
	f := x.framing()
	final := x.req.Close || !x.bodySent() || f >= fromChunk || x.ending()
	x.endHead(f, final)
	clean, err := x.body(f, rest)
	x.endSender()
	x.unhold()
	if err == nil && clean && x.complete && x.bodyErr == nil && !x.late && !x.res.Close {
		x.r.keep(&x.slot, x.up, time.Duration(x.res.KeepAlive)*time.Second)
	} else {
		x.dropUp()
	}
	switch {
	case err != nil:
		x.abort(f)
		return false
	case !x.complete:
		x.linger()
		return false
	}
	return x.skip(x.consumed) && !final
}

// endHead completes the head in b.out.
func (x *exchange) endHead(f framing, final bool) {
	out := x.sign(x.b.out)
	if f == asChunks || f == toChunks {
		out = append(out, "Transfer-Encoding: chunked\r\n"...)
	}
	switch {
	case final:
		out = append(out, "Connection: close\r\n"...)
	case x.req.Minor == 0:
		out = append(out, "Connection: keep-alive\r\n"...)
	}
	x.b.out = append(out, "\r\n"...)
}

// sign appends what this router has to say of an answer: to the client, or to another router.
func (x *exchange) sign(out []byte) []byte {
	if x.mesh {
		return x.report(out, codeOK)
	}
	out = append(out, "Via: 1.1 perigee\r\nfly-request-id: "...)
	out = append(append(out, x.id...), "\r\n"...)
	if x.cookie != "" {
		out = append(append(append(out, "Set-Cookie: "...), x.cookie...), "\r\n"...)
	}
	return out
}

// body passes the answer's body on, together with the head in b.out. clean says that the machine has kept to the
// protocol, so that its connection may be used again.
func (x *exchange) body(f framing, rest []byte) (clean bool, err error) {
	switch f {
	case noBody:
		_, err = x.c.Write(x.b.out)
		return len(rest) == 0, err
	case byLength:
		return x.byLength(rest)
	case asChunks, fromChunk:
		return x.chunked(rest, f == fromChunk)
	}
	return false, x.toTheEnd(rest, f == toChunks)
}

func (x *exchange) byLength(rest []byte) (bool, error) {
	clean := int64(len(rest)) <= x.res.ContentLength
	rest = rest[:min(int64(len(rest)), x.res.ContentLength)]
	x.b.out = append(x.b.out, rest...)
	if _, err := x.c.Write(x.b.out); err != nil {
		return false, err
	}
	x.out = int64(len(rest))
	for x.out < x.res.ContentLength {
		n, err := x.pump(x.res.ContentLength - x.out)
		x.out += n
		if err != nil && !x.overdue(err) {
			return false, unexpected(err)
		}
		x.touch()
	}
	return clean, nil
}

// pump passes on at most n bytes of body: large plain ones inside the kernel.
func (x *exchange) pump(n int64) (int64, error) {
	if up, ok := x.up.Conn.(*net.TCPConn); ok && x.tcp != nil && n > 64<<10 {
		return io.CopyN(x.tcp, up, min(n, 4<<20))
	}
	big := bigBuffers.Get().(*[64 << 10]byte)
	defer bigBuffers.Put(big)
	k, err := x.up.Read(big[:min(n, int64(len(big)))])
	if k == 0 {
		return 0, err
	}
	_, err = x.c.Write(big[:k])
	return int64(k), err
}

// chunked passes a chunked body on, as it is or as plain bytes.
func (x *exchange) chunked(rest []byte, decode bool) (bool, error) {
	var body http1.Chunks
	out := x.b.out
	for {
		plain, n, done, err := body.Feed(out, rest, decode)
		if err != nil {
			return false, err
		}
		if out = plain; !decode {
			out = append(out, rest[:n]...)
		}
		if len(out) > 0 {
			if _, err := x.c.Write(out); err != nil {
				return false, err
			}
		}
		x.out += int64(n)
		if done {
			return n == len(rest), nil
		}
		k, err := x.readUp(x.b.up)
		if k == 0 {
			return false, unexpected(err)
		}
		x.touch()
		rest, out = x.b.up[:k], x.b.out[:0]
	}
}

// toTheEnd passes a body on that ends where the connection does.
func (x *exchange) toTheEnd(rest []byte, chunks bool) error {
	out := x.b.out
	for {
		x.out += int64(len(rest))
		if chunks {
			out = http1.AppendChunk(out, rest)
		} else {
			out = append(out, rest...)
		}
		if len(out) > 0 {
			if _, err := x.c.Write(out); err != nil {
				return err
			}
		}
		k, err := x.readUp(x.b.up)
		if errors.Is(err, io.EOF) && k == 0 {
			break
		}
		if k == 0 {
			return err
		}
		x.touch()
		rest, out = x.b.up[:k], x.b.out[:0]
	}
	if !chunks {
		return nil
	}
	_, err := io.WriteString(x.c, "0\r\n\r\n")
	return err
}

// abort ends a connection whose answer broke off. Where only the end of the connection would have told the client
// that the body is whole, it is reset instead.
func (x *exchange) abort(f framing) {
	if f >= fromChunk && x.tcp != nil {
		_ = x.tcp.SetLinger(0)
	}
	if t, ok := x.c.(*tls.Conn); ok {
		_ = t.NetConn().Close() // without TLS's own word that this is the end
	}
	_ = x.c.Close()
}

// upgrade makes the two connections one, as WebSocket and others ask for.
func (x *exchange) upgrade(rest []byte) bool {
	x.unhold()
	if x.req.Upgrade == nil {
		x.dropUp()
		return x.refuse(refuse(http.StatusBadGateway, "machine %q changed the protocol without being asked to", x.slot.seat.door.id))
	}
	out := append(x.sign(x.b.out), "Connection: Upgrade\r\n"...)
	if x.res.Upgrade != nil {
		out = append(append(append(out, "Upgrade: "...), x.res.Upgrade...), "\r\n"...)
	}
	out = append(append(out, "\r\n"...), rest...)
	_, err := x.c.Write(out)
	if err == nil {
		_, err = x.up.Write(x.b.in[x.consumed:x.n])
	}
	x.out, x.in = int64(len(rest)), int64(x.n-x.consumed)
	x.b.free()
	x.b = nil
	if err == nil {
		if !x.mesh { // where the visitor came in
			x.slot.target.app.stats.connections.Add(1)
		}
		in, back := x.r.tunnel(x.c, x.up.Conn, x.slot.target)
		x.in, x.out = x.in+in, x.out+back
	}
	x.dropUp()
	return false
}
