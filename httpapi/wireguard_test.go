package httpapi

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/catalog"
	"github.com/perigee-run/perigee/mesh/wire"
	"github.com/perigee-run/perigee/peers"
)

// fra is the one node where laptops enter.
type fra struct{ key wire.Key }

func (f fra) Find(node string) (peers.Gateway, bool) {
	return peers.Gateway{Node: "n1", Region: "fra", Number: 7, Key: f.key, Endpoint: "203.0.113.7:51820"}, node == "n1"
}

func (f fra) Choose(region string) (peers.Gateway, error) {
	if region != "" && region != "fra" {
		return peers.Gateway{}, errors.New("no node is there")
	}
	g, _ := f.Find("n1")
	return g, nil
}

func newPeers(cat *catalog.Catalog) (*peers.Store, error) {
	k, err := wire.NewKey()
	if err != nil {
		return nil, err
	}
	number := func(org string) uint32 { return map[string]uint32{"personal": 1, "acme": 2}[org] }
	return peers.New(peers.Config{Catalog: cat, Node: "n1", Base: netip.MustParsePrefix("fdaa::/16"), OrgNumber: number, Gateways: fra{k.Public()}})
}

func TestWireGuardPeers(t *testing.T) {
	k := newKit(t)
	if _, err := k.CreateOrg(t.Context(), api.CreateOrgRequest{Slug: "acme"}); err != nil {
		t.Fatal(err)
	}
	key, err := wire.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	made, err := k.CreateWireGuardPeer(t.Context(), "acme", api.CreateWireGuardPeerRequest{Name: "lap", PublicKey: key.Public().String(), Region: "fra"})
	if err != nil || made.Endpoint != "203.0.113.7:51820" || made.Org != "acme" {
		t.Fatalf("%+v, %v", made, err)
	}
	if all, err := k.ListWireGuardPeers(t.Context(), "acme"); err != nil || len(all) != 1 || all[0].Address != made.Address {
		t.Errorf("%+v, %v", all, err)
	}
	if all, err := k.ListWireGuardPeers(t.Context(), "personal"); err != nil || len(all) != 0 {
		t.Errorf("another org has %+v, %v", all, err)
	}
	if _, err := k.CreateWireGuardPeer(t.Context(), "acme", api.CreateWireGuardPeerRequest{Name: "x", PublicKey: "x"}); api.AsError(err).Field != "public_key" {
		t.Errorf("%v", err)
	}
	if err := k.DeleteWireGuardPeer(t.Context(), "personal", "lap"); api.AsError(err).Code != api.CodeNotFound {
		t.Errorf("%v", err)
	}
	if err := k.DeleteWireGuardPeer(t.Context(), "acme", "lap"); err != nil {
		t.Error(err)
	}
}

// TestNoPrivateNetwork: a node without WireGuard says so in words.
func TestNoPrivateNetwork(t *testing.T) {
	k := newKit(t)
	s, err := New(Config{Apps: k.apps, Deploys: k.deploys, Machines: k.machines, Images: shelf{}, Node: self{k}})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(s.Handler(Token(secret)))
	defer server.Close()
	c, err := api.NewClient(api.ClientConfig{Addr: server.URL, Token: secret})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if all, err := c.ListWireGuardPeers(t.Context(), "personal"); err != nil || len(all) != 0 {
		t.Errorf("%+v, %v", all, err)
	}
	_, create := c.CreateWireGuardPeer(t.Context(), "personal", api.CreateWireGuardPeerRequest{Name: "lap"})
	for _, err := range []error{create, c.DeleteWireGuardPeer(t.Context(), "personal", "lap")} {
		if e := api.AsError(err); e.Code != api.CodeConflict || !strings.Contains(e.Message, "private network") || e.Hint == "" {
			t.Errorf("%v", err)
		}
	}
	if resp, _ := k.do(t, http.MethodGet, "/v1/orgs/personal/wireguard_peers", "", ""); resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("without a token: %d", resp.StatusCode)
	}
}
