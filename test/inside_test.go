package test

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/perigee-run/perigee/api"
)

// TestInside is the API as a machine reaches it: at once, asleep and awake again,
// after a crash of the daemon, and what a hostile one tries.
func TestInside(t *testing.T) {
	n := Start(t)
	n.deploy(appWithChecks(t, "shop", ""), "--image", App(t))
	image := n.machine("shop").Config.Image
	n.deploy(appWithChecks(t, "neighbour", ""), "--image", image)
	if _, err := n.Client.CreateApp(t.Context(), api.CreateAppRequest{AppName: "far", OrgSlug: "other"}); err != nil {
		t.Fatal(err)
	}
	i := insider{n, n.machine("shop")}
	const machines = "/v1/apps/shop/machines"
	for _, socket := range []string{"/.fly/api", "/.perigee/api"} {
		if got := i.call(t, socket, 1, "GET", machines, ""); !strings.HasPrefix(got, "1 x 200 [") || !strings.Contains(got, i.m.ID) {
			t.Errorf("%s answers %s", socket, got)
		}
	}
	if got := i.get(t, "GET", machines+"/"+i.m.ID+"/events"); !strings.HasPrefix(got, "200") {
		t.Errorf("events: %s", got)
	}
	if got := i.call(t, "/.fly/api", 50, "GET", machines+"/"+i.m.ID, ""); !strings.HasPrefix(got, "50 x 200 {") {
		t.Errorf("50 at once: %s", got)
	}
	large := `{"metadata":{"k":"` + strings.Repeat("v", 100_000) + `"}}`
	if got := i.call(t, "/.fly/api", 1, "PATCH", machines+"/"+i.m.ID+"/metadata", large); !strings.HasPrefix(got, "1 x 422") {
		t.Errorf("a large body: %.200s", got)
	}
	t.Run("environment", func(t *testing.T) {
		for name, want := range map[string]string{"FLY_APP_NAME": "shop", "PERIGEE_MACHINE_ID": i.m.ID, "PERIGEE_NODE": "node1", "PERIGEE_ORG": "personal"} {
			if _, b := get(t, n.Visitor(), "http://shop.apps.localhost/env?name="+name); b != want {
				t.Errorf("%s is %q, want %q", name, b, want)
			}
		}
	})
	t.Run("identity", func(t *testing.T) { i.identity(t) })
	t.Run("hostile", func(t *testing.T) { i.hostile(t) })
	t.Run("sibling", func(t *testing.T) { i.sibling(t, image) })
	t.Run("suspends itself", func(t *testing.T) { i.suspendsItself(t) })
	t.Run("daemon killed", func(t *testing.T) {
		n.Kill()
		n.Run()
		if got := i.get(t, "GET", machines); !strings.HasPrefix(got, "200") {
			t.Errorf("got %s", got)
		}
	})
}

// insider is a machine that calls the API.
type insider struct {
	n *Node
	m api.Machine
}

func (i insider) call(t *testing.T, socket string, times int, method, path, body string, headers ...string) string {
	t.Helper()
	command := append([]string{"/testapp", "api", socket, jsonText(times), method, path, body}, headers...)
	r, err := i.n.Client.Exec(t.Context(), "shop", i.m.ID, api.ExecRequest{Command: command})
	if err != nil {
		t.Fatal(err)
	}
	return r.Stdout + r.Stderr
}

func jsonText(v any) string {
	b, _ := json.Marshal(v)
	return string(b)
}

func (i insider) get(t *testing.T, method, path string) string {
	t.Helper()
	return strings.TrimPrefix(i.call(t, "/.fly/api", 1, method, path, ""), "1 x ")
}

// identity: the machine gets a signed word about itself.
func (i insider) identity(t *testing.T) {
	got := strings.TrimSpace(strings.TrimPrefix(i.call(t, "/.fly/api", 1, "POST", "/v1/tokens/oidc", `{"aud":"https://vault.example.com"}`), "1 x "))
	parts := strings.Split(got, ".")
	if !strings.HasPrefix(got, "200 ") || len(parts) != 3 {
		t.Fatalf("got %s", got)
	}
	b, err := base64.RawURLEncoding.DecodeString(parts[1])
	var claims map[string]any
	if err == nil {
		err = json.Unmarshal(b, &claims)
	}
	if err != nil || claims["machine_id"] != i.m.ID || claims["app_name"] != "shop" || claims["org_name"] != "personal" {
		t.Errorf("claims %s, %v", b, err)
	}
}

// hostile: all that is not its own app's is refused, whatever it says of itself.
func (i insider) hostile(t *testing.T) {
	other := i.n.machine("neighbour")
	theirs := "/v1/apps/neighbour/machines/" + other.ID
	token, err := os.ReadFile(filepath.Join(i.n.Data(), "token"))
	if err != nil {
		t.Fatal(err)
	}
	for _, call := range [][2]string{
		{"GET", "/v1/apps/neighbour"}, {"GET", "/v1/apps/neighbour/machines"}, {"GET", theirs}, {"POST", theirs + "/stop"},
		{"POST", theirs + "/exec"}, {"DELETE", theirs}, {"GET", "/v1/apps/neighbour/secrets"}, {"GET", "/v1/apps/far"}, {"GET", "/v1/apps/none"},
		{"GET", "/v1/orgs/other/machines"}, {"GET", "/v1/nodes"}, {"POST", "/v1/node/stop"}, {"POST", "/v1/nodes/tokens"},
		{"POST", "/v1/apps"}, {"DELETE", "/v1/apps/shop"}, {"GET", "/v1/apps/shop/machines/" + other.ID},
		{"POST", "/v1/apps/shop/machines/" + other.ID + "/stop"}, {"POST", "/v1/apps/shop/machines/" + other.ID + "/suspend"},
		{"POST", "/v1/apps/neighbour/machines/" + i.m.ID + "/suspend"},
	} {
		for _, headers := range [][]string{nil, {api.CallerHeader + "=root", "Authorization=Bearer " + strings.TrimSpace(string(token)), "X-Forwarded-For=127.0.0.1"}} {
			got := i.call(t, "/.fly/api", 1, call[0], call[1], `{"app_name":"mine","org_slug":"personal","command":["true"]}`, headers...)
			if !strings.HasPrefix(got, "1 x 403") && !(strings.HasPrefix(got, "1 x 404") && strings.HasPrefix(call[1], "/v1/apps/shop/")) {
				t.Errorf("%s %s with %d headers: %.300s", call[0], call[1], len(headers), got)
			}
		}
	}
	for _, list := range []string{"/v1/apps?org_slug=personal", "/v1/orgs/personal/machines", "/v1/orgs/personal/volumes"} {
		if got := i.get(t, "GET", list); strings.Contains(got, "neighbour") || strings.Contains(got, other.ID) {
			t.Errorf("it sees other apps: %s", got)
		}
	}
	if m := i.n.machine("neighbour"); m.State != api.StateStarted {
		t.Errorf("the neighbour is %s", m.State)
	}
	if m := i.n.machine("shop"); m.State != api.StateStarted {
		t.Errorf("the machine itself is %s", m.State)
	}
}

// sibling: with its own app it may do all that a machine needs.
func (i insider) sibling(t *testing.T, image string) {
	const machines = "/v1/apps/shop/machines"
	made := strings.TrimPrefix(i.call(t, "/.fly/api", 1, "POST", machines, jsonText(map[string]any{"name": "twin", "config": map[string]any{"image": image}})), "1 x ")
	var twin api.Machine
	if _, body, _ := strings.Cut(made, " "); json.Unmarshal([]byte(body), &twin) != nil || twin.ID == "" {
		t.Fatalf("made %s", made)
	}
	at := machines + "/" + twin.ID
	for _, call := range []struct{ method, path, body string }{
		{"GET", at + "/wait?state=started&timeout=20", ""}, {"POST", at + "/exec", `{"command":["/testapp","exit","0"]}`},
		{"POST", at + "/stop", ""}, {"GET", at + "/wait?state=stopped&timeout=20", ""}, {"DELETE", at + "?force=true", ""},
	} {
		if got := i.call(t, "/.fly/api", 1, call.method, call.path, call.body); !strings.HasPrefix(got, "1 x 200") {
			t.Fatalf("%s %s: %s", call.method, call.path, got)
		}
	}
}

// suspendsItself: it has its answer when it is awake again, and the API too.
func (i insider) suspendsItself(t *testing.T) {
	v := i.n.Visitor()
	get(t, v, "http://shop.apps.localhost/suspend-me")
	wait := func(state string) {
		t.Helper()
		for end := time.Now().Add(30 * time.Second); i.n.machine("shop").State != state; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("the machine is %s, not %s", i.n.machine("shop").State, state)
			}
		}
	}
	wait(api.StateSuspended)
	if _, b := get(t, v, "http://shop.apps.localhost/suspended"); !strings.HasPrefix(b, "200") {
		t.Errorf("it was told %q", b)
	}
	said, err := i.n.Client.Audit(t.Context(), "personal", api.AuditQuery{App: "shop"})
	if err != nil || !slices.ContainsFunc(said.Entries, func(e api.AuditEntry) bool {
		return e.Operation == "Machines_suspend" && e.Who == "machine:"+i.m.ID && e.Machine == i.m.ID && e.Code == ""
	}) {
		t.Errorf("the audit log does not know of it: %+v, %v", said, err)
	}
	wait(api.StateStarted)
	if got := i.get(t, "GET", "/v1/apps/shop/machines"); !strings.HasPrefix(got, "200") {
		t.Errorf("after the wake: %s", got)
	}
}
