package app

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/perigee-run/perigee/app/keyfile"
)

// sealer closes and opens secrets.
type sealer struct {
	aead   cipher.AEAD
	digest []byte // key of the digests
	master []byte // what all keys come from
}

const keySize = keyfile.Size

// openKey reads the key, or makes it if needed is false: with secrets there, a
// new key would lose them all.
func openKey(path, identity string, needed bool) (*sealer, error) {
	key, err := keyfile.Read(path, identity)
	switch {
	case errors.Is(err, keyfile.ErrGone) && needed:
		return nil, fmt.Errorf("cannot open secrets: key file %q is gone, but there are secrets; restore the file from a backup", path)
	case errors.Is(err, keyfile.ErrGone):
		key, err = keyfile.Make(path)
	}
	if err != nil {
		return nil, err
	}
	return newSealer(key)
}

func newSealer(key []byte) (*sealer, error) {
	seal, err := hkdf.Key(sha256.New, key, nil, "perigee secrets seal", keySize)
	if err != nil {
		return nil, err
	}
	digest, err := hkdf.Key(sha256.New, key, nil, "perigee secrets digest", keySize)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(seal)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	return &sealer{aead: aead, digest: digest, master: key}, err
}

// Derive is a key for another purpose, made from that of the secrets: the same on
// all nodes, and it tells nothing about any other.
func (s *Store) Derive(purpose string) ([]byte, error) {
	return hkdf.Key(sha256.New, s.seal.master, nil, "perigee "+purpose, keySize)
}

func place(app, name string) []byte { return []byte(app + "\x00" + name) }

func (s *sealer) close(app, name, value string) []byte {
	return s.aead.Seal(nil, nil, []byte(value), place(app, name))
}

func (s *sealer) open(app, name string, sealed []byte) (string, error) {
	b, err := s.aead.Open(nil, nil, sealed, place(app, name))
	if err != nil {
		return "", fmt.Errorf("cannot open secret %q of app %q: it was sealed with another key, or is damaged; set it again", name, app)
	}
	return string(b), nil
}

// sum is what is shown of a value.
func (s *sealer) sum(app, name, value string) string {
	h := hmac.New(sha256.New, s.digest)
	h.Write(place(app, name))
	h.Write([]byte{0})
	h.Write([]byte(value))
	return hex.EncodeToString(h.Sum(nil)[:8])
}
