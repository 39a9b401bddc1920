package cluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"time"
)

const (
	authorityLife = 20 * 365 * 24 * time.Hour
	nodeLife      = 365 * 24 * time.Hour
	// backdate is how much the clocks of two nodes may differ.
	backdate = time.Hour
)

// authority signs the nodes' certificates. Without key it only knows them.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey // nil on nodes without the role state
	pool *x509.CertPool
}

func newAuthority(id string, now time.Time) (*authority, error) {
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		Subject:   pkix.Name{CommonName: "Perigee cluster " + id, Organization: []string{"Perigee"}},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(authorityLife), IsCA: true, BasicConstraintsValid: true,
		MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}
	cert, err := sign(t, t, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	return withPool(cert, key), nil
}

func withPool(cert *x509.Certificate, key *ecdsa.PrivateKey) *authority {
	a := &authority{cert: cert, key: key, pool: x509.NewCertPool()}
	a.pool.AddCert(cert)
	return a
}

// certify signs a node's certificate.
func (a *authority) certify(node string, pub *ecdsa.PublicKey, now time.Time) (*x509.Certificate, error) {
	if a.key == nil {
		return nil, errors.New("cannot certify a node: the authority's key is not on this node")
	}
	return sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: node, Organization: []string{"Perigee"}}, DNSNames: []string{ServerName(node)},
		URIs:      []*url.URL{{Scheme: "perigee", Host: ServerName(node)}},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(nodeLife), BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.cert, pub, a.key)
}

// verify checks that the authority certified the node, now, for both ends of a
// connection. Its words tell a wrong clock from a wrong certificate.
func (a *authority) verify(cert *x509.Certificate, now time.Time) error {
	if err := inTime(cert, now); err != nil {
		return err
	}
	_, err := cert.Verify(x509.VerifyOptions{Roots: a.pool, CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}})
	if err != nil || cert.IsCA || !nodeName.MatchString(cert.Subject.CommonName) {
		return errors.New("certificate is not from this cloud's authority")
	}
	return nil
}

// ErrClock is in errors that come from clocks which differ too much.
var ErrClock = errors.New("clocks differ")

func inTime(cert *x509.Certificate, now time.Time) error {
	switch {
	case now.Before(cert.NotBefore):
		return fmt.Errorf("certificate is not valid yet: %w by %s or more; set this server's clock, and that of node %q",
			ErrClock, cert.NotBefore.Add(backdate).Sub(now).Round(time.Minute), cert.Subject.CommonName)
	case now.After(cert.NotAfter):
		return fmt.Errorf("certificate of node %q expired on %s: it was not renewed in time, or this server's clock is wrong (it says %s)",
			cert.Subject.CommonName, cert.NotAfter.UTC().Format(time.DateOnly), now.UTC().Format(time.DateTime))
	}
	return nil
}

func newKey() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

func sign(t, parent *x509.Certificate, pub *ecdsa.PublicKey, key *ecdsa.PrivateKey) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	t.SerialNumber = serial
	der, err := x509.CreateCertificate(rand.Reader, t, parent, pub, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func serialOf(c *x509.Certificate) string { return c.SerialNumber.Text(16) }

// keyHash names a public key.
func keyHash(pub *ecdsa.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:]), nil
}

// request makes a certificate request; it proves that the key is held.
func request(node string, key *ecdsa.PrivateKey) ([]byte, error) {
	return x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: node}}, key)
}

// requestKey checks a certificate request and returns its key.
func requestKey(der []byte) (*ecdsa.PublicKey, error) {
	r, err := x509.ParseCertificateRequest(der)
	if err != nil || r.CheckSignature() != nil {
		return nil, errors.New("cannot read the certificate request")
	}
	pub, ok := r.PublicKey.(*ecdsa.PublicKey)
	if !ok || pub.Curve != elliptic.P256() {
		return nil, errors.New("cannot certify the key: want ECDSA P-256")
	}
	return pub, nil
}

func certPEM(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

func keyPEM(k *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// readPEM finds a certificate and a key; either may be missing.
func readPEM(b []byte) (cert *x509.Certificate, key *ecdsa.PrivateKey, err error) {
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		switch block.Type {
		case "CERTIFICATE":
			if cert, err = x509.ParseCertificate(block.Bytes); err != nil {
				return nil, nil, err
			}
		case "PRIVATE KEY":
			k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			if err != nil {
				return nil, nil, err
			}
			key, _ = k.(*ecdsa.PrivateKey)
		}
	}
	if cert == nil && key == nil {
		return nil, nil, errors.New("holds neither certificate nor key")
	}
	return cert, key, nil
}
