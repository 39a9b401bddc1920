package httpapi

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/perigee-run/perigee/api"
)

// doorkeeper lets in for some time.
type doorkeeper struct{ left atomic.Int64 }

func (d *doorkeeper) Authenticate(*http.Request) (Principal, error) {
	if d.left.Add(-1) < 0 {
		return Principal{}, errors.New("revoked")
	}
	return Principal{}, nil
}

// TestRevokedMeanwhile: what lasts ends when its token does, and nothing else is asked
// about again.
func TestRevokedMeanwhile(t *testing.T) {
	s := &Server{cfg: Config{AskAgain: time.Millisecond}}
	for _, tt := range []struct {
		name  string
		token string
		r     route
		ends  bool
	}{
		{"a stream", "t1", route{access: reads, endpoint: stream[none, api.LogLine]{}}, true},
		{"a command", "t1", route{access: execs, endpoint: get(func(*call) (none, error) { return none{}, nil })}, true},
		{"the cloud's own", "", route{access: reads, endpoint: stream[none, api.LogLine]{}}, false},
		{"a short one", "t1", route{access: reads, endpoint: get(func(*call) (none, error) { return none{}, nil })}, false},
	} {
		door := &doorkeeper{}
		door.left.Store(3)
		c := &call{server: s, route: &tt.r, who: Principal{Token: tt.token}, r: httptest.NewRequest("GET", "/", nil)}
		ctx, end := c.whileLetIn(door)
		if tt.ends {
			<-ctx.Done()
		} else if ctx.Err() != nil || door.left.Load() != 3 {
			t.Errorf("%s: %v, asked", tt.name, ctx.Err())
		}
		end()
	}
}

// TestProgramsOfOurs: a token for some commands gets none of the programs that come
// with the sandbox, which read and write files.
func TestProgramsOfOurs(t *testing.T) {
	k := newKit(t)
	m := k.machine(t, "shop")
	made, err := k.CreateToken(t.Context(), "personal", api.CreateTokenRequest{Kind: api.TokenMachineExec, App: "shop", Commands: [][]string{{"date"}}})
	if err != nil {
		t.Fatal(err)
	}
	c, err := api.NewClient(api.ClientConfig{Addr: k.url, Token: made.Token})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for _, req := range []api.ExecStreamRequest{{Program: "sftp"}, {Program: "sftp", Command: []string{"date"}}} {
		if _, err := c.ExecStream(ctx, "shop", m.ID, req, api.ExecIO{}); !api.IsCode(err, api.CodeForbidden) {
			t.Errorf("%+v: %v", req, err)
		}
	}
}

// TestSameSite: no page has a browser change anything with what it is logged in by.
func TestSameSite(t *testing.T) {
	h := SameSite(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }))
	for _, tt := range []struct {
		method, name, value string
		want                int
	}{
		{"POST", "", "", http.StatusTeapot}, {"GET", "Origin", "http://evil.example", http.StatusTeapot},
		{"POST", "Origin", "http://evil.example", http.StatusForbidden}, {"DELETE", "Sec-Fetch-Site", "cross-site", http.StatusForbidden},
		{"POST", "Origin", "http://node.example:4280", http.StatusTeapot},
	} {
		r, w := httptest.NewRequest(tt.method, "http://node.example:4280/v1/apps", nil), httptest.NewRecorder()
		if tt.name != "" {
			r.Header.Set(tt.name, tt.value)
		}
		if h.ServeHTTP(w, r); w.Code != tt.want {
			t.Errorf("%+v: %d %s", tt, w.Code, w.Body)
		}
	}
}
