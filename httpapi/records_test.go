package httpapi

import (
	"net/http"
	"reflect"
	"strings"
	"testing"

	"github.com/perigee-run/perigee/api"
)

// TestRecordedRelease: a client that carries out a release itself writes it down,
// and it can be gone back to.
func TestRecordedRelease(t *testing.T) {
	k := newKit(t)
	k.app(t, "shop")
	definition := map[string]any{"app": "shop", "env": map[string]any{"A": "1"}, "kill_timeout": 5.0}
	r, err := k.RecordRelease(t.Context(), "shop", api.RecordReleaseRequest{Image: "r/a:1", Strategy: "canary", Definition: definition})
	if err != nil || r.Version != 1 || r.Status != api.ReleasePending || !r.Recorded || r.Strategy != "canary" || r.User == "" {
		t.Fatalf("recorded: %+v, %v", r, err)
	}
	config := &api.MachineConfig{Image: "r/a:1", Env: map[string]string{"A": "1"}, Metadata: map[string]string{"fly_process_group": "web", "fly_release_version": "1", "fly_release_id": "x", "kept": "yes"}}
	if _, err := k.CreateMachine(t.Context(), "shop", api.CreateMachineRequest{Config: config}); err != nil {
		t.Fatal(err)
	}
	r, err = k.UpdateRelease(t.Context(), "shop", 1, api.UpdateReleaseRequest{Status: api.ReleaseComplete})
	if err != nil || r.Status != api.ReleaseComplete || r.FinishedAt == nil {
		t.Fatalf("complete: %+v, %v", r, err)
	}
	web := r.Groups["web"]
	if len(r.Groups) != 1 || web.Env["A"] != "1" || web.Image != "" || !reflect.DeepEqual(web.Metadata, map[string]string{"kept": "yes"}) {
		t.Errorf("the configuration of its machines: %+v", r.Groups)
	}
	if !reflect.DeepEqual(r.Definition, definition) {
		t.Errorf("the definition came back as %v", r.Definition)
	}
	if a, err := k.GetApp(t.Context(), "shop"); err != nil || a.Release != 1 || a.Status != "deployed" {
		t.Errorf("the app: %+v, %v", a, err)
	}
}

// TestRecordedReleaseIsForgotten: a client that never says how its release ended
// holds up neither others nor the cloud itself.
func TestRecordedReleaseIsForgotten(t *testing.T) {
	k := newKit(t)
	k.app(t, "shop")
	if _, err := k.RecordRelease(t.Context(), "shop", api.RecordReleaseRequest{Image: "r/a:1"}); err != nil {
		t.Fatal(err)
	}
	var last api.Progress
	for p, err := range k.Deploy(t.Context(), "shop", api.DeployRequest{Image: "one", Groups: map[string]api.MachineConfig{"app": {}}}) {
		if err != nil {
			t.Fatal(err)
		}
		last = p
	}
	if last.Kind != "done" || last.Release.Version != 2 {
		t.Fatalf("a deploy of the cloud: %+v", last)
	}
	if _, err := k.RecordRelease(t.Context(), "shop", api.RecordReleaseRequest{Image: "r/a:2"}); err != nil {
		t.Fatal(err)
	}
	old, err := k.GetRelease(t.Context(), "shop", 1)
	if err != nil || old.Status != api.ReleaseFailed || !strings.Contains(old.Reason, "another release") {
		t.Errorf("the former one: %+v, %v", old, err)
	}
	if r, err := k.UpdateRelease(t.Context(), "shop", 1, api.UpdateReleaseRequest{Status: api.ReleaseComplete}); err != nil || r.Reason != "" || r.Status != api.ReleaseComplete {
		t.Errorf("its client was slow: %+v, %v", r, err)
	}
}

func TestRecordedReleaseRefusals(t *testing.T) {
	k := newKit(t)
	k.machine(t, "shop")
	for p, err := range k.Deploy(t.Context(), "shop", api.DeployRequest{Image: "one", Groups: map[string]api.MachineConfig{"app": {}}}) {
		if err != nil || p.Error != nil {
			t.Fatal(err, p.Error)
		}
	}
	for _, c := range []struct{ method, path, body, want string }{
		{rPost, "/v1/apps/none/releases/record", `{"image":"r/a"}`, api.CodeNotFound},
		{rPost, "/v1/apps/shop/releases/record", `{}`, api.CodeInvalid},
		{rPost, "/v1/apps/shop/releases/record", `{"image":"r/a","strategy":"hope"}`, api.CodeInvalid},
		{rPatch, "/v1/apps/shop/releases/1", `{"status":"complete"}`, api.CodePrecondition},
		{rPatch, "/v1/apps/shop/releases/9", `{"status":"complete"}`, api.CodeNotFound},
		{rPatch, "/v1/apps/shop/releases/x", `{"status":"complete"}`, api.CodeInvalid},
		{rPatch, "/v1/apps/shop/releases/1", `{"status":"rolled_back"}`, api.CodeInvalid},
		{rPost, "/v1/apps/shop/image", `{}`, api.CodeInvalid},
		{rPost, "/v1/apps/shop/image", `{"image":"missing"}`, api.CodeImage},
		{rPost, "/v1/apps/none/image", `{"image":"one"}`, api.CodeNotFound},
	} {
		if _, b := k.do(t, c.method, c.path, "Bearer "+secret, c.body); !strings.Contains(string(b), `"code":"`+c.want+`"`) {
			t.Errorf("%s %s %s: want %s, got %s", c.method, c.path, c.body, c.want, b)
		}
		if resp, _ := k.do(t, c.method, c.path, "", c.body); resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s %s without a token: %d", c.method, c.path, resp.StatusCode)
		}
	}
	if i, err := k.ResolveImage(t.Context(), "shop", "one"); err != nil || !strings.Contains(i.Ref, "@sha256:") {
		t.Errorf("an image that is there: %+v, %v", i, err)
	}
}
