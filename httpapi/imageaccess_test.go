package httpapi

import (
	"strings"
	"testing"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/token"
)

// TestImagesBelongToApps: wherever an image of the built-in registry can be named,
// that of an app which the caller may not read is refused, by tag and by digest, and
// what the caller may read is taken.
func TestImagesBelongToApps(t *testing.T) {
	k := newKit(t)
	m := k.machine(t, "shop")
	k.app(t, "front")
	if _, err := k.apps.EnsureOrg(t.Context(), "other"); err != nil {
		t.Fatal(err)
	}
	if _, err := k.CreateApp(t.Context(), api.CreateAppRequest{AppName: "victim", OrgSlug: "other"}); err != nil {
		t.Fatal(err)
	}
	app := "/v1/apps/shop"
	calls := map[string]string{ // by path, with IMAGE in the body
		"POST " + app + "/machines":         `{"config":{"image":"IMAGE"}}`,
		"POST  " + app + "/machines":        `{"config":{"image":"one","containers":[{"image":"IMAGE"}]}}`,
		"POST " + app + "/machines/" + m.ID: `{"config":{"image":"IMAGE"}}`,
		"POST " + app + "/releases":         `{"image":"IMAGE","groups":{"app":{}}}`,
		"POST  " + app + "/releases":        `{"image":"one","groups":{"app":{"image":"IMAGE"}}}`,
		"POST   " + app + "/releases":       `{"image":"one","groups":{"app":{"containers":[{"image":"IMAGE"}]}}}`,
		"POST " + app + "/releases/record":  `{"image":"IMAGE"}`,
		"POST " + app + "/image":            `{"image":"IMAGE"}`,
		"POST /v1/images/pull":              `{"image":"IMAGE"}`,
	}
	all := []token.Class{reads, changes, execs, shells, owns}
	for call, body := range calls {
		method, path, _ := strings.Cut(call, " ")
		ask := func(s token.Scope, image string) (int, string) {
			return k.ask(t, s, method, strings.TrimSpace(path), strings.ReplaceAll(body, "IMAGE", image))
		}
		for _, foreign := range []string{"victim:latest", "victim/web:v1", "victim@sha256:" + strings.Repeat("1", 64), "nobody:v1"} {
			if code, got := ask(narrow{classes: all, org: "personal"}, "localhost:4280/"+foreign); code != 403 || !isError([]byte(got), api.CodeForbidden) || !strings.Contains(got, `"field":"image"`) {
				t.Errorf("%s with %s: %d %s", call, foreign, code, got)
			}
		}
		if code, got := ask(narrow{classes: all, org: "personal", app: "shop"}, "localhost:4280/front:v1"); code != 403 {
			t.Errorf("%s of a neighbour in the org, with a token of one app: %d %s", call, code, got)
		}
		for _, own := range []string{"localhost:4280/front:v1", "localhost:4280/shop:v1", "nginx"} {
			if code, got := ask(narrow{classes: all, org: "personal"}, own); code == 403 {
				t.Errorf("%s with %s: %d %s", call, own, code, got)
			}
		}
	}
}

// TestLoopbackIsForOperators: an image at the server's loopback is refused to every
// token but the cloud's own, wherever one can be named, and nothing is looked up.
func TestLoopbackIsForOperators(t *testing.T) {
	k := newKit(t)
	m := k.machine(t, "shop")
	all := narrow{classes: []token.Class{reads, changes, execs, shells, owns}, org: "personal"}
	const image = "localhost:5000/x:v1"
	for _, call := range [][3]string{
		{"POST", "/v1/apps/shop/machines", `{"config":{"image":"IMAGE"}}`},
		{"POST", "/v1/apps/shop/machines", `{"config":{"image":"one","containers":[{"image":"IMAGE"}]}}`},
		{"POST", "/v1/apps/shop/machines/" + m.ID, `{"config":{"image":"IMAGE"}}`},
		{"POST", "/v1/apps/shop/releases", `{"image":"one","groups":{"app":{"image":"IMAGE"}}}`},
		{"POST", "/v1/apps/shop/releases/record", `{"image":"IMAGE"}`},
		{"POST", "/v1/apps/shop/image", `{"image":"IMAGE"}`},
		{"POST", "/v1/images/pull", `{"image":"IMAGE"}`},
	} {
		body := strings.ReplaceAll(call[2], "IMAGE", image)
		if code, got := k.ask(t, all, call[0], call[1], body); code != 403 || !isError([]byte(got), api.CodeForbidden) || !strings.Contains(got, "loopback") || !strings.Contains(got, `"field":"image"`) {
			t.Errorf("%s: %d %s", call, code, got)
		}
		if code, got := k.ask(t, token.Full{}, call[0], call[1], body); code == 403 {
			t.Errorf("%s, by the cloud's own token: %d %s", call, code, got)
		}
	}
}

// TestImportNamesItsApp: an archive that says itself what it is to be called could take
// any app's name, so only who operates the cloud may send one.
func TestImportNamesItsApp(t *testing.T) {
	k := newKit(t)
	k.app(t, "shop")
	own := narrow{classes: token.Classes[:5], org: "personal"}
	for query, want := range map[string]int{"": 403, "?app=": 403, "?app=none": 403, "?app=shop": 200} {
		if code, body := k.ask(t, own, "PUT", "/v1/images/import"+query, "x"); code != want {
			t.Errorf("%q: %d %s", query, code, body)
		}
	}
	if code, body := k.ask(t, token.Full{}, "PUT", "/v1/images/import", "x"); code != 200 {
		t.Errorf("the cloud's own token: %d %s", code, body)
	}
}
