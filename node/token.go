package node

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"os"

	"github.com/perigee-run/perigee/internal/durable"
)

// tokenPrefix lets secret scanners recognise our tokens.
const tokenPrefix = "pgt_"

// secretFile returns the content of a file that only root can read, made of
// random bytes at first use.
func secretFile(path string, size int, text bool) ([]byte, error) {
	b, err := os.ReadFile(path)
	if err == nil {
		return b, nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	b = make([]byte, size)
	rand.Read(b)
	if text {
		b = []byte(tokenPrefix + hex.EncodeToString(b) + "\n")
	}
	return b, durable.WriteFile(path, 0o600, b)
}
