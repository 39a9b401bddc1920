package node

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"

	"github.com/perigee-run/perigee/catalog/certstore"
	"github.com/perigee-run/perigee/router/certs"
	"github.com/perigee-run/perigee/router/localca"
)

// certificates are where TLS certificates come from, and what to close.
type certificates struct {
	*certs.Certificates
	store *certstore.Store
	local *localca.CA
}

func (c *certificates) close() {
	c.Certificates.Close()
	if c.store != nil {
		c.store.Close()
	}
}

// acme reports whether the operator asked for certificates by ACME.
func (c *Config) acme() bool { return c.ACMEEmail != "" || c.ACMEDirectory != "" }

func (n *Node) openCertificates() (*certificates, error) {
	c := &certificates{}
	var err error
	if c.local, err = localca.Open(n.path("ca"), "Perigee "+n.cfg.Name); err != nil {
		return nil, err
	}
	cfg := certs.Config{Local: c.local, Allow: n.mayACME, Custom: n.brought, Logger: n.log}
	if n.cfg.acme() {
		if err := n.addACME(c, &cfg); err != nil {
			return nil, err
		}
	}
	c.Certificates, err = certs.New(cfg)
	return c, err
}

func (n *Node) addACME(c *certificates, cfg *certs.Config) error {
	if _, err := os.Stat(n.path("certificates.key")); err != nil && len(n.others()) > 0 {
		return fmt.Errorf("cannot turn ACME on: this node lacks the key that seals the cloud's certificates; copy certificates.key from the data directory of another node: %w", err)
	}
	key, err := secretFile(n.path("certificates.key"), 32, false)
	if err != nil {
		return err
	}
	if c.store, err = certstore.New(n.catalog, key); err != nil {
		return err
	}
	cfg.Storage, cfg.Directory, cfg.Email, cfg.AgreeTerms = c.store, n.cfg.ACMEDirectory, n.cfg.ACMEEmail, true
	if n.cfg.ACMERoots == "" {
		return nil
	}
	pem, err := os.ReadFile(n.cfg.ACMERoots)
	if err != nil {
		return fmt.Errorf("cannot read the ACME server's roots: %w", err)
	}
	cfg.Roots = x509.NewCertPool()
	if !cfg.Roots.AppendCertsFromPEM(pem) {
		return fmt.Errorf("cannot use %s as the ACME server's roots: it holds no PEM certificate", n.cfg.ACMERoots)
	}
	return nil
}

// serves keeps certificates to names that some app has. The router comes after
// the certificates.
func (n *Node) serves(host string) bool { return n.router != nil && n.router.Serves(host) }

// mayACME keeps them from names whose owners want none.
func (n *Node) mayACME(host string) bool { return n.serves(host) && n.apps.MayACME(host) }

// brought is what an app's owner brought for a host.
func (n *Node) brought(host string) *tls.Certificate { return n.apps.CustomCertificate(host) }

// caPEM is the local CA's certificate, empty where ACME makes all of them.
func (n *Node) caPEM(context.Context) string {
	if n.cfg.acme() {
		return ""
	}
	b, err := os.ReadFile(n.certs.local.RootPath())
	if err != nil {
		n.log.Warn("cannot read the local CA", "err", err)
	}
	return string(b)
}
