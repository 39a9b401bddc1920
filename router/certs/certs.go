// Package certs gives the router its TLS certificates: from a public authority by ACME for hosts that the public can
// reach, from the local authority for those that it cannot. It is certmagic, set up so that challenges are answered on
// the router's own ports and a certificate is asked for only for hosts that some app has.
//
// It is not the place that opens ports or knows apps. Another source of certificates would be another Issuer in New.
package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/perigee-run/perigee/router/localca"
)

// Config says where certificates come from. At least one of Storage and Local must be there.
type Config struct {
	// Storage keeps accounts, keys and certificates; with a shared one several nodes share the work. Nil: no ACME.
	Storage certmagic.Storage
	// Directory is the ACME server's directory. Default: Let's Encrypt.
	Directory string
	// Email is given to the ACME server, which warns there. It may be empty.
	Email string
	// AgreeTerms says that the operator agrees to the ACME server's terms of service; without that there is no ACME.
	AgreeTerms bool
	// Roots are those to trust the ACME server itself by. Default: the system's.
	Roots *x509.CertPool
	// Allow says whether some app answers to the host; nothing is asked for otherwise. It must be quick.
	Allow func(host string) bool
	// Custom is what an app's owner brought for a host, and is used before all others.
	// It must be quick. Nil: nobody brings any.
	Custom func(host string) *tls.Certificate
	// Local is the local authority. Nil: none.
	Local *localca.CA
	// LocalOnly says which hosts get a local certificate; nil means, if there is ACME, names under .localhost, .local,
	// .internal and .test and bare addresses, else all.
	LocalOnly func(host string) bool
	// Logger takes what certmagic has to say. Nil: nothing is logged.
	Logger *slog.Logger
}

// Certificates gives certificates for handshakes.
type Certificates struct {
	cfg    Config
	cache  *certmagic.Cache
	magic  *certmagic.Config
	issuer *certmagic.ACMEIssuer
	taken  net.Listener
	done   sync.WaitGroup
}

// New sets certificates up. It asks for none yet. Close must be called in the end.
func New(cfg Config) (*Certificates, error) {
	acme := cfg.Storage != nil
	switch {
	case !acme && cfg.Local == nil:
		return nil, errors.New("cannot set up certificates: neither a storage for ACME nor a local authority is given")
	case acme && !cfg.AgreeTerms:
		return nil, errors.New("cannot set up certificates: the ACME server's terms of service are not agreed to")
	case acme && cfg.Allow == nil:
		return nil, errors.New("cannot set up certificates: nothing says which hosts may have one")
	}
	if cfg.LocalOnly == nil {
		cfg.LocalOnly = func(host string) bool { return !acme || private(host) }
	}
	c := &Certificates{cfg: cfg}
	if acme {
		if err := c.startMagic(); err != nil {
			return nil, fmt.Errorf("cannot set up certificates: %w", err)
		}
	}
	return c, nil
}

// startMagic sets certmagic up. It would open ports for challenges unless it finds them taken; the router answers them on
// its own ports, so that certmagic is shown a port that is taken.
func (c *Certificates) startMagic() error {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	c.taken = taken
	c.done.Go(func() {
		for {
			conn, err := taken.Accept() // certmagic looks whether somebody answers there
			if err != nil {
				return
			}
			_ = conn.Close()
		}
	})
	port := taken.Addr().(*net.TCPAddr).Port
	log := zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.AddSync(toSlog{c.cfg.Logger}), zap.WarnLevel))
	if c.cfg.Logger == nil {
		log = zap.NewNop()
	}
	c.cache = certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert: func(certmagic.Certificate) (*certmagic.Config, error) { return c.magic, nil },
		Logger:           log,
	})
	c.magic = certmagic.New(c.cache, certmagic.Config{
		Storage: c.cfg.Storage, Logger: log, DisableStorageCheck: true, OCSP: certmagic.OCSPConfig{DisableStapling: true},
		OnDemand: &certmagic.OnDemandConfig{DecisionFunc: c.allow},
	})
	c.issuer = certmagic.NewACMEIssuer(c.magic, certmagic.ACMEIssuer{
		CA: c.cfg.Directory, TestCA: c.cfg.Directory, Email: c.cfg.Email, Agreed: true, TrustedRoots: c.cfg.Roots, Logger: log,
		ListenHost: "127.0.0.1", AltHTTPPort: port, AltTLSALPNPort: port, CertObtainTimeout: 90 * time.Second,
	})
	c.magic.Issuers = []certmagic.Issuer{c.issuer}
	return nil
}

func (c *Certificates) allow(_ context.Context, host string) error {
	if !c.cfg.Allow(host) {
		return fmt.Errorf("no app here answers to host %q", host)
	}
	return nil
}

// private says that no public authority would vouch for a host.
func private(host string) bool {
	if !strings.Contains(host, ".") || !certmagic.SubjectQualifiesForPublicCert(host) {
		return true
	}
	for _, end := range []string{".localhost", ".local", ".internal", ".test", ".home.arpa"} {
		if strings.HasSuffix(host, end) {
			return true
		}
	}
	return false
}

// GetCertificate is for tls.Config. A certificate that is not there yet is asked for while the handshake waits.
func (c *Certificates) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	host := strings.ToLower(strings.TrimSuffix(hello.ServerName, "."))
	if c.cfg.Custom != nil && host != "" && !challenge(hello) {
		if own := c.cfg.Custom(host); own != nil {
			return own, nil
		}
	}
	if c.cfg.Local != nil && (c.magic == nil || c.cfg.LocalOnly(host)) {
		return c.cfg.Local.GetCertificate(hello)
	}
	if c.magic == nil {
		return nil, fmt.Errorf("no certificate for host %q", host)
	}
	return c.magic.GetCertificate(hello)
}

// ServeChallenge answers r if it is an http-01 challenge of ours.
func (c *Certificates) ServeChallenge(w http.ResponseWriter, r *http.Request) bool {
	return c.issuer != nil && c.issuer.HandleHTTPChallenge(w, r)
}

// Close stops the renewal of certificates.
func (c *Certificates) Close() {
	if c.cache != nil {
		c.cache.Stop()
		_ = c.taken.Close()
		c.done.Wait()
	}
}

// toSlog passes certmagic's log lines on.
type toSlog struct{ log *slog.Logger }

var _ io.Writer = toSlog{}

func (t toSlog) Write(b []byte) (int, error) {
	t.log.Warn("certmagic: " + strings.TrimSpace(string(b)))
	return len(b), nil
}
