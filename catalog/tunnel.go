package catalog

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"time"
)

const handshakeLimit = 5 * time.Second

// keepAlive finds dead peers where nothing is sent.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 2 * time.Second, Count: 3}

// peers proves this node to others and others to it.
type peers struct {
	tls   *tls.Config
	allow func(*x509.Certificate) error
}

// config is for both ends of a connection. The peer must be named name, unless
// that is "". The chain is checked here because a node is named by its
// certificate, not by the address at which it is.
func (p peers) config(name string) *tls.Config {
	c := p.tls.Clone()
	c.MinVersion = tls.VersionTLS13
	c.ClientAuth = tls.RequireAnyClientCert
	c.InsecureSkipVerify = true
	c.VerifyConnection = func(cs tls.ConnectionState) error { return p.check(cs.PeerCertificates, name) }
	c.SessionTicketsDisabled = true
	return c
}

func (p peers) check(chain []*x509.Certificate, name string) error {
	if len(chain) == 0 {
		return errors.New("the peer shows no certificate")
	}
	opts := x509.VerifyOptions{Roots: p.tls.RootCAs, Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	for _, c := range chain[1:] {
		opts.Intermediates.AddCert(c)
	}
	if _, err := chain[0].Verify(opts); err != nil {
		return fmt.Errorf("the peer's certificate is not from this cloud: %w", err)
	}
	if got := chain[0].Subject.CommonName; name != "" && got != name {
		return fmt.Errorf("the peer is %q and should be %q", got, name)
	}
	return p.welcome(chain[0])
}

func (p peers) welcome(c *x509.Certificate) error {
	if p.allow == nil {
		return nil
	}
	return p.allow(c)
}

// entrance remembers whose the connections are that a server accepted.
type entrance struct {
	mu     sync.Mutex // guards what follows
	inside map[net.Conn]*x509.Certificate
}

// config is that of p, for both ends; those who come are remembered.
func (e *entrance) config(p peers) *tls.Config {
	c := p.config("")
	c.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		one := p.config("")
		one.VerifyConnection = func(cs tls.ConnectionState) error {
			err := p.check(cs.PeerCertificates, "")
			if err == nil {
				e.enter(hello.Conn, cs.PeerCertificates[0])
			}
			return err
		}
		return one, nil
	}
	return c
}

func (e *entrance) enter(conn net.Conn, cert *x509.Certificate) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.inside == nil {
		e.inside = map[net.Conn]*x509.Certificate{}
	}
	e.inside[conn] = cert
}

// recheck closes the connections of those that are not welcome any more, and
// forgets those that are closed.
func (e *entrance) recheck(p peers) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for conn, cert := range e.inside {
		if p.welcome(cert) != nil {
			conn.Close()
		}
		if isClosed(conn) {
			delete(e.inside, conn)
		}
	}
}

func isClosed(conn net.Conn) bool {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return true
	}
	raw, err := sc.SyscallConn()
	return err != nil || raw.Control(func(uintptr) {}) != nil
}

// dial connects to a member's server. It returns once the member has let this
// node in.
func (p peers) dial(ctx context.Context, m Member) (net.Conn, error) {
	d := net.Dialer{KeepAliveConfig: keepAlive}
	raw, err := d.DialContext(ctx, "tcp", m.ClientAddr)
	if err != nil {
		return nil, err
	}
	c := tls.Client(raw, p.config(m.Name))
	if err := c.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, err
	}
	return letIn(ctx, c)
}

// letIn waits for the first byte: a server that refuses the certificate says so
// only after the client's end of the handshake.
func letIn(ctx context.Context, c net.Conn) (net.Conn, error) {
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	first := make([]byte, 1)
	if _, err := io.ReadFull(c, first); err != nil {
		c.Close()
		return nil, fmt.Errorf("it does not let this node in: %w", err)
	}
	return &begun{Conn: c, from: io.MultiReader(bytes.NewReader(first), c)}, nil
}

// begun is a connection whose first byte was read.
type begun struct {
	net.Conn
	from io.Reader
}

func (b *begun) Read(p []byte) (int, error) { return b.from.Read(p) }

// door lets other nodes in to the state server of this process.
type door struct {
	log    *slog.Logger
	peers  peers
	ln     net.Listener
	server func() (net.Conn, error)

	wg     sync.WaitGroup
	mu     sync.Mutex // guards what follows
	inside map[net.Conn]*x509.Certificate
	shut   bool
}

func openDoor(addr string, p peers, server func() (net.Conn, error), log *slog.Logger) (*door, error) {
	lc := net.ListenConfig{KeepAliveConfig: keepAlive}
	ln, err := lc.Listen(context.Background(), "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("cannot serve the state to other nodes: %w", err)
	}
	d := &door{log: log, peers: p, ln: ln, server: server, inside: map[net.Conn]*x509.Certificate{}}
	d.wg.Go(d.accept)
	return d, nil
}

func (d *door) accept() {
	for {
		raw, err := d.ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			d.log.Warn("cannot accept a connection to the state", "error", err)
			time.Sleep(100 * time.Millisecond)
			continue
		}
		d.wg.Go(func() {
			defer raw.Close()
			if err := d.serve(raw); err != nil {
				d.log.Debug("a connection to the state was refused or broke", "peer", raw.RemoteAddr(), "error", err)
			}
		})
	}
}

func (d *door) serve(raw net.Conn) error {
	if !d.enter(raw, nil) {
		return nil
	}
	defer d.leave(raw)
	c := tls.Server(raw, d.peers.config(""))
	ctx, cancel := context.WithTimeout(context.Background(), handshakeLimit)
	defer cancel()
	if err := c.HandshakeContext(ctx); err != nil {
		return err
	}
	d.enter(raw, c.ConnectionState().PeerCertificates[0])
	inner, err := d.server()
	if err != nil {
		return err
	}
	d.join(raw, c, inner)
	return nil
}

// join passes bytes both ways until either end closes.
func (d *door) join(raw net.Conn, c, inner net.Conn) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(inner, c)
		inner.Close()
	}()
	_, _ = io.Copy(c, inner)
	inner.Close()
	raw.Close()
	<-done
}

func (d *door) enter(raw net.Conn, cert *x509.Certificate) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.shut {
		d.inside[raw] = cert
	}
	return !d.shut
}

func (d *door) leave(raw net.Conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.inside, raw)
}

// recheck closes the connections of those that are not welcome any more.
func (d *door) recheck() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for raw, cert := range d.inside {
		if cert != nil && d.peers.welcome(cert) != nil {
			raw.Close()
		}
	}
}

func (d *door) close() {
	d.mu.Lock()
	d.shut = true
	d.ln.Close()
	for raw := range d.inside {
		raw.Close()
	}
	d.mu.Unlock()
	d.wg.Wait()
}
