package app

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"testing"
	"time"

	"github.com/perigee-run/perigee/api"
)

// issued is a certificate for a name, as its owner brings it.
func issued(t *testing.T, name string) api.ImportCertificateRequest {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	priv, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return api.ImportCertificateRequest{Hostname: name, Fullchain: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		PrivateKey: string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: priv}))}
}

// TestImportIsOneWrite: a crash cannot leave a name whose owner brings a certificate as
// one that the cloud is to get certificates for.
func TestImportIsOneWrite(t *testing.T) {
	s, _ := open(t, t.TempDir(), Config{})
	create(t, s, "shop")
	if err := s.AddHost(t.Context(), "shop", "old.example.com"); err != nil {
		t.Fatal(err)
	}
	before, _ := s.hosts.Get("old.example.com")
	for i, name := range []string{"new.example.com", "old.example.com"} {
		if err := s.ImportCertificate(t.Context(), "shop", issued(t, name)); err != nil {
			t.Fatal(err)
		}
		e, _ := s.hosts.Get(name)
		if want := before.Revision + uint64(i) + 1; e.Revision != want {
			t.Errorf("%s is of revision %d, want %d: the record was written more than once", name, e.Revision, want)
		}
		if h, err := s.HostOf("shop", name); err != nil || h.Custom == nil || h.ACME != (name == "old.example.com") || h.CreatedAt.IsZero() {
			t.Errorf("%+v, %v", h, err)
		}
	}
}
