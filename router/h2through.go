package router

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/perigee-run/perigee/router/http1"
)

// This file serves HTTP/1 clients, other routers among them, from machines that speak HTTP/2: bodies stream both ways
// at once, and trailers pass as those of a chunked body.

// throughH2 sends the request to the machine at hand and its answer to the client.
func (x *exchange) throughH2() (again, retry bool) {
	ctx, cancel := context.WithCancel(x.r.life)
	defer cancel()
	body := &h1Body{x: x, gone: cancel, left: x.req.ContentLength, raw: x.b.in[x.req.Len:x.n]}
	req, err := x.outgoing(ctx)
	if err != nil {
		return x.refuse(refuse(http.StatusBadRequest, "%v", err)), false
	}
	x.consumed = x.req.Len
	if x.req.Continue && x.n == x.req.Len { // the machine is not asked: HTTP/2 has flow control for it
		if _, err := io.WriteString(x.c, "HTTP/1.1 100 Continue\r\n\r\n"); err != nil {
			return false, false
		}
	}
	if x.req.HasBody() {
		req.Body, req.ContentLength = body, max(x.req.ContentLength, -1)
	} else {
		body.end()
	}
	res, err := x.slot.seat.h2.get(x.r, x.slot).RoundTrip(req)
	if err == nil {
		defer res.Body.Close()
		if rp, err, ok := replayIn(res); ok && !x.mesh {
			return x.replayH2(rp, err, body)
		}
		return x.answerH2(res, body), false
	}
	body.stop()
	left := x.watch.ctx != nil && x.watch.ctx.Err() != nil
	x.unhold()
	var dial dialError
	switch {
	case left, body.failed:
		return x.refuse(&refusal{status: statusClientGone}), false
	case errors.As(err, &dial) && !body.touched:
		x.consumed = 0
		x.trip.fail(x.slot.seat, err)
		x.trip.refused = true
		return false, true
	}
	x.req.Close = x.req.Close || !body.done
	return x.refuse(refuse(http.StatusBadGateway, "machine %q did not answer over http/2 (h2_backend): %v", x.slot.seat.door.id, err)), false
}

// outgoing is the request as the machine gets it, without its body.
func (x *exchange) outgoing(ctx context.Context) (*http.Request, error) {
	to, err := url.ParseRequestURI(string(x.req.Target))
	if err != nil {
		return nil, fmt.Errorf("malformed request target: %w", err)
	}
	to.Scheme, to.Host = "http", x.slot.addr.String()
	out := (&http.Request{Method: string(x.req.Method), URL: to, Host: string(x.req.Host), Header: http.Header{}}).WithContext(ctx)
	lines := x.appendAbout(x.b.out)
	http1.Fields(lines[strings.IndexByte(string(lines), '\n')+1:], func(name, value []byte) {
		if n := http.CanonicalHeaderKey(string(name)); !hopByHop(n) {
			out.Header.Add(n, string(value))
		}
	})
	if x.req.Trailers {
		out.Header.Set("Te", "trailers")
	}
	return out, nil
}

// answerH2 passes the answer on, and says whether the client may send another request.
func (x *exchange) answerH2(res *http.Response, body *h1Body) (again bool) {
	x.status = res.StatusCode
	if x.slot.target.tokens != nil {
		x.cookie = x.slot.newCookie(&x.ask)
	}
	f := x.framingH2(res)
	_, err := x.c.Write(x.headH2(res, f))
	if err == nil && f != noBody {
		err = x.streamH2(res, f)
	}
	body.stop()
	x.unhold()
	if err != nil || f == untilEnd && x.req.Close {
		x.abort(f)
		return false
	}
	if !body.done {
		x.linger()
		return false
	}
	return x.skip(x.consumed) && !x.req.Close && f != untilEnd && !x.ending()
}

func (x *exchange) framingH2(res *http.Response) framing {
	switch {
	case x.head || res.StatusCode == http.StatusNoContent || res.StatusCode == http.StatusNotModified:
		return noBody
	case res.ContentLength >= 0 && len(res.Trailer) == 0:
		return byLength
	case x.req.Minor == 1:
		return toChunks
	}
	return untilEnd
}

func (x *exchange) headH2(res *http.Response, f framing) []byte {
	out := fmt.Appendf(nil, "HTTP/1.1 %d %s\r\n", res.StatusCode, http.StatusText(res.StatusCode))
	for name, values := range res.Header {
		if hopByHop(name) && (name != "Content-Length" || f == toChunks) || name == "Perigee-Host" || name == "Fly-Request-Id" {
			continue
		}
		for _, v := range values {
			out = append(append(append(append(out, name...), ": "...), v...), "\r\n"...)
		}
	}
	if f == byLength && res.Header.Get("Content-Length") == "" {
		out = fmt.Appendf(out, "Content-Length: %d\r\n", res.ContentLength)
	}
	out = x.sign(out)
	if f == toChunks {
		out = append(out, "Transfer-Encoding: chunked\r\n"...)
	}
	switch {
	case x.req.Close || f == untilEnd || x.ending():
		x.req.Close = true
		out = append(out, "Connection: close\r\n"...)
	case x.req.Minor == 0:
		out = append(out, "Connection: keep-alive\r\n"...)
	}
	return append(out, "\r\n"...)
}

// streamH2 passes the answer's body on, each piece at once, and its trailers.
func (x *exchange) streamH2(res *http.Response, f framing) error {
	buf := bigBuffers.Get().(*[64 << 10]byte)
	defer bigBuffers.Put(buf)
	var out []byte
	for {
		n, err := res.Body.Read(buf[:])
		if x.out += int64(n); f == toChunks {
			out = http1.AppendChunk(out[:0], buf[:n])
		} else {
			out = buf[:n]
		}
		if errors.Is(err, io.EOF) && f == toChunks {
			out = lastChunk(out, res.Trailer)
		}
		if len(out) > 0 {
			if _, werr := x.c.Write(out); werr != nil {
				return werr
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// lastChunk appends the end of a chunked body.
func lastChunk(out []byte, trailer http.Header) []byte {
	out = append(out, "0\r\n"...)
	for name, values := range trailer {
		for _, v := range values {
			out = append(append(append(append(out, name...), ": "...), v...), "\r\n"...)
		}
	}
	return append(out, "\r\n"...)
}

// replayIn says whether an answer asks for a replay.
func replayIn(res *http.Response) (rp *replay, err error, ok bool) {
	kind := res.Header.Get("Content-Type")
	kind, _, _ = strings.Cut(kind, ";")
	if strings.EqualFold(strings.TrimSpace(kind), http1.ReplayType) {
		body, err := io.ReadAll(io.LimitReader(res.Body, maxReplayJSON))
		if err == nil {
			rp, err = parseReplayJSON(body)
		}
		return rp, err, true
	}
	if v := res.Header.Get("Fly-Replay"); v != "" {
		rp, err = parseReplay(v)
		return rp, err, true
	}
	return nil, nil, false
}

// replayH2 replays a request, which must have no body.
func (x *exchange) replayH2(rp *replay, err error, body *h1Body) (again, retry bool) {
	body.stop()
	x.unhold()
	if err == nil && body.touched {
		err = errors.New("it has a body, which is not kept for a service with h2_backend")
	}
	if err == nil {
		err = x.mayReplay(rp)
	}
	if err != nil {
		x.req.Close = x.req.Close || !body.done
		return x.refuse(refuse(http.StatusBadGateway, "machine %q asked to replay the request: %v", x.slot.seat.door.id, err)), false
	}
	x.consumed = 0
	x.takeReplay(rp)
	return false, true
}

// h1Body is a request's body on its way from an HTTP/1 connection to an HTTP/2 backend, which reads it while the answer
// may come already.
type h1Body struct {
	x    *exchange
	gone context.CancelFunc // ends the exchange with the machine

	mu      sync.Mutex // guards what follows
	raw     []byte     // read from the client, not looked at
	plain   []byte     // decoded, not given yet
	left    int64      // of a body with a length
	touched bool       // some of it was read
	done    bool       // all of it was read
	failed  bool       // the client broke off
	closed  bool

	closing atomic.Bool
}

// Read implements io.Reader.
func (b *h1Body) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.plain) == 0 {
		switch {
		case b.closed:
			return 0, http.ErrBodyReadAfterClose
		case b.done:
			return 0, io.EOF
		}
		if err := b.fill(); err != nil {
			b.failed = !b.closing.Load()
			return 0, err
		}
	}
	n := copy(p, b.plain)
	b.plain = b.plain[n:]
	return n, nil
}

// Close implements io.Closer. The body's end is stop's to make.
func (b *h1Body) Close() error { return nil }

// fill decodes what is there, or reads more.
func (b *h1Body) fill() error {
	b.touched = true
	x := b.x
	if len(b.raw) == 0 {
		if x.consumed < x.n { // all that was read with the head is used
			x.consumed = x.n
		}
		buf := make([]byte, 32<<10)
		_ = x.c.SetReadDeadline(time.Now().Add(x.r.cfg.BodyTimeout))
		if b.closing.Load() { // stop's deadline may have gone with it
			return http.ErrBodyReadAfterClose
		}
		k, err := x.c.Read(buf)
		if k == 0 {
			if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		b.raw = buf[:k]
	}
	n := len(b.raw)
	if x.req.Chunked {
		var err error
		if b.plain, n, b.done, err = x.chunks.Feed(nil, b.raw, true); err != nil {
			return err
		}
	} else {
		n = int(min(int64(n), b.left))
		b.plain = b.raw[:n]
		b.left -= int64(n)
		b.done = b.left == 0
	}
	b.raw = b.raw[n:]
	x.in += int64(n)
	if b.done {
		b.finish()
	}
	return nil
}

// finish puts back what belongs to the next request, and watches the client from now on.
func (b *h1Body) finish() {
	x := b.x
	if x.consumed == x.n { // raw came from the connection
		if room := len(x.b.in) - x.n; room < len(b.raw) {
			x.b.in = append(x.b.in[:x.n:x.n], make([]byte, len(b.raw)+bufferSize)...)
		}
		x.n += copy(x.b.in[x.n:], b.raw)
	} else {
		x.consumed = x.n - len(b.raw)
	}
	b.watch()
}

// end is for a request without a body.
func (b *h1Body) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.done, b.raw = true, nil
	b.watch()
}

func (b *h1Body) watch() { context.AfterFunc(b.x.hold(), b.gone) }

// stop ends the reading, so that the connection is ours again.
func (b *h1Body) stop() {
	b.closing.Store(true)
	_ = b.x.c.SetReadDeadline(time.Unix(1, 0))
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	_ = b.x.c.SetReadDeadline(time.Time{})
	b.x.idleUntil = time.Time{}
}
