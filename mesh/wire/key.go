package wire

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"fmt"
)

const keySize = 32

// Key is a public key. Its text form is WireGuard's, base64.
type Key [keySize]byte

// PrivateKey is the secret half. Printing it shows nothing; [PrivateKey.Text] does.
type PrivateKey [keySize]byte

// NewKey makes a private key.
func NewKey() (PrivateKey, error) {
	k, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return PrivateKey{}, fmt.Errorf("cannot make key: %w", err)
	}
	p := PrivateKey(k.Bytes())
	p[0] &= 248 // as wg does, so that tools that compare keys see the same one
	p[31] = p[31]&127 | 64
	return p, nil
}

// ParseKey reads a public key.
func ParseKey(s string) (Key, error) {
	b, err := parse(s)
	return Key(b), err
}

// ParsePrivateKey reads a private key.
func ParsePrivateKey(s string) (PrivateKey, error) {
	b, err := parse(s)
	return PrivateKey(b), err
}

func parse(s string) (k [keySize]byte, err error) {
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != keySize || len(s) != base64.StdEncoding.EncodedLen(keySize) {
		return k, fmt.Errorf("cannot read a WireGuard key of %d characters: want 44 of base64, as wg genkey and wg pubkey print", len(s))
	}
	if k = [keySize]byte(b); k == [keySize]byte{} {
		return k, fmt.Errorf("cannot use a WireGuard key that is all zeros: want one that wg genkey or wg pubkey printed")
	}
	return k, nil
}

// Public returns the public half.
func (p PrivateKey) Public() Key {
	k, err := ecdh.X25519().NewPrivateKey(p[:])
	if err != nil {
		return Key{} // not with 32 bytes
	}
	return Key(k.PublicKey().Bytes())
}

// Text returns the secret, as configuration files have it.
func (p PrivateKey) Text() string { return base64.StdEncoding.EncodeToString(p[:]) }

// String keeps the secret out of logs.
func (PrivateKey) String() string { return "(private key)" }

// IsZero reports whether there is no key.
func (k Key) IsZero() bool { return k == Key{} }

// String returns base64, or "" where there is no key.
func (k Key) String() string {
	if k.IsZero() {
		return ""
	}
	return base64.StdEncoding.EncodeToString(k[:])
}

// MarshalText implements encoding.TextMarshaler.
func (k Key) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler; an empty text is no key.
func (k *Key) UnmarshalText(b []byte) (err error) {
	*k = Key{}
	if len(b) > 0 {
		*k, err = ParseKey(string(b))
	}
	return err
}
