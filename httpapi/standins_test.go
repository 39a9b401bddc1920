package httpapi

import (
	"context"
	"errors"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/placement"
	"github.com/perigee-run/perigee/router/certs"
	"github.com/perigee-run/perigee/router/localca"
)

// authority is the real certificates of a node without ACME.
type authority struct{ *certs.Certificates }

func newAuthority(t testing.TB, dir string) authority {
	t.Helper()
	ca, err := localca.Open(filepath.Join(dir, "ca"), "Test")
	if err != nil {
		t.Fatal(err)
	}
	c, err := certs.New(certs.Config{Local: ca})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return authority{c}
}

func (authority) Addresses(string) []netip.Addr {
	return []netip.Addr{netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::7")}
}

// phoneBook is a DNS of a few names.
type phoneBook struct{}

func (phoneBook) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	switch host {
	case "shop.example.com", "perigee-check.example.net":
		return []netip.Addr{netip.MustParseAddr("192.0.2.7")}, nil
	case "away.example.com":
		return []netip.Addr{netip.MustParseAddr("198.51.100.1")}, nil
	}
	return nil, errors.New("no such host")
}

func (phoneBook) LookupCNAME(_ context.Context, host string) (string, error) {
	if host == "alias.example.com" {
		return "shop.node.example.", nil
	}
	return host + ".", nil
}

func (phoneBook) LookupTXT(context.Context, string) ([]string, error) {
	return []string{"org-personal"}, nil
}

// places is two nodes with room, by the real choice.
type places struct{}

func (places) Placements(_ context.Context, req api.PlacementRequest) (out api.PlacementResponse, err error) {
	want := placement.Want{Near: "fra", MemoryMB: 256}
	if req.Region != "" {
		want.Regions = []string{req.Region}
	}
	rooms, err := placement.Simulate([]placement.Node{
		{Name: "n1", Region: "fra", Host: true, Up: true, FreeMemoryMB: 1024, FreeCPUs: 8},
		{Name: "n2", Region: "syd", Host: true, Up: true, FreeMemoryMB: 512, FreeCPUs: 8},
	}, want, req.Count)
	for _, r := range rooms {
		out.Regions = append(out.Regions, api.RegionPlacement{Region: r.Region, Count: r.Count, Concurrency: r.Nodes})
	}
	return out, err
}
