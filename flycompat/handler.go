package flycompat

import (
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

// RoundTrip implements http.RoundTripper. The answer comes as it is written: a log is
// long. Who closes its body ends the call.
func (t inside) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(r.Context())
	out, body := io.Pipe()
	a := &answer{header: http.Header{}, body: body, began: make(chan struct{}), ended: make(chan struct{})}
	in := r.Clone(ctx)
	in.RequestURI, in.RemoteAddr = r.URL.RequestURI(), t.from
	if in.Body == nil {
		in.Body = http.NoBody
	}
	go a.from(t.to, in)
	<-a.began
	rest := &rest{out, cancel, a.ended}
	if err := r.Context().Err(); err != nil {
		rest.Close()
		return nil, err
	}
	return &http.Response{
		StatusCode: a.status, Status: http.StatusText(a.status), Header: a.sent, Request: r, ContentLength: -1,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Body: rest,
	}, nil
}

// rest is the body of an answer that is being written.
type rest struct {
	*io.PipeReader
	cancel context.CancelFunc
	ended  chan struct{}
}

// Close ends the call and waits until it has ended.
func (r *rest) Close() error {
	r.cancel()
	err := r.PipeReader.Close()
	<-r.ended
	return err
}

// answer hands on what a handler writes.
type answer struct {
	header, sent http.Header
	status       int
	body         *io.PipeWriter
	began, ended chan struct{}
}

// from has the handler write the answer. One that breaks off breaks off here.
func (a *answer) from(h http.Handler, r *http.Request) {
	defer close(a.ended)
	defer func() {
		broke := recover()
		a.WriteHeader(http.StatusOK)
		if broke != nil {
			_ = a.body.CloseWithError(io.ErrUnexpectedEOF)
			return
		}
		a.body.Close()
	}()
	h.ServeHTTP(a, r)
}

// Header makes answer an http.ResponseWriter.
func (a *answer) Header() http.Header { return a.header }

// WriteHeader keeps the first status.
func (a *answer) WriteHeader(status int) {
	if a.status == 0 {
		a.status, a.sent = status, a.header.Clone()
		close(a.began)
	}
}

// Write waits for who reads.
func (a *answer) Write(b []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	return a.body.Write(b)
}

// Flush does nothing: nothing is held back.
func (a *answer) Flush() {}

// callerKey finds the caller's client in the context of a GraphQL request.
type callerKey struct{}

func caller(ctx context.Context) *api.Client { return ctx.Value(callerKey{}).(*api.Client) }
