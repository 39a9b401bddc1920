package httpapi

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
)

// TestRecorder: an answer without a status of its own is 200, in the audit log too.
func TestRecorder(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(w http.ResponseWriter)
		want int
	}{
		"nothing":  {func(http.ResponseWriter) {}, 0},
		"a body":   {func(w http.ResponseWriter) { _, _ = io.WriteString(w, "{}") }, 200},
		"a status": {func(w http.ResponseWriter) { w.WriteHeader(201); _, _ = io.WriteString(w, "{}") }, 201},
	} {
		r := &Recorder{ResponseWriter: httptest.NewRecorder()}
		if c.do(r); r.Status != c.want {
			t.Errorf("%s: %d, want %d", name, r.Status, c.want)
		}
	}
}
