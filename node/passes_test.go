package node

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/perigee-run/perigee/httpapi"
	"github.com/perigee-run/perigee/token"
)

// TestPassReadsWhatItsScopeReads: a build's credential for the built-in registry.
func TestPassReadsWhatItsScopeReads(t *testing.T) {
	var p passes
	who := p.passOr(httpapi.Token("root"))
	pass, end := p.give(token.Grant("acme", []string{"shop"}, token.Reads, token.Changes))
	try := func(secret string, w token.Want) error {
		r := httptest.NewRequest(http.MethodGet, "/v2/", nil)
		r.SetBasicAuth("perigee", secret)
		got, err := who.Authenticate(r)
		return errors.Join(err, may(got.Scope, w))
	}
	own := token.Want{Class: token.Reads, Org: "acme", App: "shop"}
	if err := try(pass, own); err != nil {
		t.Error(err)
	}
	for _, w := range []token.Want{{Class: token.Reads, Org: "other", App: "victim"}, {Class: token.Reads, Org: "acme", App: "front"}, {Class: token.Changes, Org: "acme", App: "shop"}, {Class: token.Operates}} {
		if try(pass, w) == nil {
			t.Errorf("it may %+v", w)
		}
	}
	if err := try("root", token.Want{Class: token.Operates}); err != nil {
		t.Errorf("the others: %v", err)
	}
	end()
	if try(pass, own) == nil || try("", own) == nil {
		t.Error("an ended pass is good")
	}
	none, end := p.give(nil)
	defer end()
	if try(none, own) == nil {
		t.Error("nobody's pass is good")
	}
}

func may(s token.Scope, w token.Want) error {
	if s == nil {
		return errors.New("nobody")
	}
	return s.May(w)
}

// TestBuildsHaveAPassAlone: what a build shows to registries is never the root token.
func TestBuildsHaveAPassAlone(t *testing.T) {
	n := &Node{cfg: Config{Listen: "127.0.0.1:4280", Domain: "node.example"}, token: "root"}
	for _, host := range n.cfg.registryHosts() {
		if user, secret := n.registryAuth("pass")(host); user == "" || secret != "pass" {
			t.Errorf("%s gets %s %s", host, user, secret)
		}
	}
	if _, secret := n.registryAuth("pass")("docker.io"); secret != "" {
		t.Error("docker.io gets a pass")
	}
}
