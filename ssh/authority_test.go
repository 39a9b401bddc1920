package ssh

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"strings"
	"testing"
	"time"

	"github.com/perigee-run/perigee/api"
	gossh "golang.org/x/crypto/ssh"
)

func TestCheck(t *testing.T) {
	a, key, now := authority(t), newKey(t), time.Now()
	request := func(users, apps, machines string) api.SSHCertificateRequest {
		return api.SSHCertificateRequest{Principals: list(users), Apps: list(apps), Machines: list(machines)}
	}
	sign := func(edit func(*gossh.Certificate), by gossh.Signer) gossh.PublicKey {
		c := certificate(t, a, key, "acme", request("", "", ""), now)
		edit(c)
		if err := c.SignCert(rand.Reader, by); err != nil {
			t.Fatal(err)
		}
		return c
	}
	other, err := NewAuthority([]byte(strings.Repeat("x", 32)))
	if err != nil {
		t.Fatal(err)
	}
	changed := certificate(t, a, key, "acme", request("", "other", ""), now)
	changed.CriticalOptions[optApps] = "shop"
	host, _, _ := a.host(shop, now)
	_, hostCert, _ := a.host(shop, now)
	for name, c := range map[string]struct {
		key  gossh.PublicKey
		user string
		want string // "" means in
	}{
		"all of the org":         {certificate(t, a, key, "acme", request("", "", ""), now), "root", ""},
		"this app":               {certificate(t, a, key, "acme", request("", "db,shop", ""), now), "root", ""},
		"this machine":           {certificate(t, a, key, "acme", request("root,www-data", "", "m0,m1"), now), "www-data", ""},
		"a plain key":            {key.PublicKey(), "root", "certificates only"},
		"another org":            {certificate(t, a, key, "evil", request("", "", ""), now), "root", "not of org"},
		"another cloud":          {certificate(t, other, key, "acme", request("", "", ""), now), "root", "not of org"},
		"another app":            {certificate(t, a, key, "acme", request("", "db", ""), now), "root", "not for app"},
		"another machine":        {certificate(t, a, key, "acme", request("", "", "m2"), now), "root", "not for machine"},
		"another user":           {certificate(t, a, key, "acme", request("www-data", "", ""), now), "root", "not for user"},
		"ended":                  {certificate(t, a, key, "acme", request("", "", ""), now.Add(-2*time.Hour)), "root", "ended 1h"},
		"not begun":              {certificate(t, a, key, "acme", request("", "", ""), now.Add(time.Hour)), "root", "not yet valid"},
		"changed after signing":  {changed, "root", "signature"},
		"a machine's key":        {host.PublicKey(), "root", "certificates only"},
		"a machine's own":        {hostCert.PublicKey(), "root", "machine's"},
		"signed by the machines": {sign(func(*gossh.Certificate) {}, a.hosts("acme")), "root", "not of org"},
		"signed by itself":       {sign(func(*gossh.Certificate) {}, key), "root", "not of org"},
		"no user":                {sign(func(c *gossh.Certificate) { c.ValidPrincipals = nil }, a.users("acme")), "root", "no user"},
		"no org":                 {sign(func(c *gossh.Certificate) { delete(c.CriticalOptions, optOrg) }, a.users("acme")), "root", "no org"},
		"org of another":         {sign(func(c *gossh.Certificate) { c.CriticalOptions[optOrg] = "evil" }, a.users("acme")), "root", "for org"},
		"an unknown option":      {sign(func(c *gossh.Certificate) { c.CriticalOptions["force-command"] = "true" }, a.users("acme")), "root", "unsupported critical option"},
		"a host's type":          {sign(func(c *gossh.Certificate) { c.CertType = gossh.HostCert }, a.users("acme")), "root", "machine's"},
	} {
		g, err := a.Check(c.key, c.user, shop, now)
		if c.want == "" && (err != nil || g.Who != "ann" || g.Token != "t1") {
			t.Errorf("%s: %+v, %v", name, g, err)
		}
		if c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
}

func TestIssueRefuses(t *testing.T) {
	a, good := authority(t), line(newKey(t).PublicKey(), "")
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	short, err := gossh.NewPublicKey(&weak.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	cert := line(certificate(t, a, newKey(t), "acme", api.SSHCertificateRequest{}, time.Now()), "")
	for _, c := range []struct {
		field string
		req   api.SSHCertificateRequest
	}{
		{"public_key", api.SSHCertificateRequest{}},
		{"public_key", api.SSHCertificateRequest{PublicKey: "ssh-ed25519 AAAA"}},
		{"public_key", api.SSHCertificateRequest{PublicKey: line(short, "")}},
		{"public_key", api.SSHCertificateRequest{PublicKey: cert}},
		{"valid_hours", api.SSHCertificateRequest{PublicKey: good, ValidHours: 73}},
		{"valid_hours", api.SSHCertificateRequest{PublicKey: good, ValidHours: -1}},
		{"principals", api.SSHCertificateRequest{PublicKey: good, Principals: []string{"root,admin"}}},
		{"principals", api.SSHCertificateRequest{PublicKey: good, Principals: make([]string, 65)}},
		{"apps", api.SSHCertificateRequest{PublicKey: good, Apps: []string{"shop,db"}}},
		{"machines", api.SSHCertificateRequest{PublicKey: good, Machines: []string{""}}},
	} {
		_, err := a.Issue("acme", "ann", "", time.Time{}, c.req)
		if !api.IsCode(err, api.CodeInvalid) || api.AsError(err).Field != c.field {
			t.Errorf("%+v: %v, want a word about %s", c.req, err, c.field)
		}
	}
}

// TestTokenEndsFirst gives no certificate that outlives what it was asked for with.
func TestTokenEndsFirst(t *testing.T) {
	a, end := authority(t), time.Now().Add(10*time.Minute).Truncate(time.Second)
	req := api.SSHCertificateRequest{PublicKey: line(newKey(t).PublicKey(), ""), ValidHours: 5}
	for _, c := range []struct{ end, want time.Time }{{end, end}, {end.AddDate(1, 0, 0), time.Now().Add(5 * time.Hour)}} {
		made, err := a.Issue("acme", "ann", "t1", c.end, req)
		if off := made.ExpiresAt.Sub(c.want).Abs(); err != nil || off > 2*time.Second {
			t.Errorf("ends %s, want %s, %v", made.ExpiresAt, c.want, err)
		}
	}
}

// TestNodesAgree checks that one node's certificates open the other's machines,
// and that orgs have nothing in common.
func TestNodesAgree(t *testing.T) {
	u1, h1 := authority(t).Keys("acme")
	u2, h2 := authority(t).Keys("acme")
	u3, h3 := authority(t).Keys("evil")
	if u1 != u2 || h1 != h2 || u1 == u3 || h1 == h3 || u1 == h1 {
		t.Errorf("%q %q, %q %q, %q %q", u1, h1, u2, h2, u3, h3)
	}
	if _, err := NewAuthority(secret[:31]); err == nil {
		t.Error("a short secret is taken")
	}
}

// FuzzCheck lets in nothing but what the authority has signed.
func FuzzCheck(f *testing.F) {
	a, err := NewAuthority(secret)
	if err != nil {
		f.Fatal(err)
	}
	now := time.Unix(1_790_000_000, 0)
	// The same in every process of the fuzzer.
	good := certificate(f, a, a.key("fuzz"), "acme", api.SSHCertificateRequest{Apps: []string{"shop"}}, now)
	good.Serial = 7
	if err := good.SignCert(bytes.NewReader(make([]byte, 64)), a.users("acme")); err != nil {
		f.Fatal(err)
	}
	f.Add(good.Marshal(), "root")
	f.Add(good.Key.Marshal(), "root")
	f.Add(certificate(f, a, newKey(f), "evil", api.SSHCertificateRequest{}, now).Marshal(), "root")
	f.Add(good.Marshal()[:len(good.Marshal())-1], "")
	f.Add([]byte{}, "root")
	f.Fuzz(func(t *testing.T, b []byte, user string) {
		key, err := gossh.ParsePublicKey(b)
		if err != nil {
			return
		}
		g, err := a.Check(key, user, shop, now)
		if err == nil && (g.Org != "acme" || user != "root" || string(key.(*gossh.Certificate).Nonce) != string(good.Nonce)) {
			t.Errorf("lets in %+v as %q", g, user)
		}
	})
}
