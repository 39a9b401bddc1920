package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/caddyserver/certmagic"
)

// challenge reports whether the handshake is an authority's, which looks for a
// certificate made for its question.
func challenge(hello *tls.ClientHelloInfo) bool {
	return slices.Contains(hello.SupportedProtos, "acme-tls/1")
}

// Peek returns the certificate that the cloud has for a host by itself, and the words for
// who gave it, without asking for one; nil if there is none yet.
func (c *Certificates) Peek(ctx context.Context, host string) (*x509.Certificate, string) {
	if c.isLocal(host) {
		cert, err := c.cfg.Local.GetCertificate(&tls.ClientHelloInfo{ServerName: host})
		if err != nil {
			return nil, ""
		}
		return cert.Leaf, "this cloud's own authority"
	}
	if c.magic == nil {
		return nil, ""
	}
	b, err := c.cfg.Storage.Load(ctx, certmagic.StorageKeys.SiteCert(c.issuer.IssuerKey(), host))
	if err != nil {
		return nil, ""
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, ""
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, ""
	}
	return leaf, strings.Join(leaf.Issuer.Organization, " ")
}

// Obtain asks for a certificate for the host, unless there is one. A wildcard cannot be
// proven by what the router can show.
func (c *Certificates) Obtain(ctx context.Context, host string) error {
	switch {
	case c.isLocal(host):
		return nil // it is made when somebody comes
	case c.magic == nil:
		return errors.New("this node gets no certificates")
	case strings.HasPrefix(host, "*."):
		return fmt.Errorf("an authority gives a certificate for %q only by a proof in the DNS, which this cloud does not make; bring one", host)
	}
	if err := c.allow(ctx, host); err != nil {
		return err
	}
	return c.magic.ObtainCertSync(ctx, host)
}

func (c *Certificates) isLocal(host string) bool {
	return c.cfg.Local != nil && (c.magic == nil || c.cfg.LocalOnly(host))
}
