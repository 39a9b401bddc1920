package cli

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/perigee-run/perigee/internal/exit"
)

func TestBrokenOff(t *testing.T) {
	for _, end := range []error{io.EOF, io.ErrUnexpectedEOF} {
		if code := exitCode(brokenOff(fmt.Errorf("the stream broke off: %w", end))); code != exit.Unreachable {
			t.Errorf("%v: exit code %d", end, code)
		}
	}
	if code := exitCode(brokenOff(errors.New("no room"))); code != exit.Failure {
		t.Errorf("another error: exit code %d", code)
	}
}

// TestWhyEnded: a session that ends with its token says so.
func TestWhyEnded(t *testing.T) {
	for status, want := range map[int]int{401: exit.Auth, 200: exit.Unreachable} {
		node := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			fmt.Fprint(w, map[int]string{401: `{"error":"the token was revoked","code":"unauthorized"}`, 200: "[]"}[status])
		}))
		e := &env{addr: node.URL, app: "shop", token: "x"}
		if code := exitCode(e.whyEnded(t.Context(), unreachable{io.EOF})); code != want {
			t.Errorf("status %d: exit code %d, want %d", status, code, want)
		}
		node.Close()
	}
}
