package httpapi

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/token"
)

// narrow is a scope of some classes, in one org and perhaps one app of it.
type narrow struct {
	classes  []token.Class
	org, app string
}

func (n narrow) May(w token.Want) error {
	for _, c := range n.classes {
		if c == w.Class && (w.App == "" && w.Org == "" || w.Org == n.org && (n.app == "" || w.App == n.app)) {
			return nil
		}
	}
	return token.Forbidden(w, "it is another's")
}

// as lets everyone in with the scope.
type as struct{ token.Scope }

func (a as) Authenticate(*http.Request) (Principal, error) {
	return Principal{Name: "narrow", Scope: a.Scope}, nil
}

// ask makes a call with the scope and returns status and body.
func (k *kit) ask(t *testing.T, s token.Scope, method, path, body string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	k.server.Handler(as{s}).ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
	return w.Code, w.Body.String()
}

// TestEveryOperationAsksTheScope: each operation, with a token of every other
// class, and of its class in another org.
func TestEveryOperationAsksTheScope(t *testing.T) {
	k := newKit(t)
	m := k.machine(t, "shop")
	fill := strings.NewReplacer("{app_name}", "shop", "{machine_id}", m.ID, "{org_slug}", "personal")
	for _, r := range k.server.routes() {
		if r.access == open {
			continue
		}
		path := fill.Replace(r.path)
		others := narrow{org: "personal"}
		for _, c := range token.Classes {
			if c != r.access {
				others.classes = append(others.classes, c)
			}
		}
		scopes := []token.Scope{nil, narrow{}, others}
		if strings.Contains(r.path, "{app_name}") || strings.Contains(r.path, "{org_slug}") {
			scopes = append(scopes, narrow{classes: token.Classes, org: "other"})
		}
		for _, s := range scopes {
			if code, body := k.ask(t, s, r.method, path, "{"); code != 403 || !isError([]byte(body), api.CodeForbidden) {
				t.Errorf("%s with %+v: %d %s", r.id, s, code, body)
			}
		}
	}
	if now, err := k.GetMachine(t.Context(), "shop", m.ID); err != nil || now.InstanceID != m.InstanceID || now.State != m.State {
		t.Errorf("machine is %+v, %v", now, err)
	}
}

// TestForbiddenTellsNothing: what is another's and what is not there look alike.
func TestForbiddenTellsNothing(t *testing.T) {
	k := newKit(t)
	k.app(t, "shop")
	foreign := narrow{classes: token.Classes[:5], org: "other"} // all but operates
	for _, path := range []string{"/v1/apps/shop", "/v1/apps/none"} {
		code, body := k.ask(t, foreign, "GET", path, "")
		if code != 403 || strings.ReplaceAll(body, "none", "shop") != `{"error":"the token does not reach app \"shop\": it is another's","code":"forbidden","status":"unknown","hint":"perigee tokens inspect shows what a token may; an owner of the org makes others"}`+"\n" {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	for path, none := range map[string]string{"/v1/apps": `{"total_apps":0,"apps":[]}`, "/v1/images": "[]"} {
		if code, body := k.ask(t, foreign, "GET", path, ""); code != 200 || strings.TrimSpace(body) != none {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	if code, _ := k.ask(t, foreign, "GET", "/v1/platform/regions?app_name=shop", ""); code != 403 {
		t.Errorf("regions of another's app: %d", code)
	}
	if code, body := k.ask(t, foreign, "POST", "/v1/apps", `{"app_name":"mine"}`); code != 403 {
		t.Errorf("an app in the default org: %d %s", code, body)
	}
	if code, body := k.ask(t, foreign, "POST", "/v1/apps", `{"app_name":"mine","org_slug":"other"}`); code != 201 {
		t.Errorf("an app of its own: %d %s", code, body)
	}
}
