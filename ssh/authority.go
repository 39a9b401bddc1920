package ssh

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	gossh "golang.org/x/crypto/ssh"
)

// leeway is how much the clocks of a client and a node may differ.
const leeway = 5 * time.Minute

// hostValid is how long the certificate that a server shows lasts; it is made
// anew for every connection.
const hostValid = 24 * time.Hour

// Authority is the certificate authorities of all orgs: each has one for people
// and one for machines. Their keys are derived from one secret.
type Authority struct{ secret []byte }

// NewAuthority takes the secret that all nodes of a cloud share, 32 bytes or
// more.
func NewAuthority(secret []byte) (*Authority, error) {
	if len(secret) < 32 {
		return nil, fmt.Errorf("cannot use the SSH secret: it has %d bytes, and 32 are needed", len(secret))
	}
	return &Authority{bytes.Clone(secret)}, nil
}

// key derives the key of one purpose. The names in it hold no slash.
func (a *Authority) key(purpose ...string) gossh.Signer {
	seed, err := hkdf.Key(sha256.New, a.secret, nil, "perigee/ssh/"+strings.Join(purpose, "/"), ed25519.SeedSize)
	if err == nil {
		var s gossh.Signer
		if s, err = gossh.NewSignerFromKey(ed25519.NewKeyFromSeed(seed)); err == nil {
			return s
		}
	}
	panic(err) // of its own arguments only, which are right
}

func (a *Authority) users(org string) gossh.Signer { return a.key("users", org) }
func (a *Authority) hosts(org string) gossh.Signer { return a.key("hosts", org) }

// Keys returns the org's authorities, as lines for authorized_keys and
// known_hosts: that of people and that of machines.
func (a *Authority) Keys(org string) (users, hosts string) {
	return line(a.users(org).PublicKey(), ""), line(a.hosts(org).PublicKey(), "")
}

// line is a key as OpenSSH writes it, without the end of the line.
func line(k gossh.PublicKey, comment string) string {
	s := strings.TrimSuffix(string(gossh.MarshalAuthorizedKey(k)), "\n")
	if comment != "" {
		s += " " + comment
	}
	return s
}

// host is what the server shows for a machine: its key, and the same with a
// certificate.
func (a *Authority) host(m Machine, now time.Time) (plain, certified gossh.Signer, err error) {
	plain = a.key("machine", m.Org, m.ID)
	cert := &gossh.Certificate{
		Key: plain.PublicKey(), Serial: serial(), CertType: gossh.HostCert, KeyId: m.ID, ValidPrincipals: Names(m.App, m.ID),
		ValidAfter: uint64(now.Add(-leeway).Unix()), ValidBefore: uint64(now.Add(hostValid).Unix()),
	}
	if err := cert.SignCert(rand.Reader, a.hosts(m.Org)); err != nil {
		return nil, nil, err
	}
	certified, err = gossh.NewCertSigner(cert, plain)
	return plain, certified, err
}

// Names are the host names under which clients know a machine: its own, and its
// app's, which means any machine of the app.
func Names(app, id string) []string {
	return []string{id + ".vm." + app + ".internal", app + ".internal", id}
}

func serial() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return binary.BigEndian.Uint64(b[:])
}

var errNoCertificate = errors.New("this server lets in certificates only; perigee ssh issue makes one")

// Check reports what a certificate is good for, if it opens the machine to the
// user: it is one of the org's, of now, and names all three. Whether its token
// still is good is another question.
func (a *Authority) Check(key gossh.PublicKey, user string, m Machine, now time.Time) (Grant, error) {
	cert, ok := key.(*gossh.Certificate)
	if !ok {
		return Grant{}, errNoCertificate
	}
	if cert.CertType != gossh.UserCert {
		return Grant{}, errors.New("the certificate is a machine's, not a person's")
	}
	if ca := a.users(m.Org).PublicKey(); cert.SignatureKey == nil || !bytes.Equal(cert.SignatureKey.Marshal(), ca.Marshal()) {
		return Grant{}, fmt.Errorf("the certificate is not of org %q, which machine %s belongs to", m.Org, m.ID)
	}
	checker := gossh.CertChecker{SupportedCriticalOptions: options, Clock: func() time.Time { return now }}
	if err := checker.CheckCert(user, cert); err != nil {
		return Grant{}, explain(err, cert, user, now)
	}
	g, err := grantOf(cert)
	if err == nil {
		err = g.covers(user, m)
	}
	return g, err
}

// explain puts the two refusals that people meet into words.
func explain(err error, cert *gossh.Certificate, user string, now time.Time) error {
	if end := time.Unix(int64(min(cert.ValidBefore, 1<<62)), 0); now.After(end) {
		return fmt.Errorf("the certificate ended %s ago; perigee ssh issue makes another", now.Sub(end).Round(time.Second))
	}
	if !holds(cert.ValidPrincipals, user) {
		return fmt.Errorf("the certificate is not for user %q, but for %s", user, strings.Join(cert.ValidPrincipals, ", "))
	}
	return err
}
