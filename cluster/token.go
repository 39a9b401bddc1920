package cluster

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/base32"
	"strings"

	"github.com/perigee-run/perigee/api"
)

// Token is a join token: its text is on the new node's command line.
type Token struct {
	// ID names it in lists.
	ID string
	// Secret is what it proves; only its hash is kept.
	Secret [20]byte
	// Authority is the SHA-256 of the authority's certificate: the new node knows
	// by it whom it talks to, before it sends anything.
	Authority [sha256.Size]byte
}

const tokenPrefix = "perigee1"

var tokenText = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// String is the text, as [ParseToken] reads it.
func (t Token) String() string {
	return strings.Join([]string{tokenPrefix, t.ID, tokenText.EncodeToString(t.Secret[:]), tokenText.EncodeToString(t.Authority[:])}, "-")
}

const copyToken = "copy the whole line that perigee node token printed"

// ParseToken reads a token's text.
func ParseToken(s string) (t Token, err error) {
	part := strings.Split(strings.TrimSpace(s), "-")
	switch {
	case s == "":
		return t, api.Errorf(api.CodeInvalid, "cannot join without a token").WithHint("make one with perigee node token, on a node of the cloud")
	case part[0] != tokenPrefix:
		return t, api.Errorf(api.CodeInvalid, "cannot read the join token: it does not begin with %s-", tokenPrefix).WithHint(copyToken)
	case len(part) != 4 || len(part[1]) != idLen || !decode(part[1], make([]byte, 5)) || !decode(part[2], t.Secret[:]) || !decode(part[3], t.Authority[:]):
		return Token{}, api.Errorf(api.CodeInvalid, "cannot read the join token: a part of it is missing or changed").WithHint(copyToken)
	}
	t.ID = part[1]
	return t, nil
}

const idLen = 8

// decode fills all of out, and takes one text for it only.
func decode(s string, out []byte) bool {
	b, err := tokenText.DecodeString(s)
	if err != nil || len(b) != len(out) || tokenText.EncodeToString(b) != s {
		return false
	}
	copy(out, b)
	return true
}

func newToken(authority *x509.Certificate) Token {
	t := Token{ID: randomID(), Authority: sha256.Sum256(authority.Raw)}
	_, _ = rand.Read(t.Secret[:]) // it never fails
	return t
}

func randomID() string {
	b := make([]byte, 5)
	_, _ = rand.Read(b) // it never fails
	return tokenText.EncodeToString(b)
}

func (t Token) hash() []byte {
	sum := sha256.Sum256(t.Secret[:])
	return sum[:]
}

// proves compares in constant time.
func (t Token) proves(hash []byte) bool { return subtle.ConstantTimeCompare(t.hash(), hash) == 1 }
