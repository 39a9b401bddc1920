package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/perigee-run/perigee/image/blob"
	"github.com/perigee-run/perigee/image/manifest"
)

// ErrDenied makes a refusal of Config.Auth final: the client is known, but may
// not do this. Other errors ask it to log in.
var ErrDenied = errors.New("denied")

// Config says what the handler works on. Repos and Blobs are required.
type Config struct {
	Repos *Repos
	Blobs *blob.Store
	// Auth returns an error for a request that may not be served. It is also
	// asked about the source of a cross-repository mount, as a GET of the blob
	// there. Default: everything may be served.
	Auth func(r *http.Request) error
	// Space makes room for so many bytes, or says why it cannot. Default: none.
	Space func(ctx context.Context, need int64) error
	// MaxBlob limits one blob, in bytes. Default 32 GiB.
	MaxBlob int64
	// OnPush is told of every tag that was pushed. Default: nothing.
	OnPush func(repo, tag, digest string)
}

// Handler serves /v2/. Uploads that were never finished are dropped when the
// store is opened again, or after an hour without a byte.
type Handler struct {
	cfg     Config
	mu      sync.Mutex // guards uploads
	uploads map[string]*upload
}

// New returns a handler.
func New(cfg Config) *Handler {
	if cfg.Auth == nil {
		cfg.Auth = func(*http.Request) error { return nil }
	}
	if cfg.Space == nil {
		cfg.Space = func(context.Context, int64) error { return nil }
	}
	if cfg.MaxBlob == 0 {
		cfg.MaxBlob = 32 << 30
	}
	if cfg.OnPush == nil {
		cfg.OnPush = func(string, string, string) {}
	}
	return &Handler{cfg: cfg, uploads: make(map[string]*upload)}
}

// problem is an error as the distribution API words it.
type problem struct {
	status  int
	code    string
	message string
}

func (p problem) Error() string { return p.message }

func fail(status int, code, format string, args ...any) error {
	return problem{status, code, fmt.Sprintf(format, args...)}
}

// ServeHTTP serves one request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Docker-Distribution-API-Version", "registry/2.0")
	if err := h.serve(w, r); err != nil {
		writeProblem(w, err)
	}
}

func writeProblem(w http.ResponseWriter, err error) {
	var p problem
	var missing missingError
	switch {
	case errors.As(err, &p):
	case errors.As(err, &missing):
		p = problem{http.StatusBadRequest, "MANIFEST_BLOB_UNKNOWN", err.Error()}
	case errors.Is(err, blob.ErrMismatch):
		p = problem{http.StatusBadRequest, "DIGEST_INVALID", err.Error()}
	default:
		p = problem{http.StatusInternalServerError, "UNKNOWN", err.Error()}
	}
	type item struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(p.status)
	_ = json.NewEncoder(w).Encode(map[string][]item{"errors": {{p.code, p.message}}})
}

// serve finds what a path means: /v2/<name>/<kind>/<reference>.
func (h *Handler) serve(w http.ResponseWriter, r *http.Request) error {
	if err := h.authorize(w, r); err != nil {
		return err
	}
	path, ok := strings.CutPrefix(r.URL.Path, "/v2/")
	switch {
	case r.URL.Path == "/v2" || ok && path == "":
		w.Header().Set("Content-Type", "application/json")
		_, err := io.WriteString(w, "{}")
		return err
	case path == "_catalog":
		return h.catalog(w, r)
	}
	for _, kind := range []struct {
		mark  string
		serve func(w http.ResponseWriter, r *http.Request, repo, ref string) error
	}{
		{"/blobs/uploads/", h.serveUpload},
		{"/blobs/", h.serveBlob},
		{"/manifests/", h.serveManifest},
		{"/tags/", h.serveTags},
	} {
		if strings.HasSuffix(path, "/blobs/uploads") {
			path += "/"
		}
		at := strings.LastIndex(path, kind.mark)
		if at < 0 || strings.Contains(path[at+len(kind.mark):], "/") {
			continue
		}
		repo := path[:at]
		if !ValidName(repo) {
			return fail(http.StatusBadRequest, "NAME_INVALID", "repository name %q is not valid: use lower-case words with /, -, _ or . between them", repo)
		}
		return kind.serve(w, r, repo, path[at+len(kind.mark):])
	}
	return fail(http.StatusNotFound, "UNSUPPORTED", "there is nothing at %s", r.URL.Path)
}

func (h *Handler) authorize(w http.ResponseWriter, r *http.Request) error {
	err := h.cfg.Auth(r)
	if err == nil {
		return nil
	}
	if errors.Is(err, ErrDenied) {
		return fail(http.StatusForbidden, "DENIED", "%v", err)
	}
	w.Header().Set("WWW-Authenticate", `Basic realm="perigee"`)
	return fail(http.StatusUnauthorized, "UNAUTHORIZED", "%v", err)
}

func notAllowed(r *http.Request) error {
	return fail(http.StatusMethodNotAllowed, "UNSUPPORTED", "%s does not work here", r.Method)
}

// serveBlob answers /v2/<repo>/blobs/<digest>.
func (h *Handler) serveBlob(w http.ResponseWriter, r *http.Request, repo, digest string) error {
	if !blob.Valid(digest) {
		return fail(http.StatusBadRequest, "DIGEST_INVALID", "%q is not a sha256 digest", digest)
	}
	if _, ok := h.cfg.Repos.Blob(repo, digest); !ok {
		return fail(http.StatusNotFound, "BLOB_UNKNOWN", "blob %s is not in %q", digest, repo)
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		return h.sendBlob(w, r, digest)
	case http.MethodDelete:
		if err := h.cfg.Repos.Unlink(repo, digest); err != nil {
			return err
		}
		w.WriteHeader(http.StatusAccepted)
		return nil
	}
	return notAllowed(r)
}

func (h *Handler) sendBlob(w http.ResponseWriter, r *http.Request, digest string) error {
	f, err := h.cfg.Blobs.Get(digest)
	if err != nil {
		return fail(http.StatusNotFound, "BLOB_UNKNOWN", "blob %s is gone", digest)
	}
	defer f.Close()
	h.cfg.Blobs.Touch(digest) // a client that sees it will not send it again
	st, err := f.Stat()
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Docker-Content-Digest", digest)
	w.Header().Set("ETag", `"`+digest+`"`)
	http.ServeContent(w, r, "", st.ModTime(), f)
	return nil
}

// serveManifest answers /v2/<repo>/manifests/<tag or digest>.
func (h *Handler) serveManifest(w http.ResponseWriter, r *http.Request, repo, ref string) error {
	if !ValidTag(ref) && !blob.Valid(ref) {
		return fail(http.StatusBadRequest, "TAG_INVALID", "%q is neither a tag nor a sha256 digest", ref)
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		return h.sendManifest(w, r, repo, ref)
	case http.MethodPut:
		return h.putManifest(w, r, repo, ref)
	case http.MethodDelete:
		return h.deleteManifest(w, repo, ref)
	}
	return notAllowed(r)
}

func (h *Handler) sendManifest(w http.ResponseWriter, r *http.Request, repo, ref string) error {
	digest, mediaType, ok := h.cfg.Repos.Manifest(repo, ref)
	if !ok {
		return fail(http.StatusNotFound, "MANIFEST_UNKNOWN", "%s", NotFound(h.cfg.Repos, repo, ref))
	}
	content, err := h.cfg.Blobs.Read(digest, manifest.MaxSize)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Docker-Content-Digest", digest)
	w.Header().Set("ETag", `"`+digest+`"`)
	if when, ok := h.cfg.Repos.When(repo, digest); ok {
		w.Header().Set("Last-Modified", when.UTC().Format(http.TimeFormat))
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(content)))
	if r.Method == http.MethodGet {
		_, _ = w.Write(content) // the client is gone when this fails
	}
	return nil
}

// NotFound says that a repository has no such image, and which it has.
func NotFound(repos *Repos, repo, ref string) string {
	tags := repos.Tags(repo)
	switch {
	case len(tags) == 0:
		return fmt.Sprintf("there is no image %q in the built-in registry", repo)
	case len(tags) <= 10:
		return fmt.Sprintf("%q has no %s; it has the tags %s", repo, ref, strings.Join(tags, ", "))
	}
	return fmt.Sprintf("%q has no %s; it has %d other tags", repo, ref, len(tags))
}

func (h *Handler) putManifest(w http.ResponseWriter, r *http.Request, repo, ref string) error {
	content, err := io.ReadAll(io.LimitReader(r.Body, manifest.MaxSize+1))
	if err != nil {
		return fail(http.StatusBadRequest, "MANIFEST_INVALID", "cannot read the manifest: %v", err)
	}
	if len(content) > manifest.MaxSize {
		return fail(http.StatusRequestEntityTooLarge, "MANIFEST_INVALID", "the manifest is larger than %d bytes", manifest.MaxSize)
	}
	tag := ref
	if blob.Valid(ref) {
		tag = ""
		if got := blob.Of(content); got != ref {
			return fail(http.StatusBadRequest, "DIGEST_INVALID", "the manifest's digest is %s, not %s", got, ref)
		}
	}
	mediaType := r.Header.Get("Content-Type")
	if _, err := manifest.Parse(content, mediaType); err != nil {
		return fail(http.StatusBadRequest, "MANIFEST_INVALID", "%v", err)
	}
	digest, err := h.cfg.Repos.Put(repo, tag, mediaType, content)
	if err != nil {
		return err
	}
	if tag != "" {
		h.cfg.OnPush(repo, tag, digest)
	}
	w.Header().Set("Location", "/v2/"+repo+"/manifests/"+digest)
	w.Header().Set("Docker-Content-Digest", digest)
	w.WriteHeader(http.StatusCreated)
	return nil
}

func (h *Handler) deleteManifest(w http.ResponseWriter, repo, ref string) error {
	if _, _, ok := h.cfg.Repos.Manifest(repo, ref); !ok {
		return fail(http.StatusNotFound, "MANIFEST_UNKNOWN", "%s", NotFound(h.cfg.Repos, repo, ref))
	}
	remove := h.cfg.Repos.Untag
	if blob.Valid(ref) {
		remove = h.cfg.Repos.Delete
	}
	if err := remove(repo, ref); err != nil {
		return err
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// serveTags answers /v2/<repo>/tags/list.
func (h *Handler) serveTags(w http.ResponseWriter, r *http.Request, repo, ref string) error {
	if ref != "list" || r.Method != http.MethodGet {
		return notAllowed(r)
	}
	tags := h.cfg.Repos.Tags(repo)
	if len(tags) == 0 {
		return fail(http.StatusNotFound, "NAME_UNKNOWN", "there is no repository %q", repo)
	}
	page, err := paginate(w, r, tags)
	if err != nil {
		return err
	}
	return writeJSON(w, map[string]any{"name": repo, "tags": page})
}

func (h *Handler) catalog(w http.ResponseWriter, r *http.Request) error {
	page, err := paginate(w, r, h.cfg.Repos.List())
	if err != nil {
		return err
	}
	return writeJSON(w, map[string]any{"repositories": page})
}

// paginate cuts a sorted list as the n and last parameters ask and links to
// what follows.
func paginate(w http.ResponseWriter, r *http.Request, all []string) ([]string, error) {
	q := r.URL.Query()
	if last := q.Get("last"); last != "" {
		at, found := slices.BinarySearch(all, last)
		if found {
			at++
		}
		all = all[at:]
	}
	if q.Get("n") == "" {
		return append([]string{}, all...), nil
	}
	n, err := strconv.Atoi(q.Get("n"))
	if err != nil || n < 0 {
		return nil, fail(http.StatusBadRequest, "PAGINATION_NUMBER_INVALID", "n must be a number from 0 up")
	}
	if n > 0 && n < len(all) {
		next := url.Values{"n": {strconv.Itoa(n)}, "last": {all[n-1]}}
		w.Header().Set("Link", fmt.Sprintf(`<%s?%s>; rel="next"`, r.URL.Path, next.Encode()))
	}
	return append([]string{}, all[:min(n, len(all))]...), nil
}

func writeJSON(w http.ResponseWriter, v any) error {
	w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(w).Encode(v)
}
