package token

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/catalog"
	"github.com/perigee-run/perigee/token/caveat"
)

var shared = []byte(strings.Repeat("k", 32))

func open(t *testing.T, dir string) *Store {
	t.Helper()
	cat, err := catalog.Open(t.Context(), catalog.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cat.Close() })
	s, err := New(Config{Catalog: cat, Key: shared, OrgOf: func(app string) string {
		return map[string]string{"shop": "acme", "api": "acme", "far": "bold"}[app]
	}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var root = Maker{Name: "root", Scope: Full{}}

func mint(t *testing.T, s *Store, by Maker, req api.CreateTokenRequest) api.CreateTokenResponse {
	t.Helper()
	r, err := s.Mint(t.Context(), by, "acme", req)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func holds(t *testing.T, s *Store, text string) Holder {
	t.Helper()
	h, err := s.Authenticate(text)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// TestKinds: what each kind may and may not.
func TestKinds(t *testing.T) {
	s := open(t, t.TempDir())
	may := func(class Class, app, machine string, command ...string) Want {
		org := map[string]string{"shop": "acme", "api": "acme", "far": "bold", "": "acme"}[app]
		return Want{Class: class, Org: org, App: app, Machine: machine, Command: command}
	}
	for _, tt := range []struct {
		req      api.CreateTokenRequest
		yes, not []Want
	}{
		{api.CreateTokenRequest{Kind: api.TokenOrg},
			[]Want{may(Reads, "shop", ""), may(Owns, "api", ""), may(Owns, "", ""), may(Execs, "shop", "m1", "sh"), may(Shells, "shop", ""), {Class: Reads}, {Class: Known}},
			[]Want{may(Reads, "far", ""), may(Operates, "", ""), {Class: Operates}, {Class: Reads, App: "none"}, {Class: Owns, Org: "bold"}}},
		{api.CreateTokenRequest{Kind: api.TokenDeploy, App: "shop"},
			[]Want{may(Reads, "shop", ""), may(Changes, "shop", "m1"), may(Execs, "shop", "m1", "sh"), {Class: Changes}},
			[]Want{may(Owns, "shop", ""), may(Reads, "api", ""), may(Reads, "", ""), may(Changes, "far", "")}},
		{api.CreateTokenRequest{Kind: api.TokenReadOnly},
			[]Want{may(Reads, "shop", ""), may(Reads, "", "")}, []Want{may(Changes, "shop", ""), may(Execs, "shop", "m1"), may(Reads, "far", ""), {Class: Changes}}},
		{api.CreateTokenRequest{Kind: api.TokenReadOnly, App: "shop"}, []Want{may(Reads, "shop", "")}, []Want{may(Reads, "api", ""), may(Reads, "", "")}},
		{api.CreateTokenRequest{Kind: api.TokenSSH, App: "shop"}, []Want{may(Shells, "shop", "m1"), may(Reads, "shop", "")}, []Want{may(Shells, "api", ""), may(Execs, "shop", "m1"), may(Reads, "api", "")}},
		{api.CreateTokenRequest{Kind: api.TokenMachineExec, App: "shop", Machines: []string{"m1"}, Commands: [][]string{{"date"}, {"psql", "..."}}},
			[]Want{may(Execs, "shop", "m1", "date"), may(Execs, "shop", "m1", "psql", "-l"), may(Execs, "shop", "m1")},
			[]Want{may(Execs, "shop", "m2", "date"), may(Execs, "shop", "m1", "sh"), may(Execs, "shop", "m1", "date", "-s"), may(Changes, "shop", "m1"), may(Shells, "shop", "m1"),
				{Class: Execs, Org: "acme", App: "shop", Machine: "m1", Command: []string{"date"}, Altered: true}}},
	} {
		h := holds(t, s, mint(t, s, root, tt.req).Token)
		for _, w := range tt.yes {
			if err := h.Limits.May(w); err != nil {
				t.Errorf("%s may not %+v: %v", tt.req.Kind, w, err)
			}
		}
		for _, w := range tt.not {
			if err := h.Limits.May(w); !api.IsCode(err, api.CodeForbidden) {
				t.Errorf("%s may %+v: %v", tt.req.Kind, w, err)
			}
		}
	}
	if err := (Limits{}).May(Want{Class: Reads}); err == nil {
		t.Error("no limits allow something")
	}
}

// TestRevokedExpiredForged are refused, also after a restart, and by a node with
// another key.
func TestRevokedExpiredForged(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	r := mint(t, s, root, api.CreateTokenRequest{Kind: api.TokenOrg, Name: "ci"})
	tok, err := caveat.Read(r.Token)
	if err != nil {
		t.Fatal(err)
	}
	late, _ := tok.With(caveat.Caveat{Name: caveat.Expires, Time: time.Now().Add(-time.Second)})
	early, _ := tok.With(caveat.Caveat{Name: caveat.NotBefore, Time: time.Now().Add(time.Hour)})
	key, _ := s.keyOf("none")
	unknown, _ := caveat.New(key, "none")
	forged, _ := caveat.New([]byte("guess"), r.ID)
	for text, want := range map[string]string{late.String(): "expired at", early.String(): "valid from", unknown.String(): "not known", forged.String(): "proof is wrong", "perigee_x": "missing or changed", "x": "no token of Perigee"} {
		if _, err := s.Authenticate(text); !api.IsCode(err, api.CodeUnauthorized) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	// The proof is right and a line is none: never ignored.
	bare, _ := s.keyOf(r.ID)
	if whole, err := caveat.New(bare, r.ID); err != nil {
		t.Fatal(err)
	} else if h := holds(t, s, whole.String()); h.Limits.May(Want{Class: Reads, Org: "bold"}) == nil {
		t.Error("the limits of the record do not hold")
	}
	if err := s.Revoke(t.Context(), "bold", r.ID); !api.IsCode(err, api.CodeNotFound) {
		t.Errorf("revoked by another org: %v", err)
	}
	for range 2 {
		if err := s.Revoke(t.Context(), "acme", r.ID); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Authenticate(r.Token); !api.IsCode(err, api.CodeUnauthorized) || !strings.Contains(err.Error(), "revoked") {
		t.Error(err)
	}
	narrow, _ := tok.With(caveat.Caveat{Name: caveat.Apps, Words: []string{"shop"}})
	if _, err := s.Authenticate(narrow.String()); err == nil {
		t.Error("a narrower one lives on")
	}
	if all := s.List("acme"); len(all) != 1 || all[0].RevokedAt == nil || all[0].Name != "ci" || strings.Contains(strings.Join(all[0].Limits, " "), "perigee_") {
		t.Errorf("%+v", all)
	}
	other := &Store{cfg: Config{Key: bytes.Repeat([]byte("x"), 32)}, table: s.table, used: map[string]time.Time{}}
	fresh := mint(t, s, root, api.CreateTokenRequest{Kind: api.TokenOrg})
	if _, err := other.Authenticate(fresh.Token); err == nil {
		t.Error("another cloud takes it")
	}
	s.cfg.Catalog.Close()
	holds(t, open(t, dir), fresh.Token)
}

// TestNobodyMintsMore than it has itself.
func TestNobodyMintsMore(t *testing.T) {
	s := open(t, t.TempDir())
	org := mint(t, s, root, api.CreateTokenRequest{Kind: api.TokenOrg, Expiry: "1h"})
	maker := func(limits ...caveat.Caveat) Maker {
		tok, err := caveat.Read(org.Token)
		if err != nil {
			t.Fatal(err)
		}
		if tok, err = tok.With(limits...); err != nil {
			t.Fatal(err)
		}
		return Maker{"m", holds(t, s, tok.String()).Limits}
	}
	app, look := caveat.Caveat{Name: caveat.Apps, Words: []string{"shop"}}, caveat.Caveat{Name: caveat.Actions, Words: []string{"reads", "owns"}}
	for _, tt := range []struct {
		by   Maker
		org  string
		req  api.CreateTokenRequest
		code string
	}{
		{maker(), "acme", api.CreateTokenRequest{Kind: api.TokenOrg}, ""},
		{maker(), "acme", api.CreateTokenRequest{Kind: api.TokenOrg, Expiry: "2h"}, api.CodeInvalid},
		{maker(), "bold", api.CreateTokenRequest{Kind: api.TokenOrg}, api.CodeForbidden},
		{maker(), "bold", api.CreateTokenRequest{Kind: api.TokenDeploy, App: "shop"}, api.CodeNotFound},
		{maker(app), "acme", api.CreateTokenRequest{Kind: api.TokenDeploy, App: "shop"}, ""},
		{maker(app), "acme", api.CreateTokenRequest{Kind: api.TokenDeploy, App: "api"}, api.CodeForbidden},
		{maker(app), "acme", api.CreateTokenRequest{Kind: api.TokenReadOnly}, api.CodeForbidden},
		{maker(look), "acme", api.CreateTokenRequest{Kind: api.TokenReadOnly}, ""},
		{maker(look), "acme", api.CreateTokenRequest{Kind: api.TokenDeploy, App: "shop"}, api.CodeForbidden},
		{maker(caveat.Caveat{Name: caveat.Commands, Commands: [][]string{{"date"}}}), "acme", api.CreateTokenRequest{Kind: api.TokenMachineExec, App: "shop", Commands: [][]string{{"date"}}}, api.CodeForbidden},
		{maker(caveat.Caveat{Name: caveat.Machines, Words: []string{"m1"}}), "acme", api.CreateTokenRequest{Kind: api.TokenMachineExec, App: "shop"}, api.CodeForbidden},
		{maker(caveat.Caveat{Name: caveat.Machines, Words: []string{"m1"}}), "acme", api.CreateTokenRequest{Kind: api.TokenMachineExec, App: "shop", Machines: []string{"m1"}}, ""},
	} {
		made, err := s.Mint(t.Context(), tt.by, tt.org, tt.req)
		if tt.code == "" && err != nil || tt.code != "" && !api.IsCode(err, tt.code) {
			t.Errorf("%+v by %v: %v", tt.req, tt.by, err)
		}
		if err == nil && made.ExpiresAt.After(*org.ExpiresAt) {
			t.Errorf("%+v outlives its maker", tt.req)
		}
	}
}

func TestMintErrors(t *testing.T) {
	s := open(t, t.TempDir())
	for _, tt := range []struct {
		req         api.CreateTokenRequest
		code, field string
	}{
		{api.CreateTokenRequest{}, api.CodeInvalid, "kind"}, {api.CreateTokenRequest{Kind: "king"}, api.CodeInvalid, "kind"},
		{api.CreateTokenRequest{Kind: api.TokenMachine, App: "shop"}, api.CodeInvalid, "kind"},
		{api.CreateTokenRequest{Kind: api.TokenDeploy}, api.CodeInvalid, "app"}, {api.CreateTokenRequest{Kind: api.TokenOrg, App: "shop"}, api.CodeInvalid, "app"},
		{api.CreateTokenRequest{Kind: api.TokenDeploy, App: "none"}, api.CodeNotFound, "app"}, {api.CreateTokenRequest{Kind: api.TokenDeploy, App: "far"}, api.CodeNotFound, "app"},
		{api.CreateTokenRequest{Kind: api.TokenOrg, Machines: []string{"m"}}, api.CodeInvalid, "kind"},
		{api.CreateTokenRequest{Kind: api.TokenOrg, Name: "a\nb"}, api.CodeInvalid, "name"}, {api.CreateTokenRequest{Kind: api.TokenOrg, Name: "a\u202eb"}, api.CodeInvalid, "name"}, {api.CreateTokenRequest{Kind: api.TokenOrg, Name: "a\u009bb"}, api.CodeInvalid, "name"}, {api.CreateTokenRequest{Kind: api.TokenOrg, Name: strings.Repeat("n", 99)}, api.CodeInvalid, "name"},
		{api.CreateTokenRequest{Kind: api.TokenOrg, Expiry: "soon"}, api.CodeInvalid, "expiry"}, {api.CreateTokenRequest{Kind: api.TokenOrg, Expiry: "-1h"}, api.CodeInvalid, "expiry"},
		{api.CreateTokenRequest{Kind: api.TokenMachineExec, App: "shop", Machines: []string{"M 1"}}, api.CodeInvalid, "machines"},
		{api.CreateTokenRequest{Kind: api.TokenMachineExec, App: "shop", Commands: [][]string{{}}}, api.CodeInvalid, "commands"},
	} {
		_, err := s.Mint(t.Context(), root, "acme", tt.req)
		if e := api.AsError(err); e == nil || e.Code != tt.code || e.Field != tt.field {
			t.Errorf("%+v: %v", tt.req, err)
		}
	}
	if all := s.List("acme"); len(all) != 0 {
		t.Errorf("left %+v", all)
	}
}

// TestTend: the last use is written down, and what ended long ago goes.
func TestTend(t *testing.T) {
	s := open(t, t.TempDir())
	r := mint(t, s, root, api.CreateTokenRequest{Kind: api.TokenOrg, Expiry: "1h"})
	holds(t, s, r.Token)
	s.tend(t.Context(), time.Now())
	if all := s.List("acme"); len(all) != 1 || all[0].LastUsed == nil {
		t.Errorf("%+v", all)
	}
	s.tend(t.Context(), time.Now().Add(keepEnded+2*time.Hour))
	if all := s.List("acme"); len(all) != 0 {
		t.Errorf("%+v", all)
	}
}

// TestIssuer: a word about a machine is believed by whoever reads the documents.
func TestIssuer(t *testing.T) {
	i, err := NewIssuer("https://cloud.example", shared)
	if err != nil {
		t.Fatal(err)
	}
	other, err := NewIssuer("https://cloud.example", shared) // another node
	if err != nil || other.Keys().Keys[0] != i.Keys().Keys[0] {
		t.Fatalf("%+v, %v", other, err)
	}
	text, err := i.Sign(Identity{AppName: "shop", OrgName: "acme", MachineName: "quiet-sun", MachineID: "m1"}, "sts.example")
	if err != nil {
		t.Fatal(err)
	}
	word, err := jwt.ParseSigned(text, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		t.Fatal(err)
	}
	k := i.Keys().Keys[0]
	var public jose.JSONWebKey
	if err := public.UnmarshalJSON([]byte(`{"kty":"EC","crv":"P-256","x":"` + k.X + `","y":"` + k.Y + `","kid":"` + k.ID + `"}`)); err != nil {
		t.Fatal(err)
	}
	var claims jwt.Claims
	var who Identity
	if err := word.Claims(public, &claims, &who); err != nil {
		t.Fatal(err)
	}
	if err := claims.Validate(jwt.Expected{Issuer: i.Configuration().Issuer, AnyAudience: jwt.Audience{"sts.example"}, Subject: "acme:shop:quiet-sun", Time: time.Now()}); err != nil {
		t.Error(err)
	}
	if who.MachineID != "m1" || word.Headers[0].KeyID != k.ID {
		t.Errorf("%+v %+v", who, word.Headers)
	}
}
