package router

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/perigee-run/perigee/router/http1"
)

// h2backend is a machine's side of HTTP/2 without TLS, for services that want it so (gRPC).
type h2backend struct {
	mu        sync.Mutex // guards what follows
	transport *http.Transport
	spare     *upstream // opened already, while the machine was waking
	addr      netip.AddrPort
}

type dialError struct{ error }

func (b *h2backend) get(r *Router, s slot) *http.Transport {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.transport != nil && b.addr != s.addr { // the machine has moved
		b.transport.CloseIdleConnections()
		b.transport = nil
	}
	if b.transport == nil {
		b.addr = s.addr
		protos := new(http.Protocols)
		protos.SetUnencryptedHTTP2(true)
		b.transport = &http.Transport{
			Protocols: protos, DisableCompression: true, IdleConnTimeout: r.cfg.UpstreamIdle,
			HTTP2:       &http.HTTP2Config{SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second},
			DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) { return b.dial(ctx, r, s) },
		}
	}
	return b.transport
}

func (b *h2backend) dial(ctx context.Context, r *Router, s slot) (net.Conn, error) {
	b.mu.Lock()
	c := b.spare
	b.spare = nil
	b.mu.Unlock()
	if c != nil && c.addr == s.addr {
		return c, nil
	}
	u, err := r.dial(ctx, &s, time.Second)
	if err != nil {
		return nil, dialError{err}
	}
	return u, nil
}

func (b *h2backend) keep(c *upstream) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.spare != nil {
		_ = b.spare.Close()
	}
	b.spare = c
}

func (b *h2backend) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.spare != nil {
		_ = b.spare.Close()
		b.spare = nil
	}
	if b.transport != nil {
		b.transport.CloseIdleConnections()
	}
}

// openFor is open; for an HTTP/2 backend it only makes sure that a machine just woken listens, and returns nil.
func (r *Router) openFor(tr *trip, s *slot) (*upstream, error) {
	if s.peer != nil || !s.target.port.H2Backend {
		return r.open(tr, s)
	}
	if s.woken.IsZero() {
		return nil, nil
	}
	u, err := r.dialWoken(tr, s)
	if err == nil {
		s.seat.h2.keep(u)
	}
	return nil, err
}

// outgoing is the request as the machine gets it.
func (x *web) outgoing() *http.Request {
	out := x.req.Clone(x.req.Context())
	out.RequestURI, out.Header = "", http.Header{}
	out.URL.Scheme, out.URL.Host = "http", x.slot.addr.String()
	http1.Fields(x.lines(nil), func(name, value []byte) { out.Header.Add(string(name), string(value)) })
	if strings.Contains(x.req.Header.Get("Te"), "trailers") {
		out.Header.Set("Te", "trailers")
	}
	if !x.hasBody() {
		out.Body = nil
	}
	return out
}

// overH2 sends the request to an HTTP/2 backend. It says whether it may be sent again.
func (x *web) overH2() (retry bool) {
	res, err := x.slot.seat.h2.get(x.r, x.slot).RoundTrip(x.outgoing())
	if err != nil {
		return x.noAnswer(err)
	}
	defer res.Body.Close()
	if rp, err, ok := replayIn(res); ok {
		return x.replayH2(rp, err)
	}
	x.status = res.StatusCode
	h := x.w.Header()
	for name, values := range res.Header {
		if !hopByHop(name) || name == "Content-Length" {
			h[name] = values
		}
	}
	delete(h, "Perigee-Host")
	x.sign("2 perigee")
	x.w.WriteHeader(res.StatusCode)
	flush := http.NewResponseController(x.w).Flush
	if res.ContentLength != 0 { // else the head is the end too, as gRPC wants it
		_ = flush()
	}
	if err := x.stream(res.Body, flush); err != nil {
		panic(http.ErrAbortHandler)
	}
	for name, values := range res.Trailer {
		h[http.TrailerPrefix+name] = values
	}
	return false
}

// replayH2 replays a request, which must have no body.
func (x *web) replayH2(rp *replay, err error) (retry bool) {
	if err == nil && x.hasBody() {
		err = errors.New("it has a body, which is not kept for a service with h2_backend")
	}
	rf, retry := x.takeReplay(rp, err)
	if rf != nil {
		x.refuse(rf)
	}
	return retry
}

func (x *web) noAnswer(err error) (retry bool) {
	var dial dialError
	switch {
	case x.req.Context().Err() != nil:
		x.refuse(&refusal{status: statusClientGone})
	case errors.As(err, &dial):
		x.trip.fail(x.slot.seat, err)
		x.trip.fresh = true
		return true
	default:
		x.refuse(refuse(http.StatusBadGateway, "machine %q did not answer over http/2 (h2_backend): %v", x.slot.seat.door.id, err))
	}
	return false
}

// stream passes a body on, each piece at once.
func (x *web) stream(body io.Reader, flush func() error) error {
	buf := bigBuffers.Get().(*[64 << 10]byte)
	defer bigBuffers.Put(buf)
	for {
		n, err := body.Read(buf[:])
		if n > 0 {
			x.out += int64(n)
			if _, werr := x.w.Write(buf[:n]); werr != nil {
				return werr
			}
			if werr := flush(); werr != nil {
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
