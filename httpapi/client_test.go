package httpapi

import (
	"context"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/perigee-run/perigee/api"
)

// forOthers are the operations that no Go program has a use for, with the reason.
var forOthers = map[string]string{
	"Meta_docs": "a page for people", "Meta_openapi_json": "a document", "Meta_openapi_yaml": "a document",
	"Meta_openid_configuration": "a document for other services", "Meta_jwks": "a document for other services",
}

// heard is a server that answers nothing and remembers which operations it was asked for.
type heard struct {
	mux *http.ServeMux
	ids map[string][]string // operation → methods of the client
	now string              // the method that is being tried
}

func newHeard() *heard {
	h := &heard{mux: http.NewServeMux(), ids: map[string][]string{}}
	for _, r := range (&Server{}).routes() {
		h.mux.HandleFunc(r.method+" "+r.path, func(w http.ResponseWriter, _ *http.Request) {
			h.ids[r.id] = append(h.ids[r.id], h.now)
			writeError(w, api.Errorf(api.CodeNotFound, "nothing is here"))
		})
	}
	return h
}

// RoundTrip makes it the client's transport.
func (h *heard) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		defer r.Body.Close()
	}
	w := httptest.NewRecorder()
	h.mux.ServeHTTP(w, r)
	return w.Result(), nil
}

// TestClientHasAll: each operation of the document is one that a method of the Go client
// calls. All its methods are called with whatever fits, and what they ask for is matched
// to the table of routes.
func TestClientHasAll(t *testing.T) {
	h := newHeard()
	client, err := api.NewClient(api.ClientConfig{Addr: "http://house", Transport: h, Upgrade: h})
	if err != nil {
		t.Fatal(err)
	}
	v := reflect.ValueOf(client)
	for i := range v.NumMethod() {
		if h.now = v.Type().Method(i).Name; h.now != "Close" {
			try(v.Method(i), "x")
			try(v.Method(i), "") // all, where a name is left out
		}
	}
	left := maps.Clone(forOthers)
	for _, r := range (&Server{}).routes() {
		delete(left, r.id)
		by, why := h.ids[r.id], forOthers[r.id]
		switch {
		case len(by) == 0 && why == "":
			t.Errorf("no method of api.Client calls %s (%s %s)", r.id, r.method, r.path)
		case len(by) > 0 && why != "":
			t.Errorf("%s is called by %s, though it is %s", r.id, strings.Join(slices.Compact(by), ", "), why)
		}
	}
	if len(left) > 0 {
		t.Errorf("there are no such operations: %v", left)
	}
}

// try calls a method, and reads what it returns if that is a stream.
func try(method reflect.Value, text string) {
	t := method.Type()
	args := make([]reflect.Value, t.NumIn())
	for i := range args {
		args[i] = anything(t.In(i), text)
	}
	call := method.Call
	if t.IsVariadic() {
		call = method.CallSlice
	}
	for _, out := range call(args) {
		if out.Kind() != reflect.Func || out.IsNil() || out.Type().NumIn() != 1 {
			continue
		}
		yield := reflect.MakeFunc(out.Type().In(0), func([]reflect.Value) []reflect.Value { return []reflect.Value{reflect.ValueOf(false)} })
		out.Call([]reflect.Value{yield})
	}
}

// anything is an argument that a method takes.
func anything(t reflect.Type, text string) reflect.Value {
	switch t {
	case reflect.TypeFor[context.Context]():
		return reflect.ValueOf(context.Background())
	case reflect.TypeFor[io.Reader]():
		return reflect.ValueOf(strings.NewReader(""))
	case reflect.TypeFor[string]():
		return reflect.ValueOf(text)
	case reflect.TypeFor[api.ExecIO]():
		return reflect.ValueOf(api.ExecIO{Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: io.Discard})
	}
	return reflect.Zero(t)
}

// TestClientOfSmallThings: what the command line does not use does what it says.
func TestClientOfSmallThings(t *testing.T) {
	k := newKit(t)
	m := k.machine(t, "shop")
	ctx := t.Context()
	if err := k.Health(ctx); err != nil {
		t.Error(err)
	}
	if s, err := k.SetSecret(ctx, "shop", "KEY", "v"); err != nil || s.Name != "KEY" || s.Version != 1 {
		t.Errorf("%+v, %v", s, err)
	}
	if s, err := k.GetSecret(ctx, "shop", "KEY"); err != nil || s.Digest == "" {
		t.Errorf("%+v, %v", s, err)
	}
	if err := k.DeleteSecret(ctx, "shop", "KEY"); err != nil {
		t.Error(err)
	}
	if _, err := k.GetSecret(ctx, "shop", "KEY"); !api.IsCode(err, api.CodeNotFound) {
		t.Errorf("one that is gone: %v", err)
	}
	if err := k.SetMetadata(ctx, "shop", m.ID, "a/b", "c"); err != nil {
		t.Error(err)
	}
	if v, err := k.MetadataKey(ctx, "shop", m.ID, "a/b"); err != nil || v != "c" {
		t.Errorf("%q, %v", v, err)
	}
	tok, err := k.CreateDeployToken(ctx, "shop", api.DeployTokenRequest{Expiry: "1h"})
	if err != nil {
		t.Fatal(err)
	}
	if who, err := k.AuthenticateToken(ctx, tok); err != nil || len(who) != 1 || who[0].Kind != api.TokenDeploy {
		t.Errorf("%+v, %v", who, err)
	}
	ask := api.AuthorizeRequest{Header: tok, Access: api.TokenAccess{Action: "changes", AppName: "shop"}}
	if _, err := k.AuthorizeToken(ctx, ask); err != nil {
		t.Error(err)
	}
	ask.Access.Action = "owns"
	if _, err := k.AuthorizeToken(ctx, ask); !api.IsCode(err, api.CodeForbidden) {
		t.Errorf("a deploy token owns: %v", err)
	}
	inside := httptest.NewServer(k.server.Handler(guest{"shop", m.ID}))
	defer inside.Close()
	client, err := api.NewClient(api.ClientConfig{Addr: inside.URL})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if word, err := client.IdentityToken(ctx, api.OIDCRequest{Aud: "vault"}); err != nil || strings.Count(word, ".") != 2 {
		t.Errorf("%q, %v", word, err)
	}
}
