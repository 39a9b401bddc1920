package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/perigee-run/perigee/api"
)

// TestFollow breaks a deploy's stream and lets the node be away for a moment.
func TestFollow(t *testing.T) {
	for _, test := range []struct{ status, says string }{
		{api.ReleaseComplete, ""},
		{api.ReleaseFailed, "it did not listen"},
	} {
		t.Run(test.status, func(t *testing.T) {
			node := httptest.NewServer(breaking(t, test.status))
			defer node.Close()
			client, err := api.NewClient(api.ClientConfig{Addr: node.URL})
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			e := &env{IO: IO{Out: &out, Err: &out}}
			rel, err := e.follow(t.Context(), client, "shop", client.Deploy(t.Context(), "shop", api.DeployRequest{}), e.newProgress())
			if test.says == "" && (err != nil || rel == nil || rel.Version != 5) {
				t.Errorf("%v, %v", rel, err)
			}
			if test.says != "" && (!api.IsCode(err, api.CodeDeployFailed) || !strings.Contains(err.Error(), test.says)) {
				t.Errorf("error %v", err)
			}
			if !strings.Contains(out.String(), "connection to the node broke") {
				t.Errorf("shown:\n%s", &out)
			}
		})
	}
}

// breaking is a node that dies in the deploy of v5, comes back, and ends it.
func breaking(t *testing.T, status string) http.Handler {
	var deployed atomic.Bool
	var polls atomic.Int32
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			deployed.Store(true)
			w.Write([]byte(`{"kind":"step","message":"starting"}` + "\n"))
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}
		list := []api.Release{{App: "shop", Version: 4, Status: api.ReleaseComplete, FinishedAt: new(time.Time)}}
		if deployed.Load() {
			switch polls.Add(1) {
			case 1:
				panic(http.ErrAbortHandler)
			case 2:
				list = append(list, api.Release{App: "shop", Version: 5, Status: api.ReleaseRunning})
			default:
				list = append(list, api.Release{App: "shop", Version: 5, Status: status, Reason: "it did not listen", FinishedAt: new(time.Time)})
			}
		}
		if err := json.NewEncoder(w).Encode(list); err != nil {
			t.Error(err)
		}
	})
}

// TestAwaitReleaseGivesUp: no release is no success, and the hint says where to
// look.
func TestAwaitReleaseGivesUp(t *testing.T) {
	node := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("[]")) }))
	defer node.Close()
	client, err := api.NewClient(api.ClientConfig{Addr: node.URL})
	if err != nil {
		t.Fatal(err)
	}
	_, err = awaitRelease(t.Context(), client, "shop", 0, 10*time.Millisecond)
	if err == nil || refused(err) || !strings.Contains(hintOf(err), "perigee releases") {
		t.Errorf("error %v", err)
	}
}

// TestMayGoOn: what was refused, or never reached a node, is at its end.
func TestMayGoOn(t *testing.T) {
	if mayGoOn(t.Context(), api.Errorf(api.CodeConflict, "busy")) || !mayGoOn(t.Context(), errors.New("unexpected EOF")) || !mayGoOn(t.Context(), nil) {
		t.Error("a refusal goes on, or a broken stream does not")
	}
}
