// Package registry is the node's own image registry: the OCI distribution API
// over the node's blob store, so that docker, skopeo and buildah can push to it
// and what they push is on the node already.
//
// It is small on purpose and shares its blobs with everything else the node
// pulls: no second copy, one garbage collection. A blob can be read only
// through a repository that it was pushed or mounted to, because knowing a
// digest must not open another org's layers.
//
// It decides nothing about who may do what: its Config.Auth does. It does not
// proxy other registries.
package registry

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/perigee-run/perigee/image/blob"
	"github.com/perigee-run/perigee/image/manifest"
	"github.com/perigee-run/perigee/internal/durable"
)

var (
	namePart = `[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*`
	nameExpr = regexp.MustCompile(`^` + namePart + `(?:/` + namePart + `)*$`)
	tagExpr  = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
)

// ValidName tells whether a repository may have that name.
func ValidName(name string) bool { return len(name) <= 255 && nameExpr.MatchString(name) }

// ValidTag tells whether a tag may have that name.
func ValidTag(tag string) bool { return tagExpr.MatchString(tag) }

// What a repository's folder holds. No part of a name begins with _.
const (
	manifestsDir = "_manifests" // digest → media type
	tagsDir      = "_tags"      // tag → digest
	blobsDir     = "_blobs"     // digest → nothing
)

// Repos remembers which repository has which manifests, tags and blobs, as
// small files. Its methods may be called from any goroutine.
type Repos struct {
	dir   string
	blobs *blob.Store
	mu    sync.RWMutex // orders changes of tags and manifests with each other
}

// OpenRepos opens the repositories in dir; their content is in blobs.
func OpenRepos(dir string, blobs *blob.Store) (*Repos, error) {
	if err := blob.MakeDir(dir); err != nil {
		return nil, fmt.Errorf("cannot make repository folder: %w", err)
	}
	if err := os.RemoveAll(filepath.Join(dir, goneDir)); err != nil { // what a crash left
		return nil, fmt.Errorf("cannot empty the repository folder: %w", err)
	}
	return &Repos{dir: dir, blobs: blobs}, nil
}

func (r *Repos) path(repo, kind, name string) string {
	return filepath.Join(r.dir, filepath.FromSlash(repo), kind, name)
}

// Hold keeps manifests and tags from changing until release is called. A
// collection holds them, so that no manifest is accepted whose blobs are about
// to go.
func (r *Repos) Hold() (release func()) {
	r.mu.Lock()
	return r.mu.Unlock
}

// Put makes content a manifest of a repository, and a tag point at it unless
// tag is empty. All that it refers to must be in the repository already.
func (r *Repos) Put(repo, tag, mediaType string, content []byte) (digest string, err error) {
	m, err := manifest.Parse(content, mediaType)
	if err != nil {
		return "", err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.complete(repo, m); err != nil {
		return "", err
	}
	if digest, err = r.blobs.Put(content); err != nil {
		return "", err
	}
	if err := r.blobs.WriteFile(r.path(repo, manifestsDir, blob.Hex(digest)), []byte(m.MediaType)); err != nil {
		return "", fmt.Errorf("cannot keep manifest %s: %w", digest, err)
	}
	if tag == "" {
		return digest, nil
	}
	if err := r.blobs.WriteFile(r.path(repo, tagsDir, tag), []byte(digest)); err != nil {
		return "", fmt.Errorf("cannot keep tag %q: %w", tag, err)
	}
	return digest, nil
}

// missingError names what a manifest refers to and its repository has not.
type missingError struct{ digest string }

func (e missingError) Error() string {
	return fmt.Sprintf("%s, to which the manifest refers, has not been pushed", e.digest)
}

func (r *Repos) complete(repo string, m manifest.Manifest) error {
	for _, d := range m.Manifests {
		if _, _, ok := r.manifest(repo, d.Digest); !ok {
			return missingError{d.Digest}
		}
	}
	m.Manifests = nil
	for _, d := range m.Refers() {
		size, ok := r.Blob(repo, d.Digest)
		if !ok {
			return missingError{d.Digest}
		}
		if size != d.Size {
			return fmt.Errorf("blob %s has %d bytes, the manifest says %d: %w", d.Digest, size, d.Size, blob.ErrMismatch)
		}
	}
	return nil
}

// Manifest finds a manifest by tag or digest.
func (r *Repos) Manifest(repo, ref string) (digest, mediaType string, ok bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.manifest(repo, ref)
}

func (r *Repos) manifest(repo, ref string) (digest, mediaType string, ok bool) {
	digest = ref
	if ValidTag(ref) {
		target, err := os.ReadFile(r.path(repo, tagsDir, ref))
		if err != nil {
			return "", "", false
		}
		digest = string(target)
	}
	if !blob.Valid(digest) {
		return "", "", false
	}
	kind, err := os.ReadFile(r.path(repo, manifestsDir, blob.Hex(digest)))
	if _, here := r.blobs.Stat(digest); err != nil || !here {
		return "", "", false
	}
	return digest, string(kind), true
}

// Find finds a repository that has a manifest, by its digest.
func (r *Repos) Find(digest string) (repo string, ok bool) {
	for _, repo := range r.List() {
		if _, _, ok := r.Manifest(repo, digest); ok {
			return repo, true
		}
	}
	return "", false
}

// Tags lists the tags of a repository, sorted.
func (r *Repos) Tags(repo string) []string { return names(r.path(repo, tagsDir, "")) }

func names(dir string) []string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil // no such repository: it has none
	}
	all := make([]string, 0, len(entries))
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

// List lists the repositories that have manifests, sorted.
func (r *Repos) List() []string {
	var all []string
	_ = filepath.WalkDir(r.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() || !strings.HasPrefix(d.Name(), "_") {
			return nil
		}
		if d.Name() == manifestsDir && len(names(path)) > 0 {
			if rel, err := filepath.Rel(r.dir, filepath.Dir(path)); err == nil {
				all = append(all, filepath.ToSlash(rel))
			}
		}
		return fs.SkipDir
	})
	slices.Sort(all)
	return all
}

// Pushed is a manifest of a repository.
type Pushed struct {
	Repo, Digest string
	When         time.Time // of the last push
}

// Pushed lists all manifests of all repositories.
func (r *Repos) Pushed() []Pushed {
	var all []Pushed
	for _, repo := range r.List() {
		for _, h := range names(r.path(repo, manifestsDir, "")) {
			if st, err := os.Stat(r.path(repo, manifestsDir, h)); err == nil {
				all = append(all, Pushed{repo, blob.FromHex(h), st.ModTime()})
			}
		}
	}
	return all
}

// When is when a manifest was last pushed to a repository.
func (r *Repos) When(repo, digest string) (time.Time, bool) {
	st, err := os.Stat(r.path(repo, manifestsDir, blob.Hex(digest)))
	if err != nil {
		return time.Time{}, false
	}
	return st.ModTime(), true
}

// Untag removes a tag and keeps its manifest.
func (r *Repos) Untag(repo, tag string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return remove(r.path(repo, tagsDir, tag))
}

// Delete removes a manifest from a repository with all tags that point at it.
// The blobs stay until they are collected.
func (r *Repos) Delete(repo, digest string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, tag := range r.Tags(repo) {
		target, err := os.ReadFile(r.path(repo, tagsDir, tag))
		if err != nil || string(target) != digest {
			continue
		}
		if err := remove(r.path(repo, tagsDir, tag)); err != nil {
			return err
		}
	}
	return remove(r.path(repo, manifestsDir, blob.Hex(digest)))
}

// goneDir holds the repositories that are being dropped.
const goneDir = "_gone"

// Drop removes a repository and all below it, at once for those who ask, and for good:
// after a power cut nobody would come back to it. It may be repeated; the blobs stay
// until they are collected.
func (r *Repos) Drop(repo string) error {
	if !ValidName(repo) {
		return nil // there can be none
	}
	gone := filepath.Join(r.dir, goneDir)
	if err := blob.MakeDir(gone); err != nil {
		return err
	}
	to, err := os.MkdirTemp(gone, "")
	if err != nil {
		return err
	}
	r.mu.Lock()
	err = durable.Rename(filepath.Join(r.dir, filepath.FromSlash(repo)), filepath.Join(to, "repo"))
	r.mu.Unlock()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot drop repository %q: %w", repo, err)
	}
	return os.RemoveAll(to)
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Link makes a blob readable through a repository.
func (r *Repos) Link(repo, digest string) error {
	r.blobs.Touch(digest)
	path := r.path(repo, blobsDir, blob.Hex(digest))
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	if err := r.blobs.WriteFile(path, nil); err != nil {
		return fmt.Errorf("cannot add blob %s to %q: %w", digest, repo, err)
	}
	return nil
}

// Unlink takes a blob out of a repository.
func (r *Repos) Unlink(repo, digest string) error {
	return remove(r.path(repo, blobsDir, blob.Hex(digest)))
}

// Blob returns the size of a blob that a repository has.
func (r *Repos) Blob(repo, digest string) (size int64, ok bool) {
	size, ok = r.blobs.Stat(digest)
	if !ok {
		return 0, false
	}
	_, err := os.Stat(r.path(repo, blobsDir, blob.Hex(digest)))
	return size, err == nil
}
