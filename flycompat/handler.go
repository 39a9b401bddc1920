package flycompat

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strings"

	"github.com/perigee-run/perigee/api"
)

// maxBody bounds what is read of a request: definitions are the largest.
const maxBody = 2 << 20

// Wrap answers flyctl's calls by calling house, the node's API, and gives house
// all the others.
func Wrap(house http.Handler) http.Handler {
	s := &server{house: house, rest: http.NewServeMux(), schema: newSchema()}
	s.routes()
	return s
}

// server is one face of the API with flyctl's calls in front.
type server struct {
	house  http.Handler
	rest   *http.ServeMux
	schema schema
}

// ServeHTTP parts flyctl's calls from those of the house.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path == "/graphql":
		s.graphql(w, r)
	case strings.HasPrefix(r.URL.Path, "/api/v1/"):
		s.rest.ServeHTTP(w, r)
	default:
		s.house.ServeHTTP(w, r)
	}
}

// as is a client of the house's API that acts for who made the request.
func (s *server) as(r *http.Request) *api.Client {
	c, err := api.NewClient(api.ClientConfig{Addr: "http://house", UserAgent: r.UserAgent(), Transport: inside{s.house, r.RemoteAddr}})
	if err != nil {
		panic(err) // the address is a constant
	}
	if auth := r.Header.Get("Authorization"); auth != "" {
		c = c.With("Authorization", auth)
	}
	return c
}

// inside carries calls to a handler of the same process, which sees them come from
// where the caller is.
type inside struct {
	to   http.Handler
	from string
}

// RoundTrip implements http.RoundTripper. The answer is whole when it returns.
func (t inside) RoundTrip(r *http.Request) (*http.Response, error) {
	a := &answer{header: http.Header{}, status: http.StatusOK}
	in := r.Clone(r.Context())
	in.RequestURI, in.RemoteAddr = r.URL.RequestURI(), t.from
	if in.Body == nil {
		in.Body = http.NoBody
	}
	t.to.ServeHTTP(a, in)
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	return &http.Response{
		StatusCode: a.status, Status: http.StatusText(a.status), Header: a.header, Request: r, ContentLength: int64(a.body.Len()),
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Body: io.NopCloser(&a.body),
	}, nil
}

// answer keeps what a handler writes.
type answer struct {
	header http.Header
	status int
	began  bool
	body   bytes.Buffer
}

// Header makes answer an http.ResponseWriter.
func (a *answer) Header() http.Header { return a.header }

// WriteHeader keeps the first status.
func (a *answer) WriteHeader(status int) {
	if !a.began {
		a.status, a.began = status, true
	}
}

// Write keeps the body.
func (a *answer) Write(b []byte) (int, error) {
	a.began = true
	return a.body.Write(b)
}

// Flush does nothing: who asks waits for the whole.
func (a *answer) Flush() {}

// callerKey finds the caller's client in the context of a GraphQL request.
type callerKey struct{}

func caller(ctx context.Context) *api.Client { return ctx.Value(callerKey{}).(*api.Client) }
