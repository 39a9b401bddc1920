// Package blob keeps content under its SHA-256 digest on disk. What is in the
// store was verified and synced before it got its name, so a reader never sees
// half a blob and a crash never leaves one.
//
// It knows nothing of images: what refers to what, and what may be removed, is
// its callers' business.
package blob

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// ErrMismatch marks content that is not what its digest or size promised.
var ErrMismatch = errors.New("content does not match its digest")

const prefix = "sha256:"

// Valid tells whether d is a digest this store takes: sha256 in lower case.
func Valid(d string) bool {
	rest, ok := strings.CutPrefix(d, prefix)
	return ok && len(rest) == 64 && strings.Trim(rest, "0123456789abcdef") == ""
}

// Hex is a valid digest without its algorithm.
func Hex(d string) string { return strings.TrimPrefix(d, prefix) }

// FromHex is the digest with the given hex form.
func FromHex(h string) string { return prefix + h }

// Of is the digest of content at hand.
func Of(content []byte) string {
	sum := sha256.Sum256(content)
	return prefix + hex.EncodeToString(sum[:])
}

// Store is a folder of blobs. Its methods may be called from any goroutine.
type Store struct{ dir, tmp string }

// Open opens the store in dir; half-written blobs go to tmp, which must be on
// the same file system and is emptied by its owner.
func Open(dir, tmp string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make blob folder: %w", err)
	}
	return &Store{dir: dir, tmp: tmp}, nil
}

// Path is where a blob is or would be.
func (s *Store) Path(digest string) string {
	h := Hex(digest)
	return filepath.Join(s.dir, h[:2], h)
}

// Stat returns a blob's size.
func (s *Store) Stat(digest string) (size int64, ok bool) {
	if !Valid(digest) {
		return 0, false
	}
	st, err := os.Stat(s.Path(digest))
	if err != nil || !st.Mode().IsRegular() {
		return 0, false
	}
	return st.Size(), true
}

// Get opens a blob. The error is fs.ErrNotExist when it is not here.
func (s *Store) Get(digest string) (*os.File, error) {
	if !Valid(digest) {
		return nil, fmt.Errorf("cannot open blob %q: %w", digest, fs.ErrNotExist)
	}
	return os.Open(s.Path(digest))
}

// Read returns a small blob whole, verified once more. More than limit bytes is
// an error.
func (s *Store) Read(digest string, limit int64) ([]byte, error) {
	f, err := s.Get(digest)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("blob %s is larger than %d bytes", digest, limit)
	}
	if Of(data) != digest {
		return nil, fmt.Errorf("blob %s on disk: %w", digest, ErrMismatch)
	}
	return data, nil
}

// Touch marks a blob as used now, which keeps young blobs from collection.
func (s *Store) Touch(digest string) {
	now := time.Now()
	_ = os.Chtimes(s.Path(digest), now, now) // gone is gone: the next read says so
}

// Remove removes a blob and returns the bytes that freed. One that is not here
// frees none.
func (s *Store) Remove(digest string) (freed int64, err error) {
	size, ok := s.Stat(digest)
	if !ok {
		return 0, nil
	}
	if err := os.Remove(s.Path(digest)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("cannot remove blob %s: %w", digest, err)
	}
	return size, nil
}

// Each calls fn for every blob.
func (s *Store) Each(fn func(digest string, size int64, used time.Time) error) error {
	return filepath.WalkDir(s.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return ignoreGone(err)
		}
		st, err := d.Info()
		if err != nil {
			return ignoreGone(err)
		}
		if digest := FromHex(d.Name()); Valid(digest) {
			return fn(digest, st.Size(), st.ModTime())
		}
		return nil
	})
}

func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Put stores content at hand and returns its digest.
func (s *Store) Put(content []byte) (digest string, err error) {
	digest = Of(content)
	if size, ok := s.Stat(digest); ok && size == int64(len(content)) {
		s.Touch(digest)
		return digest, nil
	}
	w, err := s.Create()
	if err != nil {
		return "", err
	}
	defer w.Abort()
	if _, err := w.Write(content); err != nil {
		return "", err
	}
	return digest, w.Commit(digest, int64(len(content)))
}

// Writer takes one blob in. It ends with Commit or Abort; Abort after Commit
// does nothing.
type Writer struct {
	s    *Store
	f    *os.File
	hash hash.Hash
	size int64
}

// Create starts a blob whose digest need not be known yet.
func (s *Store) Create() (*Writer, error) {
	f, err := os.CreateTemp(s.tmp, "blob-")
	if err != nil {
		return nil, fmt.Errorf("cannot take a blob in: %w", err)
	}
	return &Writer{s: s, f: f, hash: sha256.New()}, nil
}

// Write appends to the blob.
func (w *Writer) Write(p []byte) (int, error) {
	n, err := w.f.Write(p)
	w.hash.Write(p[:n])
	w.size += int64(n)
	return n, err
}

// Size is what was written so far.
func (w *Writer) Size() int64 { return w.size }

// Digest is that of what was written so far.
func (w *Writer) Digest() string { return prefix + hex.EncodeToString(w.hash.Sum(nil)) }

// Commit verifies, syncs and names the blob. A negative size is not compared.
// The error is ErrMismatch when the content is not what was promised.
func (w *Writer) Commit(digest string, size int64) error {
	if size >= 0 && size != w.size {
		return fmt.Errorf("blob %s has %d bytes, not %d: %w", digest, w.size, size, ErrMismatch)
	}
	if got := w.Digest(); got != digest {
		return fmt.Errorf("blob %s turned out to be %s: %w", digest, got, ErrMismatch)
	}
	if err := w.f.Sync(); err != nil {
		return fmt.Errorf("cannot sync blob %s: %w", digest, err)
	}
	if err := Publish(w.f, w.s.Path(digest)); err != nil {
		return fmt.Errorf("cannot keep blob %s: %w", digest, err)
	}
	w.f.Close()
	w.f = nil
	return nil
}

// Abort throws away what was written.
func (w *Writer) Abort() {
	if w.f == nil {
		return
	}
	w.f.Close()
	os.Remove(w.f.Name())
	w.f = nil
}

// Publish gives a synced temporary file its lasting name, durably.
func Publish(f *os.File, path string) error {
	dir := filepath.Dir(path)
	if err := MakeDir(dir); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}

// MakeDir makes a folder and its parents, durably.
func MakeDir(dir string) error {
	if st, err := os.Stat(dir); err == nil && st.IsDir() {
		return nil
	}
	parent := filepath.Dir(dir)
	if err := MakeDir(parent); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(parent)
}

// WriteFile writes a small file so that a crash leaves the old or the new one.
func (s *Store) WriteFile(path string, content []byte) error {
	f, err := os.CreateTemp(s.tmp, "file-")
	if err != nil {
		return err
	}
	defer func() { f.Close(); os.Remove(f.Name()) }()
	if _, err := f.Write(content); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return Publish(f, path)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
