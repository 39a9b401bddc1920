package flycompat

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
)

func TestGraphQL(t *testing.T) {
	for _, c := range []struct {
		name, query string
		variables   map[string]any
		want        string
	}{
		{"who am I", `query { viewer { ... on User { email } ... on Macaroon { email } } }`, nil, `@perigee"`},
		{"an app", `query($n: String!) { app(name: $n) { id platformVersion deployed organization { slug rawSlug } role { name } } }`, map[string]any{"n": "shop"},
			`{"id":"shop","platformVersion":"machines","deployed":true,"organization":{"slug":"acme","rawSlug":"acme"},"role":null}`},
		{"an app of other name", `query { appcompact: app(name: "none") { id } }`, nil, `Could not find App`},
		{"its definition", `query { app(name: "shop") { currentReleaseUnprocessed { version configDefinition } } }`, nil, `{"version":2,"configDefinition":{"app":"shop"}}`},
		{"no empty definition", `query { app(name: "shop") { releases(first: 1) { nodes { version configDefinition } } } }`, nil, `{"version":3,"configDefinition":null}`},
		{"an image", `query { app(name: "shop") { image(ref: "r/a") { id ref compressedSize: compressedSizeFull manifest } } }`, nil, `"ref":"r/a@sha256:1","compressedSize":"7","manifest":null`},
		{"image details", `query { app(name: "shop") { imageDetails { registry repository tag digest } } }`, nil, `{"registry":"docker.io","repository":"r/a","tag":"2","digest":""}`},
		{"newer images", `query { latestImageDetails(image: "r/a:2") { tag } }`, nil, `Unknown repository`},
		{"regions", `query { platform { requestRegion regions { code deprecated } } nearestRegion { code } }`, nil, `"requestRegion":"fra"`},
		{"orgs", `query($admin: Boolean!) { organizations(admin: $admin) { nodes { slug type } } }`, map[string]any{"admin": false}, `{"slug":"acme","type":"SHARED"}`},
		{"no such org", `query { organization(slug: "none") { id } }`, nil, `"code":"NOT_FOUND"`},
		{"an app's tokens", `query { appLimitedAccessTokens: app(name: "shop") { limitedAccessTokens { nodes { id name revokedAt } } } }`, nil, `{"nodes":[{"id":"acme.7","name":"deploy","revokedAt":null}]}`},
		{"a deploy token", `mutation($p: JSON) { createLimitedAccessToken(input: {name: "ci", organizationId: "acme", profile: "deploy", profileParams: $p, expiry: "24h"}) { limitedAccessToken { tokenHeader } } }`,
			map[string]any{"p": map[string]any{"app_id": "shop"}}, `"tokenHeader":"Bearer secret"`},
		{"a token that Fly alone has", `mutation { createLimitedAccessToken(input: {name: "x", organizationId: "acme", profile: "litefs_cloud"}) { limitedAccessToken { tokenHeader } } }`, nil, `no tokens of the profile`},
		{"add-ons", `query($k: AddOnType) { addOns(type: $k) { nodes { name } } }`, map[string]any{"k": "redis"}, `{"nodes":[]}`},
		{"an unknown field", `query { app(name: "shop") { weather tides } }`, nil, `docs/flyctl.md lists what works`},
		{"no query", `{`, nil, `"errors"`},
	} {
		if got := query(t, Wrap((&cloud{}).handler()), "t", c.query, c.variables); !strings.Contains(got, c.want) {
			t.Errorf("%s: want %s in %s", c.name, c.want, got)
		}
	}
}

// TestCallerIsTheHouses: who may do what is for the house to say, and it is told
// who asks.
func TestCallerIsTheHouses(t *testing.T) {
	c := &cloud{}
	h := Wrap(c.handler())
	for _, text := range []string{
		`query { viewer { ... on User { email } } }`, `query { app(name: "shop") { name } }`, `query { apps { nodes { name } } }`, `query { organizations { nodes { slug } } }`,
		`query { platform { regions { code } } }`, `mutation { deleteApp(appId: "shop") { organization { id } } }`,
		`mutation { setSecrets(input: {appId: "shop", secrets: [{key: "A", value: "1"}]}) { release { id } } }`,
		`mutation { createRelease(input: {appId: "shop", image: "x"}) { release { id } } }`,
	} {
		for _, token := range []string{"", "other"} {
			if got := query(t, h, token, text, nil); !strings.Contains(got, `"code":"UNAUTHORIZED"`) {
				t.Errorf("with token %q, %s: %s", token, text, got)
			}
		}
	}
	for _, p := range []string{"GET /api/v1/organizations", "GET /api/v1/organizations/acme", "GET /api/v1/apps/shop/logs", "GET /api/v1/apps/shop/releases", "POST /api/v1/releases", "PATCH /api/v1/releases/shop.1", "POST /api/v1/builds", "POST /api/v1/builds/finish"} {
		method, path, _ := strings.Cut(p, " ")
		if status, body := call(h, method, path, "other", `{"app_name":"shop","status":"complete"}`); status != http.StatusUnauthorized {
			t.Errorf("%s: %d %s", p, status, body)
		}
	}
	if len(c.changes) > 0 {
		t.Errorf("and it did %v", c.changes)
	}
}

// TestCallerIsSeen: the house sees from where the caller comes, for its records.
func TestCallerIsSeen(t *testing.T) {
	var from string
	h := Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { from = r.RemoteAddr + " " + r.UserAgent() }))
	r := httptest.NewRequest(http.MethodGet, "/api/v1/organizations", nil)
	r.RemoteAddr = "192.0.2.7:99"
	r.Header.Set("User-Agent", "flyctl/1")
	h.ServeHTTP(httptest.NewRecorder(), r)
	if from != "192.0.2.7:99 flyctl/1" {
		t.Errorf("the house saw %q", from)
	}
}

func TestMutations(t *testing.T) {
	c := &cloud{}
	h := Wrap(c.handler())
	for _, m := range []string{
		`createApp(input: {name: "shop", organizationId: "acme"}) { app { id } }`,
		`allocateIpAddress(input: {appId: "shop", type: "v6"}) { ipAddress { address } }`,
		`releaseIpAddress(input: {appId: "shop", ip: "2001:db8::1"}) { clientMutationId }`,
		`unsetSecrets(input: {appId: "shop", keys: ["KEY"]}) { release { id } }`,
		`updateRelease(input: {releaseId: "shop.4", status: "complete"}) { release { id } }`,
		`deleteLimitedAccessToken(input: {id: "acme.7"}) { token }`,
		`deleteApp(appId: "shop") { organization { id } }`,
	} {
		if got := query(t, h, "t", "mutation { "+m+" }", nil); strings.Contains(got, `"errors"`) {
			t.Errorf("%s: %s", m, got)
		}
	}
	want := []string{"POST /v1/apps", "POST /v1/apps/shop/ip_assignments", "DELETE /v1/apps/shop/ip_assignments/2001:db8::1", "POST /v1/apps/shop/secrets", "PATCH /v1/apps/shop/releases/4", "DELETE /v1/orgs/acme/tokens/7", "DELETE /v1/apps/shop"}
	if !slices.Equal(c.changes, want) {
		t.Errorf("it did %q, want %q", c.changes, want)
	}
}

func TestREST(t *testing.T) {
	h := Wrap((&cloud{}).handler())
	for _, c := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"GET", "/api/v1/organizations?admin=false", "", 200, `"slug":"acme"`},
		{"GET", "/api/v1/organizations/none", "", 404, `"code":"not_found"`},
		{"GET", "/api/v1/apps/shop/releases?limit=1", "", 200, `"id":"shop.3"`},
		{"GET", "/api/v1/apps/shop/releases/current", "", 200, `"version":2`},
		{"GET", "/api/v1/apps/shop/logs?next_token=", "", 200, `"message":"hello"`},
		{"POST", "/api/v1/releases", `{"app_name":"shop","image":"r/a","strategy":"ROLLING","definition":{}}`, 200, `"id":"shop.4"`},
		{"POST", "/api/v1/releases", `{"app_name":7}`, 400, `app_name cannot be a number`},
		{"PATCH", "/api/v1/releases/shop.4", `{"status":"interrupted"}`, 200, `"id":"shop.4"`},
		{"PATCH", "/api/v1/releases/shop", `{"status":"complete"}`, 404, `no release`},
		{"POST", "/api/v1/builds/depot_builder", `{}`, 422, `--local-only`},
		{"GET", "/api/v1/nothing", "", 404, `docs/flyctl.md`},
		{"GET", "/graphql", "", 405, `POSTed`},
		{"POST", "/graphql", "[]", 400, `not a GraphQL request`},
		{"GET", "/v1/apps/none", "", 404, `"code":"not_found"`},
	} {
		if status, body := call(h, c.method, c.path, "t", c.body); status != c.status || !strings.Contains(body, c.want) {
			t.Errorf("%s %s %s: want %d with %s, got %d %s", c.method, c.path, c.body, c.status, c.want, status, body)
		}
	}
}

// FuzzGraphQL: whatever is asked, the answer is JSON, and nothing of it is our
// fault.
func FuzzGraphQL(f *testing.F) {
	for _, s := range []string{
		`query($n: String!) { app(name: $n) { id machines { nodes { id config app { machines { nodes { id } } } } } releases(first: 1) { nodes { user { email } } } } }`,
		`mutation($i: CreateReleaseInput!) { createRelease(input: $i) { release { id } } }`, `{ apps { nodes { ...A } } } fragment A on App { organization { apps { nodes { ...A } } } }`,
		`query { app(name: "shop") { releases(first: -1) { nodes { id } } services { ports { port } } secrets { name } config { definition } } }`, "{", "", `query { __schema { types { name } } }`,
	} {
		f.Add(s, `{"n":"shop","i":{"appId":"shop","image":"x","definition":[1]}}`)
	}
	h := Wrap((&cloud{}).handler())
	f.Fuzz(func(t *testing.T, text, variables string) {
		var v any
		if json.Unmarshal([]byte(variables), &v) != nil {
			return
		}
		b, _ := json.Marshal(map[string]any{"query": text, "variables": v})
		check(t, h, http.MethodPost, "/graphql", string(b))
	})
}

// FuzzREST: the same of the calls under /api/v1.
func FuzzREST(f *testing.F) {
	for _, s := range []string{
		"POST /api/v1/releases {\"app_name\":\"shop\",\"definition\":{\"a\":[]}}", "PATCH /api/v1/releases/shop.99999999999999999999 {\"status\":\"complete\"}", "PATCH /api/v1/releases/.. {}",
		"POST /api/v1/builds {\"app_name\":\"..\"}", "GET /api/v1/apps/shop/logs?next_token=-1 ", "GET /api/v1/apps/%2e%2e/releases?limit=-5 ", "GET /api/v1/organizations/%00 ", "POST /graphql null",
	} {
		f.Add(s)
	}
	h := Wrap((&cloud{}).handler())
	f.Fuzz(func(t *testing.T, s string) {
		method, rest, _ := strings.Cut(s, " ")
		path, body, _ := strings.Cut(rest, " ")
		if _, err := http.NewRequest(method, "http://x"+path, nil); err != nil || !strings.HasPrefix(path, "/") || strings.ContainsAny(path, " \r\n\t") {
			return
		}
		check(t, h, method, path, body)
	})
}

func check(t *testing.T, h http.Handler, method, path, body string) {
	t.Helper()
	status, answer := call(h, method, path, "t", body)
	if status >= 500 || strings.Contains(answer, "INTERNAL_SERVER_ERROR") || strings.Contains(answer, "panic") && !strings.Contains(body+path, "panic") {
		t.Fatalf("%s %s %s: %d %s", method, path, body, status, answer)
	}
	if status < 300 && !json.Valid([]byte(answer)) {
		t.Fatalf("%s %s %s: no JSON: %s", method, path, body, answer)
	}
}
