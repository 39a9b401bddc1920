package ssh

import (
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"regexp"
	"time"

	"github.com/perigee-run/perigee/api"
	gossh "golang.org/x/crypto/ssh"
)

const (
	defaultHours = 1
	maxHours     = 72
	maxNames     = 64 // of users, apps and machines each
)

// userName is a user or its number, as useradd and Docker know them.
var userName = regexp.MustCompile(`^[a-z0-9_][a-z0-9_.-]{0,31}$`)

// scopeName is an app or a machine.
var scopeName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

// Issue signs a public key for an org. who is the name of the one who asks, token
// the id of the token they ask with, which the certificate depends on, and end when
// that ends; zero if never.
func (a *Authority) Issue(org, who, token string, end time.Time, req api.SSHCertificateRequest) (api.SSHCertificate, error) {
	return a.issue(org, who, token, end, req, time.Now())
}

func (a *Authority) issue(org, who, token string, end time.Time, req api.SSHCertificateRequest, now time.Time) (api.SSHCertificate, error) {
	key, err := order(&req)
	if err != nil {
		return api.SSHCertificate{}, err
	}
	grant := Grant{Who: who, Token: token, Org: org, Users: req.Principals, Apps: req.Apps, Machines: req.Machines, Serial: serial(), Until: end}
	if last := now.Add(time.Duration(req.ValidHours) * time.Hour); end.IsZero() || end.After(last) {
		end = last
	}
	end = end.Truncate(time.Second)
	cert := &gossh.Certificate{
		Key: key, Serial: grant.Serial, CertType: gossh.UserCert, KeyId: who, ValidPrincipals: grant.Users,
		ValidAfter: uint64(now.Add(-leeway).Unix()), ValidBefore: uint64(end.Unix()),
		Permissions: gossh.Permissions{CriticalOptions: grant.options(), Extensions: map[string]string{"permit-pty": "", "permit-port-forwarding": ""}},
	}
	if err := cert.SignCert(rand.Reader, a.users(org)); err != nil {
		return api.SSHCertificate{}, fmt.Errorf("cannot sign the certificate: %w", err)
	}
	users, hosts := a.Keys(org)
	return api.SSHCertificate{
		Certificate: line(cert, who), Serial: fmt.Sprint(grant.Serial), Principals: grant.Users, Apps: grant.Apps, Machines: grant.Machines,
		ExpiresAt: end.UTC(), UserAuthority: users, HostAuthority: hosts,
	}, nil
}

// order checks what is asked for, and fills in what is not said.
func order(req *api.SSHCertificateRequest) (gossh.PublicKey, error) {
	if req.ValidHours == 0 {
		req.ValidHours = defaultHours
	}
	if req.ValidHours < 1 || req.ValidHours > maxHours {
		return nil, invalid("valid_hours", "is %d; it can be 1 to %d", req.ValidHours, maxHours)
	}
	if len(req.Principals) == 0 {
		req.Principals = []string{"root"}
	}
	for _, f := range []struct {
		field string
		names []string
		like  *regexp.Regexp
		what  string
	}{
		{"principals", req.Principals, userName, "a user of a machine: lower-case letters, digits, and . _ -"},
		{"apps", req.Apps, scopeName, "the name of an app"},
		{"machines", req.Machines, scopeName, "the id of a machine"},
	} {
		if len(f.names) > maxNames {
			return nil, invalid(f.field, "has %d names; the most is %d", len(f.names), maxNames)
		}
		for _, n := range f.names {
			if !f.like.MatchString(n) {
				return nil, invalid(f.field, "%q is not %s", api.Clip(n), f.what)
			}
		}
	}
	return publicKey(req.PublicKey)
}

// publicKey reads a line of authorized_keys.
func publicKey(s string) (gossh.PublicKey, error) {
	if s == "" {
		return nil, invalid("public_key", "is missing; it is what a file such as ~/.ssh/id_ed25519.pub holds")
	}
	key, _, _, _, err := gossh.ParseAuthorizedKey([]byte(s))
	if err != nil {
		return nil, invalid("public_key", "is not a public key as OpenSSH writes it, such as \"ssh-ed25519 AAAA…\"")
	}
	switch key.Type() {
	case gossh.KeyAlgoED25519, gossh.KeyAlgoECDSA256, gossh.KeyAlgoECDSA384, gossh.KeyAlgoECDSA521, gossh.KeyAlgoSKED25519, gossh.KeyAlgoSKECDSA256:
		return key, nil
	case gossh.KeyAlgoRSA:
		if rsaBits(key) < 2048 {
			return nil, invalid("public_key", "is an RSA key of %d bits; the least is 2048", rsaBits(key))
		}
		return key, nil
	}
	return nil, invalid("public_key", "is of type %q; it can be ssh-ed25519, ecdsa-sha2-*, ssh-rsa, or one of a security key", key.Type())
}

func rsaBits(key gossh.PublicKey) int {
	if c, ok := key.(gossh.CryptoPublicKey); ok {
		if k, ok := c.CryptoPublicKey().(*rsa.PublicKey); ok {
			return k.N.BitLen()
		}
	}
	return 0
}

func invalid(field, format string, a ...any) *api.Error {
	return api.Errorf(api.CodeInvalid, field+": "+format, a...).WithField(field)
}
