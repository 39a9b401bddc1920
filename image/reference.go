package image

import (
	"fmt"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/perigee-run/perigee/image/registry"
)

// reference is where an image is, taken apart.
type reference struct {
	registry   string // as people write it: docker.io, not index.docker.io
	repository string
	tag        string // or
	digest     string
	local      bool // in the built-in registry
	remote     name.Reference
}

// String is the reference in full, the way the store remembers it.
func (r reference) String() string {
	if r.digest != "" {
		return r.registry + "/" + r.repository + "@" + r.digest
	}
	return r.registry + "/" + r.repository + ":" + r.tag
}

// home is the repository with its registry; the built-in one has one name here.
func (r reference) home() string {
	if r.local {
		return "/" + r.repository
	}
	return r.registry + "/" + r.repository
}

// at is what a registry is asked for.
func (r reference) at() string {
	if r.digest != "" {
		return r.digest
	}
	return r.tag
}

// parse reads a reference with docker's defaults: docker.io, library/, latest.
func (s *Store) parse(ref string) (reference, error) {
	var opts []name.Option
	host, _, _ := strings.Cut(ref, "/")
	if s.plainHTTP(host) {
		opts = append(opts, name.Insecure)
	}
	parsed, err := name.ParseReference(ref, opts...)
	if err != nil {
		return reference{}, fmt.Errorf("%q is not an image reference: %w", ref, err)
	}
	r := reference{remote: parsed, registry: parsed.Context().RegistryStr(), repository: parsed.Context().RepositoryStr()}
	if r.registry == name.DefaultRegistry {
		r.registry = "docker.io"
	}
	switch p := parsed.(type) {
	case name.Digest:
		r.digest = p.DigestStr()
	case name.Tag:
		r.tag = p.TagStr()
	}
	r.local = slices.Contains(s.cfg.Hosts, r.registry) || s.cfg.IsHost(r.registry)
	if r.local && !registry.ValidName(r.repository) {
		return r, fmt.Errorf("%q is not a repository name of the built-in registry: use lower-case words with /, -, _ or . between them", r.repository)
	}
	return r, nil
}

// BuiltIn tells in which repository of the built-in registry a reference is; ok is
// false for those of other registries, and for what is no reference.
func (s *Store) BuiltIn(ref string) (repository string, ok bool) {
	r, err := s.parse(ref)
	return r.repository, err == nil && r.local
}

// plainHTTP tells whether a host is listed as one without TLS.
func (s *Store) plainHTTP(host string) bool {
	bare := host
	if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexByte(host, ']') {
		bare = host[:i]
	}
	return slices.Contains(s.cfg.PlainHTTP, host) || slices.Contains(s.cfg.PlainHTTP, bare)
}

// named gives an imported image its place in the built-in registry. What the
// archive calls it serves when the caller has no name for it.
func (s *Store) named(name, inArchive string) (reference, error) {
	if name == "" {
		name = inArchive
		if first, rest, ok := strings.Cut(name, "/"); ok && strings.ContainsAny(first, ".:") {
			name = rest // the archive's registry is not ours
		}
	}
	if name == "" || strings.HasPrefix(name, ":") {
		return reference{}, fmt.Errorf("the archive does not name its image; give it a name such as app:v1")
	}
	for _, host := range s.cfg.Hosts {
		name = strings.TrimPrefix(name, host+"/")
	}
	repo, tag, ok := strings.Cut(name, ":")
	if !ok {
		tag = "latest"
	}
	if !registry.ValidName(repo) || !registry.ValidTag(tag) {
		return reference{}, fmt.Errorf("%q is not a name for an image: use lower-case words with /, -, _ or . between them, then :tag", name)
	}
	return s.parse(s.cfg.Hosts[0] + "/" + repo + ":" + tag)
}
