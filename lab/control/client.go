package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"

	"github.com/perigee-run/perigee/lab/fabric"
)

// ErrNoLab is what calls fail with where no lab runs.
var ErrNoLab = errors.New("no lab runs")

// Refused is the error of what the lab did not do.
type Refused struct{ Words string }

// Error implements error.
func (e Refused) Error() string { return e.Words }

// Client speaks to the lab of one directory.
type Client struct {
	dir  string
	http *http.Client
}

// NewClient makes a client; it does not connect yet.
func NewClient(dir string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(dir, Socket))
	}
	return &Client{dir: dir, http: &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}}
}

// Status asks what the lab is.
func (c *Client) Status(ctx context.Context) (s Status, err error) {
	return s, c.call(ctx, http.MethodGet, "/status", nil, &s)
}

// Routes asks what every city knows of anycast prefixes.
func (c *Client) Routes(ctx context.Context) (r []fabric.Route, err error) {
	return r, c.call(ctx, http.MethodGet, "/routes", nil, &r)
}

// Change changes the network.
func (c *Client) Change(ctx context.Context, ch Change) error {
	return c.call(ctx, http.MethodPost, "/change", ch, nil)
}

// Visit makes a request from a host of the lab.
func (c *Client) Visit(ctx context.Context, req VisitRequest) (v Visit, err error) {
	return v, c.call(ctx, http.MethodPost, "/visit", req, &v)
}

// Down ends the lab. It is gone when its directory's lock is free.
func (c *Client) Down(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, "/down", nil, nil)
}

func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://lab"+path, body)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return fmt.Errorf("%w in %s: %w", ErrNoLab, c.dir, op.Err)
	}
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return answer(resp, out)
}

func answer(resp *http.Response, out any) error {
	if resp.StatusCode >= 400 {
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
		words := strings.TrimSpace(string(b))
		if resp.StatusCode == http.StatusNotFound {
			return fabric.NotFound{Words: words}
		}
		return Refused{words}
	}
	if out == nil {
		return nil
	}
	return json.NewDecoder(resp.Body).Decode(out)
}
