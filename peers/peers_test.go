package peers

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/catalog"
	"github.com/perigee-run/perigee/mesh"
	"github.com/perigee-run/perigee/mesh/wire"
)

var base = netip.MustParsePrefix("fdaa::/16")

// cloud is two nodes.
type cloud map[string]Gateway

func (c cloud) Find(node string) (Gateway, bool) { g, ok := c[node]; return g, ok }

func (c cloud) Choose(region string) (Gateway, error) {
	for _, g := range c {
		if g.Region == region || region == "" && g.Node == "n1" {
			return g, nil
		}
	}
	return Gateway{}, errors.New("no node is in region " + region)
}

func publicKey(t testing.TB) wire.Key {
	t.Helper()
	k, err := wire.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return k.Public()
}

func open(t testing.TB) (*Store, cloud) {
	t.Helper()
	cat, err := catalog.Open(t.Context(), catalog.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cat.Close() })
	c := cloud{
		"n1": {Node: "n1", Region: "fra", Number: 1, Key: publicKey(t), Endpoint: "203.0.113.1:51820"},
		"n2": {Node: "n2", Region: "syd", Number: 2, Key: publicKey(t), Endpoint: "203.0.113.2:51820"},
	}
	numbers := map[string]uint32{"acme": 10, "bold": 11}
	s, err := New(Config{Catalog: cat, Node: "n1", Base: base, OrgNumber: func(org string) uint32 { return numbers[org] }, Gateways: c})
	if err != nil {
		t.Fatal(err)
	}
	return s, c
}

func TestPeers(t *testing.T) {
	s, c := open(t)
	k := publicKey(t)
	p, err := s.Create(t.Context(), "acme", api.CreateWireGuardPeerRequest{Name: "lap", PublicKey: k.String()})
	if err != nil {
		t.Fatal(err)
	}
	addr := mesh.PeerAddr(base, 1, 10, "lap")
	if p.Address != addr.String() || p.Node != "n1" || p.Region != "fra" || p.GatewayKey != c["n1"].Key.String() || p.Endpoint != "203.0.113.1:51820" ||
		p.DNS != "fdaa::3" || len(p.AllowedIPs) != 1 || p.AllowedIPs[0] != "fdaa::/16" || p.ExpiresAt != nil {
		t.Errorf("%+v", p)
	}
	if _, err := s.Create(t.Context(), "acme", api.CreateWireGuardPeerRequest{Name: "away", PublicKey: publicKey(t).String(), Region: "syd", TTL: 60}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Create(t.Context(), "bold", api.CreateWireGuardPeerRequest{Name: "lap", PublicKey: publicKey(t).String()}); err != nil {
		t.Errorf("the same name in another org: %v", err)
	}
	if all := s.List("acme"); len(all) != 2 || all[0].Name != "away" || all[0].ExpiresAt == nil || all[0].Node != "n2" {
		t.Errorf("%+v", all)
	}
	if here := s.WirePeers(); len(here) != 2 || here[0].Key != k || here[0].Allowed[0] != netip.PrefixFrom(addr, 128) {
		t.Errorf("%+v", here)
	}
	if here := s.MeshPeers(); len(here) != 2 || here[0] != (mesh.Peer{Org: "acme", Addr: addr}) {
		t.Errorf("%+v", here)
	}
	if names := s.Names("acme"); len(names) != 2 || len(s.Names("bold")) != 1 {
		t.Errorf("%+v", names)
	}
	for range 2 {
		err = s.Delete(t.Context(), "acme", "lap")
		if len(s.List("acme")) != 1 || len(s.MeshPeers()) != 1 {
			t.Errorf("%+v", s.List("acme"))
		}
	}
	if e := api.AsError(err); e.Code != api.CodeNotFound {
		t.Errorf("%v", err)
	}
}

func TestRefusals(t *testing.T) {
	s, c := open(t)
	k := publicKey(t).String()
	if _, err := s.Create(t.Context(), "acme", api.CreateWireGuardPeerRequest{Name: "lap", PublicKey: k}); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		org, code, field string
		req              api.CreateWireGuardPeerRequest
	}{
		{"nobody", api.CodeNotFound, "", api.CreateWireGuardPeerRequest{Name: "x", PublicKey: publicKey(t).String()}},
		{"../acme", api.CodeNotFound, "", api.CreateWireGuardPeerRequest{Name: "x", PublicKey: publicKey(t).String()}},
		{"acme", api.CodeNameTaken, "name", api.CreateWireGuardPeerRequest{Name: "lap", PublicKey: publicKey(t).String()}},
		{"acme", api.CodeInvalid, "name", api.CreateWireGuardPeerRequest{PublicKey: publicKey(t).String()}},
		{"acme", api.CodeInvalid, "name", api.CreateWireGuardPeerRequest{Name: "a.b", PublicKey: publicKey(t).String()}},
		{"acme", api.CodeInvalid, "name", api.CreateWireGuardPeerRequest{Name: strings.Repeat("a", 64), PublicKey: publicKey(t).String()}},
		{"acme", api.CodeInvalid, "public_key", api.CreateWireGuardPeerRequest{Name: "x"}},
		{"acme", api.CodeInvalid, "public_key", api.CreateWireGuardPeerRequest{Name: "x", PublicKey: "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}},
		{"acme", api.CodeInvalid, "public_key", api.CreateWireGuardPeerRequest{Name: "x", PublicKey: c["n1"].Key.String()}},
		{"acme", api.CodeConflict, "public_key", api.CreateWireGuardPeerRequest{Name: "x", PublicKey: k}},
		{"bold", api.CodeConflict, "public_key", api.CreateWireGuardPeerRequest{Name: "x", PublicKey: k}},
		{"acme", api.CodeInvalid, "region", api.CreateWireGuardPeerRequest{Name: "x", PublicKey: publicKey(t).String(), Region: "nrt"}},
		{"acme", api.CodeInvalid, "ttl", api.CreateWireGuardPeerRequest{Name: "x", PublicKey: publicKey(t).String(), TTL: -1}},
		{"acme", api.CodeInvalid, "ttl", api.CreateWireGuardPeerRequest{Name: "x", PublicKey: publicKey(t).String(), TTL: 1 << 40}},
	}
	for _, tt := range tests {
		_, err := s.Create(t.Context(), tt.org, tt.req)
		if err == nil {
			t.Errorf("%+v: created", tt)
			continue
		}
		if e := api.AsError(err); e.Code != tt.code || e.Field != tt.field {
			t.Errorf("%+v: %s in %q: %v", tt.req, e.Code, e.Field, err)
		}
	}
	if len(s.List("acme")) != 1 || len(s.List("bold")) != 0 {
		t.Error("a refusal changed something")
	}
}

// TestExpiry: a peer ends to the second, its record soon after, its name at once.
func TestExpiry(t *testing.T) {
	now := time.Now()
	if !(Record{ExpiresAt: now.Add(-1)}).expired(now) || (Record{ExpiresAt: now.Add(1)}).expired(now) || (Record{}).expired(now) {
		t.Error("expired is wrong")
	}
	s, _ := open(t)
	k := publicKey(t).String()
	for _, name := range []string{"brief", "other"} {
		if _, err := s.Create(t.Context(), "acme", api.CreateWireGuardPeerRequest{Name: name, PublicKey: k, TTL: 1}); err != nil {
			t.Fatal(err)
		}
		k = publicKey(t).String()
	}
	time.Sleep(1100 * time.Millisecond)
	if len(s.Here())+len(s.List("acme"))+len(s.Names("acme")) != 0 {
		t.Error("it is still in")
	}
	if _, err := s.Create(t.Context(), "acme", api.CreateWireGuardPeerRequest{Name: "brief", PublicKey: k, TTL: 1000}); err != nil {
		t.Errorf("the name is not free: %v", err)
	}
	if !s.sweep(t.Context(), time.Now()) || len(s.table.List("")) != 1 {
		t.Errorf("%d records are left", len(s.table.List("")))
	}
}

// TestRun tells of every change.
func TestRun(t *testing.T) {
	s, _ := open(t)
	ctx, cancel := context.WithCancel(t.Context())
	changed, done := make(chan bool, 10), make(chan error, 1)
	go func() { done <- s.Run(ctx, func() { changed <- true }) }()
	if _, err := s.Create(t.Context(), "acme", api.CreateWireGuardPeerRequest{Name: "lap", PublicKey: publicKey(t).String()}); err != nil {
		t.Fatal(err)
	}
	for i, step := range []func() error{func() error { return nil }, func() error { return s.Delete(t.Context(), "acme", "lap") }} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
		select {
		case <-changed:
		case <-time.After(5 * time.Second):
			t.Fatalf("change %d was not told", i)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
