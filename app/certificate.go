package app

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/perigee-run/perigee/api"
)

// Host is one of an app's custom names.
type Host struct {
	Name                 string
	CreatedAt, UpdatedAt time.Time
	// ACME says that the cloud gets certificates for it by itself.
	ACME bool
	// Custom is the certificate that its owner brought; nil if there is none.
	Custom *tls.Certificate
}

const maxPEM = 64 << 10

// HostOf returns a custom name of the app; api.CodeNotFound if it does not have it.
func (s *Store) HostOf(app, name string) (Host, error) {
	key := hostKey(tidyHost(name))
	if e, ok := s.hosts.Get(key); ok && e.Value.App == app {
		return s.shownHost(e.Value), nil
	}
	return Host{}, noHost(app, name)
}

// HostsOf returns the app's custom names, sorted.
func (s *Store) HostsOf(app string) (out []Host) {
	for _, e := range s.hosts.List("") {
		if e.Value.App == app {
			out = append(out, s.shownHost(e.Value))
		}
	}
	return out
}

func (s *Store) shownHost(h host) Host {
	out := Host{Name: h.Host, CreatedAt: h.CreatedAt, UpdatedAt: h.UpdatedAt, ACME: !h.NoACME, Custom: s.brought(h)}
	if out.UpdatedAt.IsZero() {
		out.UpdatedAt = h.CreatedAt
	}
	return out
}

// MayACME reports whether a certificate may be asked for a host, as far as some app has
// it for a custom name.
func (s *Store) MayACME(name string) bool {
	h, ok := s.hostFor(tidyHost(name))
	return !ok || !h.NoACME
}

// CustomCertificate is what an app's owner brought for a host, or for the wildcard that
// covers it; nil if there is none or it has run out. It answers from memory.
func (s *Store) CustomCertificate(name string) *tls.Certificate {
	h, ok := s.hostFor(tidyHost(name))
	if !ok || h.Custom == nil {
		return nil
	}
	c := s.brought(h)
	if c == nil || time.Now().After(c.Leaf.NotAfter) {
		return nil
	}
	return c
}

// hostFor is the record of the name itself, or of its wildcard.
func (s *Store) hostFor(name string) (host, bool) {
	if e, ok := s.hosts.Get(hostKey(name)); ok {
		return e.Value, true
	}
	if _, rest, ok := strings.Cut(name, "."); ok {
		if e, ok := s.hosts.Get(hostKey("*." + rest)); ok {
			return e.Value, true
		}
	}
	return host{}, false
}

// opened keeps what was brought in the form that handshakes want.
type opened struct {
	mu  sync.Mutex // guards all
	all map[string]openedCertificate
}

type openedCertificate struct {
	sealed []byte
	cert   *tls.Certificate
}

// brought opens the record's certificate; nil if there is none, or the key of this node
// does not open it.
func (s *Store) brought(h host) *tls.Certificate {
	if h.Custom == nil {
		return nil
	}
	s.opened.mu.Lock()
	defer s.opened.mu.Unlock()
	if o, ok := s.opened.all[h.Host]; ok && bytes.Equal(o.sealed, h.Custom) {
		return o.cert
	}
	text, err := s.seal.open(h.App, certificatePlace+h.Host, h.Custom)
	if err != nil {
		return nil
	}
	cert, err := tls.X509KeyPair([]byte(text), []byte(text))
	if err != nil {
		return nil
	}
	if s.opened.all == nil || len(s.opened.all) > 10_000 {
		s.opened.all = map[string]openedCertificate{}
	}
	s.opened.all[h.Host] = openedCertificate{h.Custom, &cert}
	return &cert
}

// certificatePlace binds what is sealed to what it is: no secret has such a name.
const certificatePlace = "certificate of "

// ImportCertificate keeps a certificate and its key for a custom name, which the app gets
// if it does not have it; then the cloud gets none by itself.
func (s *Store) ImportCertificate(ctx context.Context, app string, req api.ImportCertificateRequest) error {
	name := tidyHost(req.Hostname)
	if err := s.checkHost(name); err != nil {
		return api.AsError(err).WithField("hostname")
	}
	text, err := checkCertificate(name, req.Fullchain, req.PrivateKey, time.Now())
	if err != nil {
		return err
	}
	if _, err := s.usable(app); err != nil {
		return err
	}
	_, err = edit(ctx, s.hosts, hostKey(name), func(h *host) error {
		now := time.Now().UTC()
		switch h.App {
		case "": // new: all of it in one write, so that the cloud never sees it without
			*h = host{App: app, Host: name, CreatedAt: now, NoACME: true}
		case app:
		default:
			return hostTaken(name)
		}
		h.Custom, h.UpdatedAt = s.seal.close(app, certificatePlace+name, text), now
		return nil
	})
	return err
}

// RemoveCustomCertificate forgets what was brought for the name.
func (s *Store) RemoveCustomCertificate(ctx context.Context, app, name string) error {
	return s.editHost(ctx, app, name, func(h *host) { h.Custom = nil })
}

// SetACME says whether the cloud gets certificates for the name by itself.
func (s *Store) SetACME(ctx context.Context, app, name string, on bool) error {
	return s.editHost(ctx, app, name, func(h *host) { h.NoACME = !on })
}

func (s *Store) editHost(ctx context.Context, app, name string, change func(*host)) error {
	name = tidyHost(name)
	if _, err := s.HostOf(app, name); err != nil {
		return err
	}
	_, err := edit(ctx, s.hosts, hostKey(name), func(h *host) error {
		if h.App != app {
			return noHost(app, name)
		}
		change(h)
		h.UpdatedAt = time.Now().UTC()
		return nil
	})
	return err
}

func noHost(app, name string) error {
	return api.Errorf(api.CodeNotFound, "app %q has no host %q", app, api.Clip(name)).WithField("host")
}

func tidyHost(name string) string { return strings.TrimSuffix(strings.ToLower(name), ".") }

// checkCertificate returns chain and key as one text of PEM, or says what is wrong with
// them.
func checkCertificate(name, chain, key string, now time.Time) (string, error) {
	if len(chain) > maxPEM || len(key) > maxPEM {
		return "", invalid("fullchain", "the certificate or its key has more than %d bytes", maxPEM)
	}
	certs, err := parseChain(chain)
	if err != nil {
		return "", err
	}
	leaf := certs[0]
	switch {
	case now.After(leaf.NotAfter):
		return "", invalid("fullchain", "the certificate ran out on %s", leaf.NotAfter.Format(time.RFC3339))
	case now.Before(leaf.NotBefore):
		return "", invalid("fullchain", "the certificate is not good before %s", leaf.NotBefore.Format(time.RFC3339))
	case !covers(leaf, name):
		return "", invalid("hostname", "the certificate is for %s, not for %q", strings.Join(leaf.DNSNames, ", "), name)
	}
	for i, c := range certs[1:] {
		if certs[i].CheckSignatureFrom(c) != nil {
			return "", invalid("fullchain", "certificate %d of the chain does not vouch for the one before it", i+2).
				WithHint("the certificate comes first, then the one that signed it, and so on")
		}
	}
	if key = keyBlock(key); key == "" {
		return "", invalid("private_key", "there is no private key in PEM in it").WithHint("a key with a passphrase cannot be used")
	}
	text := pemOf(certs) + key
	if _, err := tls.X509KeyPair([]byte(text), []byte(key)); err != nil {
		return "", invalid("private_key", "the key cannot be used: %v", strings.TrimPrefix(err.Error(), "tls: "))
	}
	return text, nil
}

func parseChain(chain string) (out []*x509.Certificate, err error) {
	for rest := []byte(chain); ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		if b.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(b.Bytes)
		if err != nil || len(out) == 10 {
			return nil, invalid("fullchain", "certificate %d of the chain cannot be read: %v", len(out)+1, err)
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, invalid("fullchain", "there is no certificate in PEM in it")
	}
	return out, nil
}

// covers reports whether the certificate is for the name, which may be a wildcard.
func covers(c *x509.Certificate, name string) bool {
	if strings.HasPrefix(name, "*.") {
		return slices.Contains(c.DNSNames, name)
	}
	return c.VerifyHostname(name) == nil
}

func pemOf(certs []*x509.Certificate) string {
	var b strings.Builder
	for _, c := range certs {
		b.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	}
	return b.String()
}

// keyBlock is the private key alone, without what else the text holds.
func keyBlock(text string) string {
	for rest := []byte(text); ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			return ""
		}
		if strings.HasSuffix(b.Type, "PRIVATE KEY") && b.Type != "ENCRYPTED PRIVATE KEY" {
			return string(pem.EncodeToMemory(&pem.Block{Type: b.Type, Bytes: b.Bytes}))
		}
	}
}
