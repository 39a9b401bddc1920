package api

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
)

// NonceHeader carries the nonce of the caller's lease on a machine.
const NonceHeader = "fly-machine-lease-nonce"

// RequestIDHeader is on every answer; quote it when something went wrong.
const RequestIDHeader = "fly-request-id"

// IdempotencyHeader names a creation: one that is sent again under the same name
// makes nothing new.
const IdempotencyHeader = "Idempotency-Key"

// CallerHeader names the one for whom a node passes a call on to another node.
// It is looked at only when the call comes from a node.
const CallerHeader = "Perigee-Caller"

// ClientConfig says how a node is reached.
type ClientConfig struct {
	// Addr is "unix:///path/of/socket", "http://host:port" or "https://host".
	Addr string
	// Token is the node's token; a unix socket needs none.
	Token string
	// UserAgent names the calling program. Default "perigee-go".
	UserAgent string
	// Transport replaces the connection, for tests and proxies. Default: one of
	// the client's own.
	Transport http.RoundTripper
	// Upgrade carries WebSockets, which need HTTP/1.1. Default: Transport, without
	// HTTP/2 where it is an *http.Transport.
	Upgrade http.RoundTripper
}

// Client speaks to one node. Its methods may be called from any goroutine; the
// errors that the node answered are *Error, all others are the connection's.
type Client struct {
	base  string
	token string
	agent string
	nonce string
	extra http.Header
	http  *http.Client
	// sockets makes WebSockets, which need HTTP/1.1.
	sockets *http.Client
}

// NewClient makes a client; it does not connect yet.
func NewClient(cfg ClientConfig) (*Client, error) {
	u, err := url.Parse(cfg.Addr)
	if err != nil {
		return nil, fmt.Errorf("cannot use address %q: %w", cfg.Addr, err)
	}
	c := &Client{base: strings.TrimSuffix(cfg.Addr, "/"), token: cfg.Token, agent: cfg.UserAgent}
	if c.agent == "" {
		c.agent = "perigee-go"
	}
	switch {
	case u.Scheme == "unix" && u.Path != "":
		c.base = "http://perigee"
	case (u.Scheme == "http" || u.Scheme == "https") && u.Host != "":
	default:
		return nil, fmt.Errorf("cannot use address %q: it is not unix:///path, http://host:port or https://host", cfg.Addr)
	}
	if cfg.Transport == nil {
		cfg.Transport = ownTransport(u)
	}
	if cfg.Upgrade == nil {
		cfg.Upgrade = oldHTTP(cfg.Transport)
	}
	c.http, c.sockets = &http.Client{Transport: cfg.Transport}, &http.Client{Transport: cfg.Upgrade}
	return c, nil
}

func ownTransport(u *url.URL) *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	if u.Scheme == "unix" {
		t.Proxy = nil
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", u.Path)
		}
	}
	return t
}

// oldHTTP is t without HTTP/2, which cannot carry a WebSocket.
func oldHTTP(t http.RoundTripper) http.RoundTripper {
	known, ok := t.(*http.Transport)
	if !ok {
		return t
	}
	old := known.Clone()
	old.ForceAttemptHTTP2, old.TLSNextProto, old.Protocols = false, map[string]func(string, *tls.Conn) http.RoundTripper{}, nil
	if old.TLSClientConfig != nil {
		old.TLSClientConfig.NextProtos = []string{"http/1.1"} // Clone has copied the configuration
	}
	return old
}

// WithLease returns a client that acts on machines under the lease with the
// nonce.
func (c *Client) WithLease(nonce string) *Client {
	d := *c
	d.nonce = nonce
	return &d
}

// With returns a client that sends one more header.
func (c *Client) With(header, value string) *Client {
	d := *c
	d.extra = c.extra.Clone()
	if d.extra == nil {
		d.extra = http.Header{}
	}
	d.extra.Set(header, value)
	return &d
}

// Do makes a call that has no method of its own: in is sent as JSON unless it is
// nil, and the answer is read into out unless that is nil.
func (c *Client) Do(ctx context.Context, method, path string, query url.Values, in, out any) error {
	return c.call(ctx, method, path, query, in, out)
}

// Close closes the connections that are idle. The client stays usable.
func (c *Client) Close() {
	c.http.CloseIdleConnections()
	c.sockets.CloseIdleConnections()
}

// pathf fills escaped path segments into format.
func pathf(format string, segments ...string) string {
	a := make([]any, len(segments))
	for i, s := range segments {
		a[i] = url.PathEscape(s)
	}
	return "/v1" + fmt.Sprintf(format, a...)
}

// checkPath refuses names that would make it another path.
func checkPath(path string) error {
	for _, name := range strings.Split(path, "/")[1:] {
		if name == "" || name == "." || name == ".." {
			return Errorf(CodeInvalid, "cannot call %s: %q in it is not a name", path, name)
		}
	}
	return nil
}

// call sends in as JSON (nil: no body) and reads the answer into out (nil: not
// looked at).
func (c *Client) call(ctx context.Context, method, path string, query url.Values, in, out any) error {
	_, err := c.callHead(ctx, method, path, query, in, out)
	return err
}

// callHead is call for who looks at the headers of the answer too.
func (c *Client) callHead(ctx context.Context, method, path string, query url.Values, in, out any) (http.Header, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("cannot write request: %w", err)
		}
		body = bytes.NewReader(b)
	}
	resp, err := c.send(ctx, method, path, query, "application/json", body)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if out == nil || resp.StatusCode == http.StatusNoContent {
		_, err := io.Copy(io.Discard, resp.Body)
		return resp.Header, err
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return nil, fmt.Errorf("cannot read the node's answer to %s %s: %w", method, path, err)
	}
	return resp.Header, nil
}

// send makes the request and turns refusals into errors; the caller closes the
// body of the answer.
func (c *Client) send(ctx context.Context, method, path string, query url.Values, contentType string, body io.Reader) (*http.Response, error) {
	if err := checkPath(path); err != nil {
		return nil, err
	}
	target := c.base + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		return nil, fmt.Errorf("cannot make request: %w", err)
	}
	c.header(req.Header)
	if body != nil {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode >= 400 {
		defer resp.Body.Close()
		return nil, refusal(resp)
	}
	return resp, nil
}

func (c *Client) header(h http.Header) {
	h.Set("User-Agent", c.agent)
	h.Set("Accept", "application/json, application/x-ndjson")
	if c.token != "" {
		h.Set("Authorization", "Bearer "+c.token)
	}
	if c.nonce != "" {
		h.Set(NonceHeader, c.nonce)
	}
	maps.Copy(h, c.extra)
}

// refusal reads the error of an answer. One that is not in our shape comes from
// something in between.
func refusal(resp *http.Response) error {
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	var e Error
	if err := json.Unmarshal(b, &e); err != nil || e.Message == "" {
		e = Error{Message: strings.TrimSpace(string(b)), Code: codeOf(resp.StatusCode)}
		if e.Message == "" {
			e.Message = "the node answered " + resp.Status
		}
	}
	e.Status = resp.StatusCode
	return &e
}

// codeOf is the code that fits a bare HTTP status.
func codeOf(status int) string {
	switch status {
	case http.StatusUnauthorized:
		return CodeUnauthorized
	case http.StatusForbidden:
		return CodeForbidden
	case http.StatusNotFound:
		return CodeNotFound
	case http.StatusConflict:
		return CodeConflict
	case http.StatusRequestTimeout:
		return CodeTimeout
	case http.StatusTooManyRequests:
		return CodeRateLimited
	}
	if status < 500 {
		return CodeBadRequest
	}
	return CodeInternal
}

// ok calls a verb whose answer has nothing to tell.
func (c *Client) ok(ctx context.Context, method, path string, query url.Values, in any) error {
	return c.call(ctx, method, path, query, in, nil)
}

// lines sends a request and gives each line of the NDJSON answer to yield.
func lines[T any](ctx context.Context, c *Client, method, path string, query url.Values, contentType string, body io.Reader, yield func(T, error) bool) {
	var zero T
	up := &upload{r: body}
	if body != nil {
		body = up
	}
	resp, err := c.send(ctx, method, path, query, contentType, body)
	if err != nil {
		yield(zero, up.or(err))
		return
	}
	defer resp.Body.Close()
	dec := json.NewDecoder(resp.Body)
	for {
		var v T
		switch err := dec.Decode(&v); {
		case errors.Is(err, io.EOF):
			return
		case err != nil:
			yield(zero, up.or(fmt.Errorf("cannot read the node's stream: %w", err)))
			return
		}
		if !yield(v, nil) {
			return
		}
	}
}

// upload remembers why the body could not be read: the connection's error that
// follows from it says nothing.
type upload struct {
	r      io.Reader
	failed atomic.Pointer[error]
}

// Read reads the body.
func (u *upload) Read(p []byte) (int, error) {
	n, err := u.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		u.failed.Store(&err)
	}
	return n, err
}

func (u *upload) or(err error) error {
	if f := u.failed.Load(); f != nil {
		return fmt.Errorf("cannot read what is to be sent: %w", *f)
	}
	return err
}
