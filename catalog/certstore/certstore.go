// Package certstore keeps the router's certificates in the catalog, so that
// every edge has them in memory and only one node at a time asks the authority
// for a new one. It implements certmagic's Storage and Locker.
//
// It is for small values only: keys, certificates, account records. Values are
// sealed with AES-256-GCM when a key is given, because the catalog's files hold
// plain text. Reads come from memory; writes and locks go through the catalog
// and keep its promises. A lock whose holder died is free after [LockTTL].
package certstore

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/perigee-run/perigee/catalog"
)

// record is one stored value.
type record struct {
	Data     []byte    `json:"data"`
	Sealed   bool      `json:"sealed,omitempty"`
	Size     int64     `json:"size"`
	Modified time.Time `json:"modified"`
}

// Store is certmagic's storage on a catalog.
type Store struct {
	values *catalog.Table[record]
	locks  *catalog.Table[lockRecord]
	aead   cipher.AEAD // nil: values are kept as they are
	held   heldLocks

	lockTTL time.Duration // LockTTL, but in tests
}

var _ certmagic.Storage = (*Store)(nil)

// New opens the store. key is 32 bytes that seal the values, or nil to keep them
// readable; values written either way remain readable as long as key is given.
func New(c *catalog.Catalog, key []byte) (*Store, error) {
	s := &Store{lockTTL: LockTTL}
	var err error
	if key != nil {
		if s.aead, err = newAEAD(key); err != nil {
			return nil, err
		}
	}
	if s.values, err = catalog.NewTable[record](c, "certs"); err != nil {
		return nil, err
	}
	s.locks, err = catalog.NewTable[lockRecord](c, "certlocks")
	return s, err
}

func newAEAD(key []byte) (cipher.AEAD, error) {
	if len(key) != 32 {
		return nil, fmt.Errorf("cannot seal certificates with a key of %d bytes: it must have 32", len(key))
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// Store implements certmagic.Storage.
func (s *Store) Store(ctx context.Context, key string, value []byte) error {
	r := record{Data: value, Size: int64(len(value)), Modified: time.Now()}
	if s.aead != nil {
		nonce := make([]byte, s.aead.NonceSize())
		if _, err := rand.Read(nonce); err != nil {
			return err
		}
		// The name is bound in, so that a value cannot be passed off as another's.
		r.Data, r.Sealed = s.aead.Seal(nonce, nonce, value, []byte(clean(key))), true
	}
	_, err := s.values.Put(ctx, keyOf(key), r)
	return err
}

// Load implements certmagic.Storage; a missing key is fs.ErrNotExist.
func (s *Store) Load(_ context.Context, key string) ([]byte, error) {
	e, ok := s.values.Get(keyOf(key))
	if !ok {
		return nil, missing("load", key)
	}
	if !e.Value.Sealed {
		return slices.Clone(e.Value.Data), nil
	}
	if s.aead == nil {
		return nil, fmt.Errorf("cannot load %q: it is sealed and no key was given", key)
	}
	n := s.aead.NonceSize()
	if len(e.Value.Data) < n {
		return nil, fmt.Errorf("cannot load %q: the sealed value is cut short", key)
	}
	data, err := s.aead.Open(nil, e.Value.Data[:n], e.Value.Data[n:], []byte(clean(key)))
	if err != nil {
		return nil, fmt.Errorf("cannot load %q: it was sealed with another key: %w", key, err)
	}
	return data, nil
}

// Delete implements certmagic.Storage: the key and everything below it.
func (s *Store) Delete(ctx context.Context, key string) error {
	err := s.values.Delete(ctx, keyOf(key))
	for _, e := range s.values.List(keyOf(key) + "/") {
		err = errors.Join(err, s.values.Delete(ctx, e.Key))
	}
	return err
}

// Exists implements certmagic.Storage.
func (s *Store) Exists(_ context.Context, key string) bool {
	_, ok := s.values.Get(keyOf(key))
	return ok || len(s.values.List(keyOf(key)+"/")) > 0
}

// List implements certmagic.Storage; an empty directory does not exist.
func (s *Store) List(_ context.Context, dir string, recursive bool) ([]string, error) {
	prefix := clean(dir)
	if prefix != "" {
		prefix += "/"
	}
	var out []string
	for _, e := range s.values.List(encode(prefix)) {
		out = append(out, ancestors(prefix, decode(e.Key), recursive)...)
	}
	if len(out) == 0 {
		return nil, missing("list", dir)
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// ancestors names what key adds to a listing of prefix: itself and the
// directories between, or the first step alone.
func ancestors(prefix, key string, recursive bool) []string {
	var out []string
	for i := len(prefix); i < len(key); i++ {
		if key[i] == '/' {
			out = append(out, key[:i])
		}
	}
	out = append(out, key)
	if !recursive {
		return out[:1]
	}
	return out
}

// Stat implements certmagic.Storage.
func (s *Store) Stat(_ context.Context, key string) (certmagic.KeyInfo, error) {
	if e, ok := s.values.Get(keyOf(key)); ok {
		return certmagic.KeyInfo{Key: key, Modified: e.Value.Modified, Size: e.Value.Size, IsTerminal: true}, nil
	}
	if len(s.values.List(keyOf(key)+"/")) > 0 {
		return certmagic.KeyInfo{Key: key}, nil
	}
	return certmagic.KeyInfo{}, missing("stat", key)
}

func missing(verb, key string) error {
	return fmt.Errorf("cannot %s certificate value %q: %w", verb, key, fs.ErrNotExist)
}

func clean(key string) string { return strings.Trim(path.Clean("/"+key), "/") }

// keyOf is the catalog's key for a path as certmagic names it.
func keyOf(key string) string { return encode(clean(key)) }

const keepInKeys = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_/"

// encode makes a catalog key of a path: bytes that a key may not have, and the
// dots that would split it, become =xx. A trailing slash stays, for prefixes.
func encode(key string) string {
	var b strings.Builder
	for i := range len(key) {
		if strings.IndexByte(keepInKeys, key[i]) >= 0 {
			b.WriteByte(key[i])
		} else {
			fmt.Fprintf(&b, "=%02x", key[i])
		}
	}
	return b.String()
}

func decode(key string) string {
	var b strings.Builder
	for i := 0; i < len(key); i++ {
		var c byte
		if key[i] == '=' && i+2 < len(key) {
			if n, _ := fmt.Sscanf(key[i+1:i+3], "%02x", &c); n == 1 {
				b.WriteByte(c)
				i += 2
				continue
			}
		}
		b.WriteByte(key[i])
	}
	return b.String()
}
