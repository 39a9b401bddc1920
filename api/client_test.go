package api

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func newClient(t *testing.T, answer http.HandlerFunc) *Client {
	t.Helper()
	s := httptest.NewServer(answer)
	c, err := NewClient(ClientConfig{Addr: s.URL + "/", Token: "t", UserAgent: "test/1"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		s.Close()
	})
	return c
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		name, body string
		status     int
		want       Error
	}{
		{"ours", `{"error":"no","code":"conflict","field":"f","hint":"h"}`, 409, Error{Message: "no", Code: CodeConflict, Field: "f", Hint: "h", Status: 409}},
		{"a proxy's page", "<h1>Bad Gateway</h1>", 502, Error{Message: "<h1>Bad Gateway</h1>", Code: CodeInternal, Status: 502}},
		{"nothing", "", 404, Error{Message: "the node answered 404 Not Found", Code: CodeNotFound, Status: 404}},
		{"other JSON", `{"detail":"x"}`, 401, Error{Message: `{"detail":"x"}`, Code: CodeUnauthorized, Status: 401}},
	} {
		t.Run(c.name, func(t *testing.T) {
			client := newClient(t, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(c.status)
				io.WriteString(w, c.body)
			})
			_, err := client.GetApp(t.Context(), "a")
			var e *Error
			if !errors.As(err, &e) || e.Message != c.want.Message || e.Code != c.want.Code || e.Status != c.want.Status || e.Field != c.want.Field || e.Hint != c.want.Hint {
				t.Errorf("error = %+v, want %+v", e, c.want)
			}
		})
	}
}

func TestRequestsCarry(t *testing.T) {
	var got *http.Request
	c := newClient(t, func(w http.ResponseWriter, r *http.Request) {
		got = r
		io.WriteString(w, `{}`)
	})
	if err := c.WithLease("n").DeleteMetadata(t.Context(), "shop", "m/../x", "a b?"); err != nil {
		t.Fatal(err)
	}
	if got.URL.EscapedPath() != "/v1/apps/shop/machines/m%2F..%2Fx/metadata/a%20b%3F" {
		t.Errorf("path = %s", got.URL.EscapedPath())
	}
	for _, name := range []string{"", ".", ".."} {
		if err := c.CordonNode(t.Context(), name); !IsCode(err, CodeInvalid) {
			t.Errorf("node %q: %v", name, err)
		}
	}
	if h := got.Header; h.Get("Authorization") != "Bearer t" || h.Get(NonceHeader) != "n" || h.Get("User-Agent") != "test/1" {
		t.Errorf("header = %v", h)
	}
}

func TestStreams(t *testing.T) {
	body := ""
	c := newClient(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, body) })
	for _, s := range []struct {
		body  string
		lines int
		err   string
	}{
		{`{"kind":"step"}` + "\n" + `{"kind":"done","image":"x"}` + "\n", 2, ""},
		{`{"kind":"step"}` + "\n" + `{"kind":"error","error":{"error":"no","code":"image"}}` + "\n" + `{"kind":"step"}`, 1, "no"},
		{`{"kind":"st`, 0, "cannot read the node's stream"},
		{"", 0, ""},
	} {
		body = s.body
		n, failed := 0, ""
		for _, err := range c.PullImage(t.Context(), "x") {
			if err != nil {
				failed = err.Error()
				continue
			}
			n++
		}
		if n != s.lines || !strings.HasPrefix(failed, s.err) || (s.err == "") != (failed == "") {
			t.Errorf("%q: %d lines, error %q", s.body, n, failed)
		}
	}
}

func TestDurations(t *testing.T) {
	for text, want := range map[string]time.Duration{`"1m30s"`: 90 * time.Second, `1000000000`: time.Second, `null`: 0} {
		var d Duration
		if err := json.Unmarshal([]byte(text), &d); err != nil || time.Duration(d) != want {
			t.Errorf("%s = %v, %v", text, d, err)
		}
	}
	for _, text := range []string{`"soon"`, `[]`, `{}`, `true`} {
		var d Duration
		if err := json.Unmarshal([]byte(text), &d); err == nil {
			t.Errorf("%s is taken as %v", text, d)
		}
	}
}
