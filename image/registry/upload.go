package registry

import (
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/perigee-run/perigee/image/blob"
)

const (
	maxUploads = 256 // at once; each holds an open file
	idleUpload = time.Hour
)

// upload is a blob on its way in.
type upload struct {
	repo  string
	mu    sync.Mutex // held while bytes are written or the upload ends
	w     *blob.Writer
	moved time.Time // last byte; guarded by Handler.mu
}

// serveUpload answers /v2/<repo>/blobs/uploads/<id>.
func (h *Handler) serveUpload(w http.ResponseWriter, r *http.Request, repo, id string) error {
	if id == "" {
		if r.Method != http.MethodPost {
			return notAllowed(r)
		}
		return h.startUpload(w, r, repo)
	}
	u := h.find(repo, id)
	if u == nil {
		return fail(http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN", "there is no such upload; start the push again")
	}
	if !u.mu.TryLock() {
		return fail(http.StatusConflict, "BLOB_UPLOAD_INVALID", "another request is writing to this upload")
	}
	defer u.mu.Unlock()
	switch r.Method {
	case http.MethodGet:
		u.describe(w, id)
		w.WriteHeader(http.StatusNoContent)
		return nil
	case http.MethodPatch:
		return h.patch(w, r, u, id)
	case http.MethodPut:
		return h.finish(w, r, u, id)
	case http.MethodDelete:
		h.drop(id, u)
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	return notAllowed(r)
}

func (h *Handler) find(repo, id string) *upload {
	h.mu.Lock()
	defer h.mu.Unlock()
	u := h.uploads[id]
	if u == nil || u.repo != repo {
		return nil
	}
	u.moved = time.Now()
	return u
}

// drop ends an upload whose lock is held.
func (h *Handler) drop(id string, u *upload) {
	h.mu.Lock()
	delete(h.uploads, id)
	h.mu.Unlock()
	u.w.Abort()
}

// describe tells the client where to go on and from which byte.
func (u *upload) describe(w http.ResponseWriter, id string) {
	w.Header().Set("Location", "/v2/"+u.repo+"/blobs/uploads/"+id)
	w.Header().Set("Range", fmt.Sprintf("0-%d", max(0, u.w.Size()-1)))
	w.Header().Set("Docker-Upload-UUID", id)
}

func (h *Handler) startUpload(w http.ResponseWriter, r *http.Request, repo string) error {
	q := r.URL.Query()
	if digest := q.Get("mount"); digest != "" && h.mount(r, repo, q.Get("from"), digest) {
		created(w, repo, digest)
		return nil
	}
	h.expire()
	bw, err := h.cfg.Blobs.Create()
	if err != nil {
		return err
	}
	u := &upload{repo: repo, w: bw, moved: time.Now()}
	u.mu.Lock()
	defer u.mu.Unlock()
	id := rand.Text()
	if !h.add(id, u) {
		bw.Abort()
		return fail(http.StatusTooManyRequests, "TOOMANYREQUESTS", "%d uploads are under way; try again later", maxUploads)
	}
	if q.Get("digest") != "" {
		return h.finish(w, r, u, id)
	}
	u.describe(w, id)
	w.WriteHeader(http.StatusAccepted)
	return nil
}

func (h *Handler) add(id string, u *upload) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.uploads) >= maxUploads {
		return false
	}
	h.uploads[id] = u
	return true
}

// expire drops uploads that nobody goes on with.
func (h *Handler) expire() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for id, u := range h.uploads {
		if time.Since(u.moved) > idleUpload && u.mu.TryLock() {
			delete(h.uploads, id)
			u.w.Abort()
			u.mu.Unlock()
		}
	}
}

// mount takes a blob over from another repository that the client may read.
func (h *Handler) mount(r *http.Request, repo, from, digest string) bool {
	if !blob.Valid(digest) {
		return false
	}
	if _, ok := h.cfg.Repos.Blob(repo, digest); ok {
		return h.cfg.Repos.Link(repo, digest) == nil
	}
	if !ValidName(from) {
		return false
	}
	if _, ok := h.cfg.Repos.Blob(from, digest); !ok {
		return false
	}
	source := r.Clone(r.Context())
	source.Method = http.MethodGet
	source.Body = http.NoBody
	source.URL = &url.URL{Path: "/v2/" + from + "/blobs/" + digest}
	source.RequestURI = source.URL.Path
	return h.cfg.Auth(source) == nil && h.cfg.Repos.Link(repo, digest) == nil
}

func (h *Handler) patch(w http.ResponseWriter, r *http.Request, u *upload, id string) error {
	if err := u.checkRange(r.Header.Get("Content-Range")); err != nil {
		u.describe(w, id)
		return err
	}
	if err := h.receive(r, u); err != nil {
		return err
	}
	u.describe(w, id)
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// checkRange makes sure that a chunk goes on where the last one ended.
func (u *upload) checkRange(header string) error {
	if header == "" {
		return nil
	}
	var from, to int64
	if _, err := fmt.Sscanf(strings.TrimPrefix(header, "bytes "), "%d-%d", &from, &to); err != nil || from != u.w.Size() || to < from {
		return fail(http.StatusRequestedRangeNotSatisfiable, "BLOB_UPLOAD_INVALID", "chunk %q does not begin at byte %d", header, u.w.Size())
	}
	return nil
}

// receive appends a request's body to the upload.
func (h *Handler) receive(r *http.Request, u *upload) error {
	if r.ContentLength > 0 {
		if err := h.cfg.Space(r.Context(), r.ContentLength); err != nil {
			return fail(http.StatusInsufficientStorage, "DENIED", "%v", err)
		}
	}
	room := h.cfg.MaxBlob - u.w.Size()
	n, err := io.Copy(u.w, io.LimitReader(r.Body, room+1))
	if n > room {
		return fail(http.StatusRequestEntityTooLarge, "SIZE_INVALID", "the blob is larger than %d bytes", h.cfg.MaxBlob)
	}
	if err != nil {
		return fail(http.StatusBadRequest, "BLOB_UPLOAD_INVALID", "cannot take the blob in: %v", err)
	}
	return nil
}

// finish takes the last bytes and gives the blob its name.
func (h *Handler) finish(w http.ResponseWriter, r *http.Request, u *upload, id string) error {
	defer h.drop(id, u)
	digest := r.URL.Query().Get("digest")
	if !blob.Valid(digest) {
		return fail(http.StatusBadRequest, "DIGEST_INVALID", "%q is not a sha256 digest", digest)
	}
	if err := h.receive(r, u); err != nil {
		return err
	}
	if err := u.w.Commit(digest, -1); err != nil {
		return err
	}
	if err := h.cfg.Repos.Link(u.repo, digest); err != nil {
		return err
	}
	created(w, u.repo, digest)
	return nil
}

func created(w http.ResponseWriter, repo, digest string) {
	w.Header().Set("Location", "/v2/"+repo+"/blobs/"+digest)
	w.Header().Set("Docker-Content-Digest", digest)
	w.WriteHeader(http.StatusCreated)
}
