package httpapi

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/token"
	"github.com/perigee-run/perigee/token/caveat"
)

// TestHostileTokens walks every operation of the document with tokens that must not
// do it: each answers 401 or 403, and nothing has changed afterwards.
func TestHostileTokens(t *testing.T) {
	k := newKit(t)
	h := newHostile(t, k)
	before := h.state(t)
	_, b := k.do(t, "GET", "/openapi.json", "", "")
	n := 0
	for _, path := range slices.Sorted(maps.Keys(document(t, b).Paths)) {
		for method, op := range document(t, b).Paths[path] {
			if len(op.Security) == 0 {
				continue
			}
			n++
			t.Run(op.OperationID, func(t *testing.T) { h.operation(t, strings.ToUpper(method), path, op) })
		}
	}
	if n < 70 {
		t.Errorf("only %d operations were walked", n)
	}
	if after := h.state(t); after != before {
		t.Errorf("something has changed:\n%s\nwas\n%s", after, before)
	}
	select {
	case <-k.stopped:
		t.Error("the node was stopped")
	default:
	}
}

// hostile is a cloud with two orgs, and the tokens of an attacker.
type hostile struct {
	k       *kit
	fill    *strings.Replacer
	useless map[string]string // by what is wrong: 401
	own     caveat.Token      // a good one, to be narrowed
	foreign string
	machine string // of the victim
	away    string // of an app and of a machine that are not these
}

func newHostile(t *testing.T, k *kit) *hostile {
	t.Helper()
	m := k.machine(t, "shop")
	for _, org := range []string{"personal", "other"} {
		if _, err := k.apps.EnsureOrg(t.Context(), org); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := k.CreateApp(t.Context(), api.CreateAppRequest{AppName: "far", OrgSlug: "other"}); err != nil {
		t.Fatal(err)
	}
	value := "v"
	if _, err := k.SetSecrets(t.Context(), "shop", map[string]*string{"KEY": &value}); err != nil {
		t.Fatal(err)
	}
	h := &hostile{k: k, machine: m.ID, useless: map[string]string{}}
	mint := func(org string) api.CreateTokenResponse {
		r, err := k.CreateToken(t.Context(), org, api.CreateTokenRequest{Kind: api.TokenOrg})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	good, gone := mint("personal"), mint("personal")
	h.foreign = mint("other").Token
	if err := k.RevokeToken(t.Context(), "personal", gone.ID); err != nil {
		t.Fatal(err)
	}
	var err error
	if h.own, err = caveat.Read(good.Token); err != nil {
		t.Fatal(err)
	}
	late := h.narrow(t, caveat.Caveat{Name: caveat.Expires, Time: time.Now().Add(-time.Minute)})
	forged, err := caveat.New([]byte("a guess"), good.ID)
	if err != nil {
		t.Fatal(err)
	}
	h.useless = map[string]string{
		"no token": "", "garbage": "Bearer garbage", "garbage of our form": "Bearer perigee_AAAA", "Fly's": "FlyV1 fm2_abc", "no scheme": good.Token, "revoked": "Bearer " + gone.Token,
		"expired": "Bearer " + late, "limit removed": "Bearer " + cut(t, good.Token), "forged": "Bearer " + forged.String(), "short": "Bearer " + good.Token[:len(good.Token)-4],
	}
	h.fill = strings.NewReplacer("{app_name}", "shop", "{machine_id}", m.ID, "{org_slug}", "personal", "{secret_name}", "KEY", "{version}", "1", "{node_name}", "n1",
		"{token_id}", good.ID, "{digest}", "sha256:a", "{host}", "www.example.com", "{ip}", "2001:db8:f::1", "{key}", "k", "{peer_name}", "laptop", "{volume_id}", "vol_1")
	return h
}

// cut is a token whose last limit was taken out of the text, with the proof as it
// was: what a thief of a narrow token would send.
func cut(t *testing.T, text string) string {
	t.Helper()
	tok, err := caveat.Read(text)
	if err != nil {
		t.Fatal(err)
	}
	limits, err := tok.Limits()
	if err != nil {
		t.Fatal(err)
	}
	wider, err := caveat.New([]byte("x"), tok.ID(), limits[:len(limits)-1]...)
	if err != nil {
		t.Fatal(err)
	}
	a, b := wider.String(), tok.String()
	return a[:len(a)-43] + b[len(b)-43:]
}

func (h *hostile) narrow(t *testing.T, limits ...caveat.Caveat) string {
	t.Helper()
	n, err := h.own.With(limits...)
	if err != nil {
		t.Fatal(err)
	}
	return n.String()
}

// bodies are what would change something, of operations that do so.
var bodies = map[string]string{
	"Apps_create": `{"app_name":"mine","org_slug":"personal"}`, "Machines_create": `{"config":{"image":"one"}}`, "Machines_update": `{"config":{"image":"two"}}`,
	"Machines_exec": `{"command":["true"]}`, "Secrets_update": `{"values":{"KEY":"stolen"}}`, "Secret_create": `{"value":"stolen"}`, "Hosts_add": `{"host":"www.example.com"}`,
	"App_IPAssignments_create": `{"type":"v6"}`, "Machines_create_lease": `{"ttl":60}`, "Machines_replace_metadata": `{"metadata":{"a":"b"}}`, "Machines_patch_metadata": `{"metadata":{"a":"b"}}`,
	"Machines_update_metadata": `{"value":"v"}`, "Releases_create": `{"image":"one","groups":{"app":{"image":"one"}}}`, "Images_pull": `{"image":"localhost:4280/shop:v1"}`, "Nodes_create_token": `{}`,
	"Tokens_create": `{"kind":"org"}`, "Orgs_create": `{"slug":"mine"}`,
}

// elsewhere are the operations that name neither app nor org in their path, and what
// they tell another org's token: nothing of this one.
var elsewhere = map[string]func(t *testing.T, h *hostile, ask func(path string) (int, string)){
	"Apps_list":           nothingOf("shop", ""),
	"Apps_create":         refusedAt(""),
	"Images_list":         nothingOf("sha256", ""),
	"Images_pull":         refusedAt(""), // one of the built-in registry
	"Images_import":       refusedAt("", "?app=shop"),
	"Node_show":           nothingOf("shop", ""),
	"Platform_regions":    refusedAt("?app_name=shop"),
	"Platform_placements": nil, // room on nodes, which belong to no org
	"Orgs_list":           nothingOf("personal", ""),
	"Tokens_current":      nothingOf("personal", ""),
	"Tokens_oidc":         refusedAt(""),
	"Tokens_authorize":    nil, // they answer about the token in the body, whose holder may know
	"Tokens_authenticate": nil,
}

func nothingOf(what, query string) func(*testing.T, *hostile, func(string) (int, string)) {
	return func(t *testing.T, _ *hostile, ask func(string) (int, string)) {
		if code, body := ask(query); code != 200 || strings.Contains(body, what) {
			t.Errorf("another org's token gets %d %s", code, body)
		}
	}
}

func refusedAt(queries ...string) func(*testing.T, *hostile, func(string) (int, string)) {
	return func(t *testing.T, _ *hostile, ask func(string) (int, string)) {
		for _, query := range queries {
			if code, body := ask(query); code != 403 {
				t.Errorf("another org's token gets %d %s", code, body)
			}
		}
	}
}

func (h *hostile) operation(t *testing.T, method, path string, op *operation) {
	class := token.Class(op.Class)
	if class == "" {
		t.Fatal("the document does not tell its class")
	}
	filled := h.fill.Replace(path)
	if strings.Contains(filled, "{") {
		t.Fatalf("%s has a segment that this test does not know", filled)
	}
	call := func(query, auth string) (int, string) {
		resp, b := h.k.do(t, method, filled+query, auth, bodies[op.OperationID])
		return resp.StatusCode, string(b)
	}
	for what, auth := range h.useless {
		if code, body := call("", auth); code != http.StatusUnauthorized || !isError([]byte(body), api.CodeUnauthorized) {
			t.Errorf("%s: %d %s", what, code, body)
		}
	}
	for what, auth := range h.tooNarrow(t, class, path) {
		code, body := call("", "Bearer "+auth)
		if op.AsksEach && !strings.Contains(body, h.machine) && (code == 200 || isError([]byte(body), api.CodeUnsupported)) {
			continue // it reaches some of what this is about, and none of these
		}
		if code != http.StatusForbidden || !isError([]byte(body), api.CodeForbidden) {
			t.Errorf("%s: %d %s", what, code, body)
		}
	}
	if strings.Contains(path, "{app_name}") || strings.Contains(path, "{org_slug}") || class == operates {
		return
	}
	tells, known := elsewhere[op.OperationID]
	switch {
	case !known:
		t.Error("say in elsewhere what this tells another org's token")
	case tells != nil:
		tells(t, h, func(query string) (int, string) { return call(query, "Bearer "+h.foreign) })
	}
}

// tooNarrow are good tokens that do not reach an operation.
func (h *hostile) tooNarrow(t *testing.T, class token.Class, path string) map[string]string {
	all := map[string]string{}
	if class == known {
		return all
	}
	var others []string
	for _, c := range token.Classes {
		if c != class {
			others = append(others, string(c))
		}
	}
	all["of all other classes"] = h.narrow(t, caveat.Caveat{Name: caveat.Actions, Words: others})
	if class == operates {
		all["an org's"] = h.own.String()
	}
	if strings.Contains(path, "{app_name}") || strings.Contains(path, "{org_slug}") {
		all["another org's"] = h.foreign
		all["narrowed to another org"] = h.narrow(t, caveat.Caveat{Name: caveat.Org, Words: []string{"other"}})
		all["of another app"] = h.narrow(t, caveat.Caveat{Name: caveat.Apps, Words: []string{"far"}})
		all["of another machine"] = h.narrow(t, caveat.Caveat{Name: caveat.Machines, Words: []string{"m0"}})
	}
	if class != reads && class != execs {
		all["of some commands"] = h.narrow(t, caveat.Caveat{Name: caveat.Commands, Commands: [][]string{{"date"}}})
	}
	return all
}

// state is all that a call could have changed.
func (h *hostile) state(t *testing.T) string {
	t.Helper()
	var out strings.Builder
	for _, path := range []string{"/v1/apps", "/v1/orgs", "/v1/orgs/personal/tokens", "/v1/orgs/personal/wireguard_peers", "/v1/nodes", "/v1/nodes/tokens", "/v1/apps/shop/machines",
		"/v1/apps/shop/secrets", "/v1/apps/shop/hosts", "/v1/apps/shop/ip_assignments", "/v1/apps/shop/releases"} {
		resp, b := h.k.do(t, "GET", path, "Bearer "+secret, "")
		if resp.StatusCode != 200 {
			t.Fatalf("%s: %d %s", path, resp.StatusCode, b)
		}
		var v any
		if err := json.Unmarshal(b, &v); err != nil {
			t.Fatal(err)
		}
		again, _ := json.Marshal(v)
		fmt.Fprintf(&out, "%s %s\n", path, again)
	}
	return out.String()
}
