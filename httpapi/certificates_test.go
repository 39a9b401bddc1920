package httpapi

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/perigee-run/perigee/api"
)

// issue makes a certificate for names, and its key.
func issue(t testing.TB, until time.Time, names ...string) (chain, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: names, Subject: pkix.Name{Organization: []string{"Own Authority"}},
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: until}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	priv, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: priv}))
}

// TestCertificates walks through the life of a name.
func TestCertificates(t *testing.T) {
	k := newKit(t)
	k.app(t, "shop")
	c, err := k.CreateCertificate(t.Context(), "shop", "Shop.example.com")
	if err != nil || c.Status != "active" || !c.Configured || !c.AcmeRequested || len(c.Certificates) != 1 || c.Certificates[0].Source != "fly" {
		t.Fatalf("added: %+v %v", c, err)
	}
	if !c.Validation.OwnershipTxtConfigured || c.DNSRequirements.CNAME != "shop.node.example" || c.DNSRequirements.A[0] != "192.0.2.7" {
		t.Errorf("what the DNS should say: %+v", c)
	}
	if hosts, _ := k.apps.AllHosts()["shop"]; len(hosts) != 1 || hosts[0] != "shop.example.com" {
		t.Errorf("hosts %v", hosts)
	}
	chain, key := issue(t, time.Now().Add(time.Hour), "*.example.com")
	c, err = k.ImportCertificate(t.Context(), "shop", api.ImportCertificateRequest{Hostname: "shop.example.com", Fullchain: chain, PrivateKey: key})
	if err != nil || len(c.Certificates) != 2 || c.Certificates[0].Source != "custom" || c.Certificates[0].Issuer != "Own Authority" || !c.AcmeRequested {
		t.Fatalf("brought: %+v %v", c, err)
	}
	if own := k.apps.CustomCertificate("SHOP.example.com."); own == nil || own.Leaf.DNSNames[0] != "*.example.com" {
		t.Error("handshakes do not get what was brought")
	}
	if c, err = k.CheckCertificate(t.Context(), "shop", "away.example.com"); !api.IsCode(err, api.CodeNotFound) {
		t.Errorf("a name that the app does not have: %+v %v", c, err)
	}
	if c, err = k.ImportCertificate(t.Context(), "shop", api.ImportCertificateRequest{Hostname: "away.example.com", Fullchain: chain, PrivateKey: key}); err != nil || c.AcmeRequested || c.Configured ||
		len(c.ValidationErrors) != 1 || !strings.Contains(c.ValidationErrors[0].Message, "198.51.100.1") {
		t.Errorf("a name that leads elsewhere: %+v %v", c, err)
	}
	if err := k.DeleteCustomCertificate(t.Context(), "shop", "away.example.com"); err != nil {
		t.Error(err)
	}
	if err := k.DeleteCustomCertificate(t.Context(), "shop", "away.example.com"); !api.IsCode(err, api.CodeNotFound) {
		t.Errorf("forgotten twice: %v", err)
	}
	if c, err = k.CheckCertificate(t.Context(), "shop", "away.example.com"); err != nil || c.Status != "pending" || len(c.Certificates) != 0 {
		t.Errorf("a name without any: %+v %v", c, err)
	}
	all, err := k.ListCertificates(t.Context(), "shop", "", 0)
	for _, l := range all.Certificates {
		if c, err := k.CheckCertificate(t.Context(), "shop", l.Hostname); err != nil || l.Configured != c.Configured || l.AcmeHTTPConfigured != c.Validation.HTTPConfigured {
			t.Errorf("the list says %+v, shown is %+v %v", l, c, err)
		}
	}
	if err != nil || len(all.Certificates) != 2 || all.Certificates[0].Configured == all.Certificates[1].Configured {
		t.Errorf("one of two names leads here: %+v %v", all, err)
	}
	first, err := k.ListCertificates(t.Context(), "shop", "", 1)
	if err != nil || first.TotalCount != 2 || len(first.Certificates) != 1 || first.NextCursor != "away.example.com" {
		t.Fatalf("first part: %+v %v", first, err)
	}
	rest, err := k.ListCertificates(t.Context(), "shop", first.NextCursor, 5)
	if err != nil || len(rest.Certificates) != 1 || !rest.Certificates[0].HasCustomCertificate || !rest.Certificates[0].HasFlyCertificate {
		t.Errorf("rest: %+v %v", rest, err)
	}
	if err := k.DeleteACMECertificate(t.Context(), "shop", "shop.example.com"); err != nil || k.apps.MayACME("shop.example.com") {
		t.Errorf("no more by itself: %v", err)
	}
	if err := k.DeleteCertificate(t.Context(), "shop", "shop.example.com"); err != nil || k.apps.CustomCertificate("shop.example.com") != nil {
		t.Errorf("removed: %v", err)
	}
}

// TestCertificatesRefused: what cannot be used changes nothing.
func TestCertificatesRefused(t *testing.T) {
	k := newKit(t)
	k.app(t, "shop")
	k.app(t, "blog")
	if err := k.AddHost(t.Context(), "blog", "taken.example.com"); err != nil {
		t.Fatal(err)
	}
	chain, key := issue(t, time.Now().Add(time.Hour), "shop.example.com", "taken.example.com")
	other, otherKey := issue(t, time.Now().Add(time.Hour), "shop.example.com")
	old, oldKey := issue(t, time.Now().Add(-time.Hour), "shop.example.com")
	for _, c := range []struct{ host, chain, key, code, field string }{
		{"shop.example.com", "", key, api.CodeInvalid, "fullchain"},
		{"shop.example.com", "nonsense", key, api.CodeInvalid, "fullchain"},
		{"shop.example.com", chain, "", api.CodeInvalid, "private_key"},
		{"shop.example.com", chain, otherKey, api.CodeInvalid, "private_key"},
		{"shop.example.com", chain + other, key, api.CodeInvalid, "fullchain"},
		{"shop.example.com", old, oldKey, api.CodeInvalid, "fullchain"},
		{"away.example.com", chain, key, api.CodeInvalid, "hostname"},
		{"*.example.com", chain, key, api.CodeInvalid, "hostname"},
		{"shop", chain, key, api.CodeInvalid, "hostname"},
		{"taken.example.com", chain, key, api.CodeNameTaken, "host"},
	} {
		_, err := k.ImportCertificate(t.Context(), "shop", api.ImportCertificateRequest{Hostname: c.host, Fullchain: c.chain, PrivateKey: c.key})
		if e := api.AsError(err); !api.IsCode(err, c.code) || e.Field != c.field || strings.Contains(e.Message, "PRIVATE") {
			t.Errorf("%s: %+v, want %s about %s", c.host, e, c.code, c.field)
		}
	}
	if list, err := k.ListCertificates(t.Context(), "shop", "", 0); err != nil || list.TotalCount != 0 {
		t.Errorf("something stayed: %+v %v", list, err)
	}
}
