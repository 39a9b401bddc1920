package flycompat

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/perigee-run/perigee/api"
)

// cloud stands in for the house where its own rooms do not matter: it has the app
// shop of the org acme, with a machine and two releases, lets in who has the token
// "t", and remembers what was changed. test/ asks the same questions of a real
// node.
type cloud struct{ changes []string }

func (c *cloud) handler() http.Handler {
	m := http.NewServeMux()
	shop := api.App{ID: "1", Name: "shop", Status: "deployed", Network: "default", Release: 2, Organization: api.Organization{Name: "acme", Slug: "acme"}, Hostname: "shop.example"}
	give := func(pattern string, v any) {
		m.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if r.PathValue("app") != "" && r.PathValue("app") != "shop" {
				fail(w, api.Errorf(api.CodeNotFound, "there is no app named %q", r.PathValue("app")))
				return
			}
			if r.Method != http.MethodGet {
				c.changes = append(c.changes, r.Method+" "+r.URL.Path)
			}
			write(w, http.StatusOK, v)
		})
	}
	give("GET /v1/apps", api.ListAppsResponse{Apps: []api.App{shop}})
	give("POST /v1/apps", api.CreateAppResponse{ID: "1"})
	give("GET /v1/apps/{app}", shop)
	give("DELETE /v1/apps/{app}", api.OKResponse{OK: true})
	give("GET /v1/apps/{app}/machines", []api.Machine{{ID: "m1", App: "shop", Config: &api.MachineConfig{Services: []api.Service{{Protocol: "tcp", InternalPort: 80}}}}})
	give("GET /v1/apps/{app}/machines/{id}", api.Machine{ID: "m1", App: "shop"})
	give("GET /v1/apps/{app}/secrets", api.ListSecretsResponse{Secrets: []api.Secret{{Name: "KEY", Digest: "d"}}})
	give("POST /v1/apps/{app}/secrets", api.SetSecretsResponse{Version: 1})
	give("GET /v1/apps/{app}/ip_assignments", api.ListIPsResponse{IPs: []api.IPAssignment{{IP: "fd00::1", Type: "private_v6"}}})
	give("POST /v1/apps/{app}/ip_assignments", api.IPAssignment{IP: "2001:db8::1", Type: "v6"})
	give("DELETE /v1/apps/{app}/ip_assignments/{ip}", api.OKResponse{OK: true})
	give("POST /v1/apps/{app}/image", api.ImageInfo{Ref: "r/a@sha256:1", Digest: "sha256:1", Size: 7})
	give("GET /v1/apps/{app}/releases", []api.Release{
		{App: "shop", Version: 3, Status: api.ReleaseFailed, Image: "r/a:3"},
		{App: "shop", Version: 2, Status: api.ReleaseComplete, Image: "r/a:2", User: "ada", Definition: map[string]any{"app": "shop"}},
	})
	give("GET /v1/apps/{app}/releases/{version}", api.Release{App: "shop", Version: 2})
	give("POST /v1/apps/{app}/releases/record", api.Release{App: "shop", Version: 4, Status: api.ReleasePending})
	give("PATCH /v1/apps/{app}/releases/{version}", api.Release{App: "shop", Version: 4, Status: api.ReleaseComplete})
	give("GET /v1/apps/{app}/logs", api.LogLine{App: "shop", Machine: "m1", Text: "hello", Time: time.Unix(1, 5)})
	give("GET /v1/orgs", api.OrgList{Orgs: []api.Org{{Slug: "acme", Name: "acme"}, {Slug: "personal", Name: "personal"}}})
	give("GET /v1/tokens/current", api.CurrentTokens{Tokens: []api.CurrentToken{{User: "ada"}}})
	give("GET /v1/orgs/{org}/tokens", api.TokenList{Tokens: []api.TokenInfo{{ID: "7", Kind: "deploy", App: "shop"}, {ID: "8", Kind: "org"}}})
	give("POST /v1/orgs/{org}/tokens", api.CreateTokenResponse{Token: "secret", TokenInfo: api.TokenInfo{ID: "9"}})
	give("DELETE /v1/orgs/{org}/tokens/{id}", api.OKResponse{OK: true})
	give("GET /v1/platform/regions", api.RegionList{Nearest: "fra", Regions: []api.Region{{Code: "fra", Name: "Frankfurt"}}})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer t" {
			fail(w, api.Errorf(api.CodeUnauthorized, "the token is not this node's"))
			return
		}
		m.ServeHTTP(w, r)
	})
}

// call makes a request and gives the status and the body.
func call(h http.Handler, method, path, token, body string) (int, string) {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

// query makes a GraphQL request.
func query(t testing.TB, h http.Handler, token, text string, variables map[string]any) string {
	t.Helper()
	b, err := json.Marshal(question{Query: text, Variables: variables})
	if err != nil {
		t.Fatal(err)
	}
	status, body := call(h, http.MethodPost, "/graphql", token, string(b))
	if status != http.StatusOK {
		t.Fatalf("GraphQL answers %d %s", status, body)
	}
	return body
}
