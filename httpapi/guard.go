package httpapi

import (
	"net/http"
	"runtime/debug"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/perigee-run/perigee/api"
)

// guard is around all calls: it numbers them, survives their panics, logs them,
// and answers in the API's shape where no route fits.
func (s *Server) guard(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		id := ulid.Make().String()
		w.Header().Set(api.RequestIDHeader, id)
		rec := &Recorder{ResponseWriter: w}
		defer func() {
			s.survive(rec, r, id, recover())
			s.cfg.Logger.Debug("request", "request", id, "method", r.Method, "path", r.URL.Path, "status", rec.Status, "took", time.Since(began))
		}()
		if h, pattern := mux.Handler(r); pattern == "" {
			lost(rec, r, h)
			return
		}
		mux.ServeHTTP(rec, r)
	})
}

// SameSite refuses what a browser is made to call by a page of another site: it sends
// along what somebody once logged in with. Programs are let through, they send
// neither Origin nor Sec-Fetch-Site.
func SameSite(h http.Handler) http.Handler {
	pages := http.NewCrossOriginProtection()
	pages.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		writeError(w, api.Errorf(api.CodeForbidden, "the call comes from a page of another site").WithHint("call the API from a program, or from a page of its own address"))
	}))
	return pages.Handler(h)
}

// survive answers for a handler that panicked.
func (s *Server) survive(rec *Recorder, r *http.Request, id string, p any) {
	switch {
	case p == nil:
		return
	case p == http.ErrAbortHandler:
		panic(p) // the connection is to break off
	}
	s.cfg.Logger.Error("request panicked", "request", id, "method", r.Method, "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
	if rec.Status == 0 {
		writeError(rec, api.Errorf(api.CodeInternal, "the node failed on this request").WithHint("report it with request id "+id))
	}
}

// lost answers where no route fits: with 405 if the path has other methods.
func lost(w http.ResponseWriter, r *http.Request, h http.Handler) {
	probe := &answer{header: http.Header{}}
	h.ServeHTTP(probe, r)
	switch {
	case probe.status == http.StatusMethodNotAllowed:
		allow := probe.header.Get("Allow")
		w.Header().Set("Allow", allow)
		e := api.Errorf(api.CodeBadRequest, "%s does not take %s", r.URL.Path, r.Method).WithHint("it takes " + allow)
		e.Status = http.StatusMethodNotAllowed
		writeError(w, e)
	case probe.status >= 300 && probe.status < 400:
		h.ServeHTTP(w, r)
	default:
		writeError(w, api.Errorf(api.CodeNotFound, "there is no %s in this API", r.URL.Path).WithHint("GET /docs lists what there is"))
	}
}

// answer keeps the head of an answer that is not sent.
type answer struct {
	header http.Header
	status int
}

// Header makes answer an http.ResponseWriter.
func (a *answer) Header() http.Header { return a.header }

// WriteHeader keeps the status.
func (a *answer) WriteHeader(status int) { a.status = status }

// Write drops the body.
func (a *answer) Write(b []byte) (int, error) { return len(b), nil }

// Recorder remembers the status of an answer, for logs; 0 while nothing is sent.
type Recorder struct {
	http.ResponseWriter
	Status int
}

// WriteHeader remembers the first status.
func (r *Recorder) WriteHeader(status int) {
	if r.Status == 0 {
		r.Status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

// Write implies 200.
func (r *Recorder) Write(b []byte) (int, error) {
	if r.Status == 0 {
		r.Status = http.StatusOK
	}
	return r.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController and WebSockets reach the connection.
func (r *Recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }
