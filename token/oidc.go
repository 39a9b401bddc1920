package token

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/perigee-run/perigee/api"
)

// Issuer signs words about machines, which other services believe by OpenID
// Connect. All nodes have the same key, and so say the same.
type Issuer struct {
	url    string
	public []byte
	id     string
	sign   jose.Signer
}

// idValid is how long a word is worth something.
const idValid = 10 * time.Minute

// NewIssuer makes the signing key from the shared one. The URL is where others find
// the issuer's documents, without a slash at its end.
func NewIssuer(url string, shared []byte) (*Issuer, error) {
	key, err := signingKey(shared)
	if err != nil {
		return nil, fmt.Errorf("cannot make the key of identity tokens: %w", err)
	}
	public, err := key.PublicKey.Bytes()
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(public)
	i := &Issuer{url: url, public: public, id: hex.EncodeToString(sum[:8])}
	i.sign, err = jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: i.id}}, (&jose.SignerOptions{}).WithType("JWT"))
	return i, err
}

// signingKey is the same for the same shared key: candidates are drawn from it until
// one is a number of the curve, which nearly all are.
func signingKey(shared []byte) (*ecdsa.PrivateKey, error) {
	for n := range 16 {
		b, err := hkdf.Key(sha256.New, shared, nil, fmt.Sprintf("perigee oidc es256 %d", n), 32)
		if err != nil {
			return nil, err
		}
		if key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), b); err == nil {
			return key, nil
		}
	}
	return nil, errors.New("no candidate fits the curve")
}

// Identity is what a machine is, in Fly's claims.
type Identity struct {
	AppID          string `json:"app_id"`
	AppName        string `json:"app_name"`
	Image          string `json:"image,omitempty"`
	ImageDigest    string `json:"image_digest,omitempty"`
	MachineID      string `json:"machine_id"`
	MachineName    string `json:"machine_name"`
	MachineVersion string `json:"machine_version"`
	OrgID          string `json:"org_id"`
	OrgName        string `json:"org_name"`
	Region         string `json:"region"`
}

// Sign is the machine's identity for an audience; with none it is the issuer's
// address with the org.
func (i *Issuer) Sign(who Identity, audience string) (string, error) {
	if audience == "" {
		audience = i.url + "/" + who.OrgName
	}
	now := time.Now()
	var nonce [16]byte
	rand.Read(nonce[:])
	return jwt.Signed(i.sign).Claims(jwt.Claims{
		Issuer: i.url, Subject: who.OrgName + ":" + who.AppName + ":" + who.MachineName, Audience: jwt.Audience{audience}, ID: hex.EncodeToString(nonce[:]),
		IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now.Add(-5 * time.Second)), Expiry: jwt.NewNumericDate(now.Add(idValid)),
	}).Claims(who).Serialize()
}

// Configuration is the issuer's document of OpenID Connect.
func (i *Issuer) Configuration() api.OIDCConfiguration {
	return api.OIDCConfiguration{
		Issuer: i.url, KeysURI: i.url + "/.well-known/jwks",
		Algorithms: []string{"ES256"}, Responses: []string{"id_token"}, Subjects: []string{"public"}, Scopes: []string{"openid"},
		Claims: []string{"sub", "aud", "exp", "iat", "iss", "jti", "nbf", "app_id", "app_name", "image", "image_digest", "machine_id",
			"machine_name", "machine_version", "org_id", "org_name", "region"},
	}
}

// Keys is the document of the keys that signatures are checked by.
func (i *Issuer) Keys() api.OIDCKeys {
	point := i.public[1:] // after the byte that says it is whole
	text := base64.RawURLEncoding.EncodeToString
	return api.OIDCKeys{Keys: []api.OIDCKey{{Kind: "EC", Curve: "P-256", X: text(point[:32]), Y: text(point[32:]), ID: i.id, Algorithm: string(jose.ES256), Use: "sig"}}}
}
