package volume

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"fmt"

	"github.com/perigee-run/perigee/volume/disk"
)

// sealer seals the volumes' keys with the node's.
type sealer struct{ aead cipher.AEAD }

func newSealer(key []byte) (sealer, error) {
	b, err := aes.NewCipher(key)
	if err != nil {
		return sealer{}, err
	}
	aead, err := cipher.NewGCM(b)
	return sealer{aead}, err
}

// seal binds the key to its volume.
func (s sealer) seal(volume string, k disk.Key) []byte {
	nonce := make([]byte, s.aead.NonceSize())
	rand.Read(nonce)
	return s.aead.Seal(nonce, nonce, k[:], []byte(volume))
}

func (s sealer) open(volume string, sealed []byte) (k disk.Key, err error) {
	n := s.aead.NonceSize()
	if len(sealed) < n {
		return k, fmt.Errorf("volume %q has no key", volume)
	}
	plain, err := s.aead.Open(nil, sealed[:n], sealed[n:], []byte(volume))
	if err != nil || len(plain) != len(k) {
		return k, fmt.Errorf("the key of volume %q does not open: it was sealed with another volumes.key", volume)
	}
	return disk.Key(plain), nil
}
