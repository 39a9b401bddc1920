// Package localca is a certificate authority of this machine's own, for TLS where no public one can reach: on a laptop,
// in a test, in a closed network. It makes a root once, keeps it, and signs a leaf for each host when it is first asked
// for.
//
// It is not for hosts that the public can reach: those get certificates by ACME, see package certs. Who trusts the root
// trusts whoever can read its key, which is therefore readable by its owner only.
package localca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/perigee-run/perigee/internal/durable"
)

const (
	rootLife = 10 * 365 * 24 * time.Hour
	leafLife = 90 * 24 * time.Hour
	maxLeafs = 4096 // kept in memory; when there are more, all are made anew
)

// CA is an authority. Its methods may be called from any goroutine.
type CA struct {
	dir  string
	root *x509.Certificate
	key  *ecdsa.PrivateKey

	mu    sync.Mutex // guards leafs
	leafs map[string]*tls.Certificate
}

// Open reads the authority in dir, or makes it there: root.pem, and root.key with mode 0600. name goes into the
// certificate, so that people can tell one machine's from another's.
func Open(dir, name string) (*CA, error) {
	ca := &CA{dir: dir, leafs: map[string]*tls.Certificate{}}
	err := ca.load()
	if errors.Is(err, fs.ErrNotExist) {
		err = ca.create(name)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open local certificate authority in %q: %w", dir, err)
	}
	return ca, nil
}

// RootPath is the root certificate's file, in PEM: what a browser or system must be told to trust.
func (ca *CA) RootPath() string { return filepath.Join(ca.dir, "root.pem") }

// Root is the root certificate.
func (ca *CA) Root() *x509.Certificate { return ca.root }

func (ca *CA) keyPath() string { return filepath.Join(ca.dir, "root.key") }

func (ca *CA) load() error {
	pair, err := tls.LoadX509KeyPair(ca.RootPath(), ca.keyPath())
	if err != nil {
		return err
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok || !pair.Leaf.IsCA {
		return errors.New("root.pem and root.key are not of an authority made here; move them away to have a new one made")
	}
	if time.Now().After(pair.Leaf.NotAfter) {
		return fmt.Errorf("root.pem has expired on %s; move it away to have a new one made", pair.Leaf.NotAfter.Format(time.DateOnly))
	}
	ca.root, ca.key = pair.Leaf, key
	return nil
}

// create makes the root. The key is in place before the certificate: a crash in between leaves a key that nothing uses.
func (ca *CA) create(name string) error {
	if err := os.MkdirAll(ca.dir, 0o755); err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	root := &x509.Certificate{
		Subject:  pkix.Name{CommonName: "Perigee local CA " + name, Organization: []string{"Perigee"}},
		NotAfter: time.Now().Add(rootLife), IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := sign(root, root, &key.PublicKey, key)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := durable.WriteFile(ca.keyPath(), 0o600, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})); err != nil {
		return err
	}
	if err := durable.WriteFile(ca.RootPath(), 0o644, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})); err != nil {
		return err
	}
	return ca.load()
}

// sign fills in what all our certificates share, and signs.
func sign(t, parent *x509.Certificate, pub *ecdsa.PublicKey, key *ecdsa.PrivateKey) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	t.SerialNumber, t.NotBefore = serial, time.Now().Add(-time.Hour) // clocks differ a little
	return x509.CreateCertificate(rand.Reader, t, parent, pub, key)
}

// GetCertificate is for tls.Config: a leaf for the server name, or for the address that was connected to if there is none.
func (ca *CA) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	name := strings.ToLower(strings.TrimSuffix(hello.ServerName, "."))
	if name == "" && hello.Conn != nil {
		name, _, _ = net.SplitHostPort(hello.Conn.LocalAddr().String())
	}
	return ca.Leaf(name)
}

// Leaf is the certificate for a host name or an IP address. It is made when it is first asked for and kept in memory.
func (ca *CA) Leaf(host string) (*tls.Certificate, error) {
	if host == "" || len(host) > 253 || strings.ContainsAny(host, "/ *@") {
		return nil, fmt.Errorf("cannot make a certificate for %q: it is not a host name", host)
	}
	ca.mu.Lock()
	defer ca.mu.Unlock()
	if leaf := ca.leafs[host]; leaf != nil && time.Until(leaf.Leaf.NotAfter) > leafLife/3 {
		return leaf, nil
	}
	leaf, err := ca.newLeaf(host)
	if err != nil {
		return nil, fmt.Errorf("cannot make a certificate for %q: %w", host, err)
	}
	if len(ca.leafs) >= maxLeafs {
		clear(ca.leafs)
	}
	ca.leafs[host] = leaf
	return leaf, nil
}

func (ca *CA) newLeaf(host string) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	leaf := &x509.Certificate{
		NotAfter: time.Now().Add(leafLife), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if len(host) <= 64 { // the longest common name there may be
		leaf.Subject.CommonName = host
	}
	if ip := net.ParseIP(host); ip != nil {
		leaf.IPAddresses = []net.IP{ip}
	} else {
		leaf.DNSNames = []string{host}
	}
	der, err := sign(leaf, ca.root, &key.PublicKey, ca.key)
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParseCertificate(der)
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: parsed}, err
}
