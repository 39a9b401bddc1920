package wire

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/perigee-run/perigee/internal/durable"
)

// keyFile keeps a private key on disk, as wg does: one line of base64.
type keyFile string

func (f keyFile) next() keyFile { return f + ".next" }

func (f keyFile) read() (PrivateKey, error) {
	b, err := os.ReadFile(string(f))
	if err != nil {
		return PrivateKey{}, fmt.Errorf("cannot read WireGuard key: %w", err)
	}
	k, err := ParsePrivateKey(strings.TrimSpace(string(b)))
	if err != nil {
		return PrivateKey{}, fmt.Errorf("cannot read WireGuard key file %q: %w: restore it, or remove it for a new key", string(f), err)
	}
	return k, nil
}

// open reads the key, or makes it at the first use.
func (f keyFile) open() (PrivateKey, error) {
	k, err := f.read()
	if !errors.Is(err, os.ErrNotExist) {
		return k, err
	}
	if k, err = NewKey(); err != nil {
		return k, err
	}
	return k, f.write(k)
}

// made is when the key was: nothing writes to the file after that.
func (f keyFile) made() (time.Time, error) {
	st, err := os.Stat(string(f))
	if err != nil {
		return time.Time{}, fmt.Errorf("cannot look at WireGuard key: %w", err)
	}
	return st.ModTime(), nil
}

func (f keyFile) write(k PrivateKey) error {
	if err := durable.WriteFile(string(f), 0o600, []byte(k.Text()+"\n")); err != nil {
		return fmt.Errorf("cannot write WireGuard key: %w", err)
	}
	return nil
}
