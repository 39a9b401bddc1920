package cluster

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
)

// RefusedError is why a node is not spoken to.
type RefusedError struct {
	Node   string // whose certificate was refused
	Reason string // one of the reasons below
	Text   string
}

// Reasons of a [RefusedError].
const (
	ReasonRemoved     = "removed"     // the node was removed from the cluster
	ReasonReplaced    = "replaced"    // the name has a newer certificate
	ReasonClock       = "clock"       // the clocks differ too much
	ReasonCertificate = "certificate" // no certificate, or not this cluster's
)

// Error says it in words.
func (e *RefusedError) Error() string { return e.Text }

// Is makes a refusal of a removed node ErrRemoved, one for the clock ErrClock.
func (e *RefusedError) Is(target error) bool {
	return target == ErrRemoved && (e.Reason == ReasonRemoved || e.Reason == ReasonReplaced) || target == ErrClock && e.Reason == ReasonClock
}

// Allow reports why a certificate does not let its holder in: it is not of this
// cluster, not of this time, of a node that was removed, or one that was
// replaced. A node that this one has not heard of yet is let in: removed ones
// are remembered.
func (c *Cluster) Allow(cert *x509.Certificate) error {
	if err := c.authority.verify(cert, c.cfg.now()); err != nil {
		return refused(cert, err)
	}
	return c.current(cert)
}

// refused tells a wrong clock from a wrong certificate.
func refused(cert *x509.Certificate, err error) error {
	reason := ReasonCertificate
	if errors.Is(err, ErrClock) {
		reason = ReasonClock
	}
	return &RefusedError{Node: cert.Subject.CommonName, Reason: reason, Text: err.Error()}
}

// current is Allow without what cannot change while a connection lasts.
func (c *Cluster) current(cert *x509.Certificate) error {
	name := cert.Subject.CommonName
	if err := inTime(cert, c.cfg.now()); err != nil {
		return refused(cert, err)
	}
	if n, ok := c.record(name); ok {
		return judge(n, cert)
	}
	return nil
}

// judge reports why a certificate is not the node's any more. One that is newer
// than the record is good: the authority made it, and the record is old.
func judge(n Node, cert *x509.Certificate) error {
	serial := serialOf(cert)
	known := serial == n.Serial || serial == n.PreviousSerial
	switch {
	case !known && cert.NotBefore.After(n.CertifiedAt) || known && !n.Removed:
		return nil
	case n.Removed:
		return &RefusedError{Node: n.Name, Reason: ReasonRemoved, Text: fmt.Sprintf("node %q was removed from the cloud on %s", n.Name, n.RemovedAt.UTC().Format("2006-01-02 15:04:05 MST"))}
	}
	return &RefusedError{Node: n.Name, Reason: ReasonReplaced, Text: fmt.Sprintf("the certificate of node %q was replaced by a newer one: the node was removed and its name given to another, or its data directory is an old copy", n.Name)}
}

// ClientTLS is for connections to a node: serverName is its [ServerName], or
// "" if any node will do. The certificate in it is always the newest.
func (c *Cluster) ClientTLS(serverName string) *tls.Config {
	cfg := c.tls(func(s tls.ConnectionState) error {
		if len(s.PeerCertificates) == 0 {
			return errors.New("the other side has no certificate")
		}
		cert := s.PeerCertificates[0]
		if err := c.Allow(cert); err != nil {
			return err
		}
		if serverName != "" && cert.VerifyHostname(serverName) != nil {
			return &RefusedError{Node: cert.Subject.CommonName, Reason: ReasonCertificate, Text: fmt.Sprintf("another node answers there: %q, not %q", ServerName(cert.Subject.CommonName), serverName)}
		}
		return nil
	})
	cfg.ServerName = serverName
	return cfg
}

// ServerTLS is for listeners that only nodes may connect to, and for connections
// which both ends make alike, as NATS routes are.
func (c *Cluster) ServerTLS() *tls.Config {
	cfg := c.ClientTLS("")
	cfg.ClientAuth = tls.RequireAnyClientCert // verified in VerifyConnection, with better words
	return cfg
}

// tls is what all configurations share. The library's own check is replaced, not
// left out: it would look for host names in certificates that name nodes.
func (c *Cluster) tls(verify func(tls.ConnectionState) error) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: c.authority.pool, ClientCAs: c.authority.pool, Time: c.cfg.now,
		InsecureSkipVerify: true, VerifyConnection: verify, SessionTicketsDisabled: true,
		GetCertificate:       func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.cert.Load(), nil },
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c.cert.Load(), nil },
	}
}
