package cluster

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/perigee-run/perigee/api"
)

// Paths that the cluster answers itself; all others are the handler's.
const (
	joinPath  = "/join"
	helloPath = "/peer/v1/cluster/hello"
	renewPath = "/peer/v1/cluster/renew"
)

// refusedHeader carries the reason of a [RefusedError].
const refusedHeader = "Perigee-Refused"

// Server answers other nodes, and those who want to become one.
type Server struct {
	cluster *Cluster
	handler http.Handler
	http    *http.Server
}

type peerKey struct{}

// PeerFrom returns the name of the node that makes the call. A handler of
// [Cluster.Server] always has one.
func PeerFrom(ctx context.Context) (name string, ok bool) {
	name, ok = ctx.Value(peerKey{}).(string)
	return name, ok
}

// Server gives calls of other nodes to handler.
func (c *Cluster) Server(handler http.Handler) *Server {
	s := &Server{cluster: c, handler: handler}
	cfg := c.tls(nil) // the caller is looked at per request, to answer in words
	cfg.ClientAuth = tls.RequestClientCert
	cfg.NextProtos = []string{"h2", "http/1.1"}
	s.http = &http.Server{
		Handler: s, TLSConfig: cfg, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		HTTP2: &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 5 * time.Second, MaxConcurrentStreams: 1000},
		ConnContext: func(ctx context.Context, _ net.Conn) context.Context {
			return context.WithValue(ctx, callerKey{}, &caller{})
		},
		ErrorLog: slog.NewLogLogger(c.log.Handler(), slog.LevelDebug),
	}
	return s
}

// Run serves until ctx ends; calls in progress get a moment to finish.
func (s *Server) Run(ctx context.Context, l net.Listener) error {
	s.http.BaseContext = func(net.Listener) context.Context { return ctx }
	done := make(chan error, 1)
	go func() { done <- s.http.ServeTLS(l, "", "") }()
	select {
	case err := <-done:
		return fmt.Errorf("cannot answer other nodes: %w", err)
	case <-ctx.Done():
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
	defer cancel()
	if s.http.Shutdown(last) != nil {
		_ = s.http.Close() // what is left had its time
	}
	<-done
	return nil
}

// ServeHTTP finds out who calls.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == joinPath {
		s.cluster.serveJoin(w, r)
		return
	}
	cert, err := s.caller(r)
	if err != nil {
		refuse(w, err)
		return
	}
	switch r.URL.Path {
	case helloPath:
		answer(w, map[string]string{"node": s.cluster.Self().Name})
	case renewPath:
		s.cluster.serveRenew(w, r, cert)
	default:
		s.handler.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), peerKey{}, cert.Subject.CommonName)))
	}
}

type callerKey struct{}

// caller is what was found out about the other end of a connection: signatures
// are checked until they are good, whether it was removed with each request. A
// refusal may be over with the next one: a clock was set.
type caller struct{ good atomic.Bool }

func (s *Server) caller(r *http.Request) (*x509.Certificate, error) {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return nil, &RefusedError{Reason: ReasonCertificate, Text: "the call has no certificate: only nodes of the cloud may call here"}
	}
	cert := r.TLS.PeerCertificates[0]
	on, ok := r.Context().Value(callerKey{}).(*caller)
	if !ok {
		return cert, s.cluster.Allow(cert)
	}
	if !on.good.Load() {
		if err := s.cluster.Allow(cert); err != nil {
			return nil, err
		}
		on.good.Store(true)
	}
	return cert, s.cluster.current(cert)
}

// refuse says why a node is not spoken to.
func refuse(w http.ResponseWriter, err error) {
	var r *RefusedError
	if errors.As(err, &r) {
		w.Header().Set(refusedHeader, r.Reason)
	}
	fail(w, api.Errorf(api.CodeForbidden, "%v", err))
}

func fail(w http.ResponseWriter, err error) {
	e := api.AsError(err)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(cmp.Or(e.Status, api.Codes[e.Code], http.StatusInternalServerError))
	_ = json.NewEncoder(w).Encode(e) // the caller may be gone
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the caller may be gone
}
