package router

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"time"
)

const acmeALPN = "acme-tls/1" // RFC 8737

// tlsConfigs are the ways to answer a TLS handshake, by what comes inside.
type tlsConfigs struct{ web, raw, pg *tls.Config }

// newTLS makes them; nil if there are no certificates. nameless is the name that a client means which gives none.
func newTLS(certs Certificates, nameless func(net.Conn) string) *tlsConfigs {
	if certs == nil {
		return nil
	}
	certificate := func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
		if name := nameless(h.Conn); h.ServerName == "" && name != "" {
			named := *h
			named.ServerName = name
			h = &named
		}
		return certs.GetCertificate(h)
	}
	make := func(protos ...string) *tls.Config {
		return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: certificate, NextProtos: protos}
	}
	return &tlsConfigs{web: make("h2", "http/1.1", acmeALPN), raw: make(), pg: make("postgresql")}
}

// tlsFor is the configuration for handshakes on a port. It is kept, because session tickets belong to it.
func (r *Router) tlsFor(port int) *tls.Config {
	if c, ok := r.tlsPorts.Load(port); ok {
		return c.(*tls.Config)
	}
	c, _ := r.tlsPorts.LoadOrStore(port, &tls.Config{
		GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) { return r.tlsInside(h), nil },
	})
	return c.(*tls.Config)
}

// tlsInside chooses by the server name: whether the app that it names speaks HTTP on this port.
func (r *Router) tlsInside(h *tls.ClientHelloInfo) *tls.Config {
	rt := r.routes.Load()
	a := &ask{entrance: h.Conn.(*edgeConn).entrance, secure: true, host: normalHost(nil, []byte(h.ServerName))}
	if p := rt.ports[a.port]; !a.own.IsValid() && p != nil && p.kind == kindPg {
		return r.tls.pg
	}
	switch tg, _ := rt.find(a); {
	case tg == nil || tg.http:
		return r.tls.web
	case tg.kind == kindPg:
		return r.tls.pg
	}
	return r.tls.raw
}

// serve takes an accepted connection.
func (r *Router) serve(c net.Conn, port int) {
	if p := r.routes.Load().ports[port]; p != nil {
		r.serveKind(c, p.kind, entrance{port: port})
		return
	}
	_ = c.Close()
}

func (r *Router) serveKind(c net.Conn, k portKind, e entrance) {
	switch k {
	case kindHTTP:
		r.serveHTTP1(c, e, false, nil)
	case kindTLS:
		r.serveTLS(c, e)
	case kindPg:
		if r.postgres(c) {
			r.serveTLS(c, e)
		}
	default:
		r.serveRaw(c, &ask{entrance: e})
	}
}

// serveTLS does the handshake and hands the connection to who speaks what is inside.
func (r *Router) serveTLS(raw net.Conn, e entrance) {
	c := tls.Server(&edgeConn{Conn: raw, entrance: e}, r.tlsFor(e.port))
	ctx, cancel := context.WithTimeout(r.life, r.cfg.HeaderTimeout)
	err := c.HandshakeContext(ctx)
	cancel()
	if err != nil {
		r.log.Debug("tls handshake failed", "peer", raw.RemoteAddr(), "err", err)
		var plain tls.RecordHeaderError
		if errors.As(err, &plain) && plain.Conn != nil {
			_, _ = io.WriteString(raw, "HTTP/1.0 400 Bad Request\r\nConnection: close\r\n\r\nthis port speaks TLS: use https\n")
		}
		_ = raw.Close()
		return
	}
	state := c.ConnectionState()
	a := &ask{entrance: e, secure: true, host: normalHost(nil, []byte(state.ServerName))}
	tg, v := r.routes.Load().find(a)
	switch {
	case v == toService && !tg.http:
		r.serveRaw(c, a)
	case state.NegotiatedProtocol == "h2":
		if !r.webFor(e).in.give(c) {
			_ = c.Close()
		}
	case state.NegotiatedProtocol == acmeALPN:
		_ = c.Close()
	default:
		r.serveHTTP1(c, e, true, nil)
	}
}

// PostgreSQL's requests before TLS (message formats, chapter 55).
const (
	pgSSLRequest    = 80877103
	pgGSSENCRequest = 80877104
)

// postgres agrees to TLS in PostgreSQL's way; false says that the client wants something else, and is gone.
func (r *Router) postgres(c net.Conn) bool {
	_ = c.SetDeadline(time.Now().Add(r.cfg.HeaderTimeout))
	defer c.SetDeadline(time.Time{})
	for range 2 {
		var b [8]byte
		if _, err := io.ReadFull(c, b[:]); err != nil {
			break
		}
		switch binary.BigEndian.Uint32(b[4:]) {
		case pgSSLRequest:
			_, err := c.Write([]byte("S"))
			return err == nil
		case pgGSSENCRequest: // "no"; it asks for TLS next
			_, _ = c.Write([]byte("N"))
			continue
		}
		const text = "SFATAL\x00C28000\x00Mthis port takes TLS only: connect with sslmode=require\x00\x00"
		_, _ = c.Write(append(binary.BigEndian.AppendUint32([]byte("E"), uint32(len(text)+4)), text...))
		break
	}
	_ = c.Close()
	return false
}

// challenge answers an ACME http-01 challenge, if it is one that the certificates know.
func (c *conn) challenge() bool {
	req, err := http.NewRequestWithContext(c.r.life, string(c.req.Method), "http://"+string(c.req.Host)+string(c.req.Target), nil)
	if err != nil {
		return false
	}
	req.Host = string(c.req.Host)
	w := httptest.NewRecorder()
	if !c.r.cfg.Certificates.ServeChallenge(w, req) {
		return false
	}
	res := w.Result()
	res.ContentLength = int64(w.Body.Len())
	return res.Write(c.c) == nil
}
