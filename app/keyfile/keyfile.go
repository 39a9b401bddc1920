// Package keyfile keeps the key that all secrets of a cloud are sealed with: 32
// bytes in a file that only root can read, in hexadecimal, or wrapped by age, so
// that the file alone is of no use to who copies the disk.
//
// A wrapped file is opened once, when the node starts, by an age identity in a file
// of its own (on a disk that is not backed up, in a credential of systemd) or by one
// of age's plugins: age-plugin-tpm, age-plugin-yubikey, plugins for the key services
// of clouds. The key is then in the memory of the node, as it is without wrapping.
package keyfile

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"filippo.io/age"
	"filippo.io/age/plugin"
	"github.com/perigee-run/perigee/internal/durable"
)

// Size is the length of the key.
const Size = 32

// ErrGone says that there is no key file.
var ErrGone = errors.New("the key file is not there")

const header = "age-encryption.org/" // begins every file of age

// Read returns the key. A wrapped one is opened by the identities in the file
// identity.
func Read(path, identity string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrGone
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the key of the secrets: %w", err)
	}
	if bytes.HasPrefix(b, []byte(header)) {
		if b, err = open(b, path, identity); err != nil {
			return nil, err
		}
	}
	key, err := hex.DecodeString(strings.TrimSpace(string(b)))
	if err != nil || len(key) != Size {
		return nil, fmt.Errorf("cannot use key file %q: it does not hold %d hexadecimal digits; restore it from a backup", path, 2*Size)
	}
	return key, nil
}

// Wrapped reports whether the file is wrapped.
func Wrapped(path string) bool {
	b, err := os.ReadFile(path)
	return err == nil && bytes.HasPrefix(b, []byte(header))
}

func open(b []byte, path, identity string) ([]byte, error) {
	if identity == "" {
		return nil, fmt.Errorf("cannot open key file %q: it is wrapped by age, and no identity is named; start perigeed with --secrets-identity FILE", path)
	}
	ids, err := identities(identity)
	if err != nil {
		return nil, err
	}
	r, err := age.Decrypt(bytes.NewReader(b), ids...)
	if err == nil {
		b, err = io.ReadAll(io.LimitReader(r, 1<<10))
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open key file %q with the identities in %q: %w", path, identity, err)
	}
	return b, nil
}

// identities reads age's identity file, lines of its own and of plugins.
func identities(path string) (out []age.Identity, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read the identity of the secrets' key: %w", err)
	}
	for n, line := range strings.Split(string(b), "\n") {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		if strings.HasPrefix(line, "AGE-PLUGIN-") {
			id, err := plugin.NewIdentity(line, noTerminal)
			if err != nil {
				return nil, fmt.Errorf("cannot read line %d of identity file %q: %w", n+1, path, err)
			}
			out = append(out, id)
			continue
		}
		own, err := age.ParseIdentities(strings.NewReader(line))
		if err != nil {
			return nil, fmt.Errorf("cannot read line %d of identity file %q: it is no identity of age", n+1, path) // the error may hold the text
		}
		out = append(out, own...)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("identity file %q has no identity; age-keygen makes one", path)
	}
	return out, nil
}

// noTerminal is for plugins that ask: a daemon has nobody to ask.
var noTerminal = &plugin.ClientUI{
	DisplayMessage: func(string, string) error { return nil },
	RequestValue: func(name, _ string, _ bool) (string, error) {
		return "", fmt.Errorf("age plugin %q asks for something, and nobody is there to answer; use an identity without a PIN", name)
	},
	Confirm: func(name, _, _, _ string) (bool, error) {
		return false, fmt.Errorf("age plugin %q asks for a confirmation, and nobody is there to answer", name)
	},
	WaitTimer: func(string) {},
}

// Make writes a new key and returns it.
func Make(path string) ([]byte, error) {
	key := make([]byte, Size)
	rand.Read(key)
	return key, write(path, text(key))
}

func text(key []byte) []byte { return []byte(hex.EncodeToString(key) + "\n") }

func write(path string, b []byte) error {
	if err := durable.WriteFile(path, 0o600, b); err != nil {
		return fmt.Errorf("cannot keep the key of the secrets: %w", err)
	}
	return nil
}

// Wrap wraps the key for the recipients, with which any of them can open it; a new
// key where there is none. A file that is wrapped already is opened by the identity
// and wrapped anew. The file is replaced at once: a crash leaves the old or the new.
func Wrap(path, identity string, recipients ...string) error {
	var to []age.Recipient
	for _, r := range recipients {
		one, err := recipient(r)
		if err != nil {
			return fmt.Errorf("cannot wrap for %q: %w", r, err)
		}
		to = append(to, one)
	}
	if len(to) == 0 {
		return errors.New("cannot wrap the key of the secrets: no recipient is named; age-keygen prints one (age1…)")
	}
	key, err := Read(path, identity)
	if errors.Is(err, ErrGone) {
		key, err = make([]byte, Size), nil
		rand.Read(key)
	}
	if err != nil {
		return err
	}
	var b bytes.Buffer
	w, err := age.Encrypt(&b, to...)
	if err == nil {
		if _, err = w.Write(text(key)); err == nil {
			err = w.Close()
		}
	}
	if err != nil {
		return fmt.Errorf("cannot wrap the key of the secrets: %w", err)
	}
	return write(path, b.Bytes())
}

func recipient(s string) (age.Recipient, error) {
	if all, err := age.ParseRecipients(strings.NewReader(s)); err == nil && len(all) == 1 {
		return all[0], nil
	}
	return plugin.NewRecipient(s, noTerminal)
}

// Unwrap puts the key there as it is.
func Unwrap(path, identity string) error {
	key, err := Read(path, identity)
	if err != nil {
		return err
	}
	return write(path, text(key))
}
