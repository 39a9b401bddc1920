package app

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/perigee-run/perigee/api"
)

func pools(ss ...string) Config {
	var cfg Config
	for _, s := range ss {
		cfg.Pools = append(cfg.Pools, netip.MustParsePrefix(s))
	}
	return cfg
}

func TestAddresses(t *testing.T) {
	dir := t.TempDir()
	s, c := open(t, dir, pools("203.0.113.0/29", "2001:db8:f::/48"))
	ctx := t.Context()
	create(t, s, "shop")
	four, err := s.AllocateIP(ctx, "shop", api.AllocateIPRequest{Type: "v4"})
	if err != nil {
		t.Fatal(err)
	}
	six, err := s.AllocateIP(ctx, "shop", api.AllocateIPRequest{Type: "v6", Region: "global"})
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range []api.IPAssignment{four, six} {
		if owner, ok := s.AddressOwner(netip.MustParseAddr(a.IP)); !ok || owner != "shop" || a.Region != "global" || a.Shared {
			t.Errorf("%+v is owned by %q", a, owner)
		}
	}
	if owner, ok := s.AddressOwner(netip.MustParseAddr("::ffff:" + four.IP)); !ok || owner != "shop" {
		t.Errorf("an IPv4 address in IPv6 form is owned by %q", owner)
	}
	if got := s.Addresses("shop"); len(got) != 2 || got[0].String() != four.IP || got[1].String() != six.IP {
		t.Errorf("addresses are %v", got)
	}
	if all, err := s.ListIPs("shop"); err != nil || len(all) != 2 || all[0] != four {
		t.Errorf("list is %+v, %v", all, err)
	}
	if err := s.ReleaseIP(ctx, "shop", strings.ToUpper(six.IP)); err != nil {
		t.Error(err)
	}
	if _, ok := s.AddressOwner(netip.MustParseAddr(six.IP)); ok {
		t.Error("a released address has an owner")
	}
	c.Close()
	s, _ = open(t, dir, pools("203.0.113.0/29"))
	if owner, _ := s.AddressOwner(netip.MustParseAddr(four.IP)); owner != "shop" {
		t.Errorf("after a restart it is owned by %q", owner)
	}
	if err := s.Delete(ctx, "shop"); err != nil {
		t.Fatal(err)
	}
	if _, ok := s.AddressOwner(netip.MustParseAddr(four.IP)); ok {
		t.Error("the address of a destroyed app has an owner")
	}
}

// TestPoolRunsOut: a pool of eight has six to give, to many at once, each once.
func TestPoolRunsOut(t *testing.T) {
	s, _ := open(t, t.TempDir(), pools("203.0.113.8/29"))
	var wg sync.WaitGroup
	for i := range 8 {
		app := fmt.Sprint("app", i)
		create(t, s, app)
		wg.Go(func() {
			_, err := s.AllocateIP(context.Background(), app, api.AllocateIPRequest{Type: "v4"})
			if err != nil && !api.IsCode(err, api.CodeCapacity) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	seen := map[netip.Addr]bool{}
	for i := range 8 {
		for _, a := range s.Addresses(fmt.Sprint("app", i)) {
			if seen[a] || !s.cfg.Pools[0].Contains(a) || a == s.cfg.Pools[0].Addr() || a.String() == "203.0.113.15" {
				t.Errorf("gave out %s", a)
			}
			seen[a] = true
		}
	}
	if len(seen) != 6 {
		t.Errorf("gave out %d of 6", len(seen))
	}
}

// TestPrivateAddress: every app has one from the beginning, and keeps it.
func TestPrivateAddress(t *testing.T) {
	cfg := pools("203.0.113.0/29")
	cfg.PrivateIP = func(org uint32, app string) netip.Addr {
		return netip.AddrFrom16([16]byte{0xfd, 15: byte(len(app)), 14: byte(min(org, 1))})
	}
	s, _ := open(t, t.TempDir(), cfg)
	create(t, s, "shop")
	four, err := s.AllocateIP(t.Context(), "shop", api.AllocateIPRequest{Type: "v4"})
	if err != nil || four.Type != "v4" {
		t.Fatal(four, err)
	}
	private, err := s.AllocateIP(t.Context(), "shop", api.AllocateIPRequest{Type: "private_v6"})
	if err != nil || private.IP != "fd00::104" || private.Type != "private_v6" {
		t.Errorf("asked for it: %+v, %v", private, err)
	}
	if all, err := s.ListIPs("shop"); err != nil || len(all) != 2 || all[0] != private || all[1] != four {
		t.Errorf("list is %+v, %v", all, err)
	}
	if err := s.ReleaseIP(t.Context(), "shop", private.IP); !api.IsCode(err, api.CodeConflict) {
		t.Errorf("released: %v", err)
	}
	if all := s.AllAddresses(); len(all) != 1 || len(all["shop"]) != 1 || all["shop"][0].String() != four.IP {
		t.Errorf("public addresses are %v", all)
	}
}

func TestAddressErrors(t *testing.T) {
	s, _ := open(t, t.TempDir(), pools("2001:db8::/32", "203.0.113.4/32"))
	create(t, s, "shop")
	for _, tt := range []struct {
		app, kind, region, code string
	}{
		{"none", "v4", "", api.CodeNotFound}, {"shop", "", "", api.CodeInvalid}, {"shop", "v5", "", api.CodeInvalid},
		{"shop", "shared_v4", "", api.CodeUnsupported}, {"shop", "private_v6", "", api.CodeUnsupported}, {"shop", "v4", "fra", api.CodeUnsupported},
	} {
		if _, err := s.AllocateIP(t.Context(), tt.app, api.AllocateIPRequest{Type: tt.kind, Region: tt.region}); !api.IsCode(err, tt.code) {
			t.Errorf("%+v: %v", tt, err)
		}
	}
	if a, err := s.AllocateIP(t.Context(), "shop", api.AllocateIPRequest{Type: "v4"}); err != nil || a.IP != "203.0.113.4" {
		t.Errorf("a pool of one gave %+v, %v", a, err)
	}
	for _, ip := range []string{"203.0.113.5", "x", "", "fe80::1%lo", strings.Repeat("1", 500)} {
		if err := s.ReleaseIP(t.Context(), "shop", ip); !api.IsCode(err, api.CodeNotFound) {
			t.Errorf("release %q: %v", ip, err)
		}
	}
	for range maxAddresses - 1 {
		if _, err := s.AllocateIP(t.Context(), "shop", api.AllocateIPRequest{Type: "v6"}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.AllocateIP(t.Context(), "shop", api.AllocateIPRequest{Type: "v6"}); !api.IsCode(err, api.CodeCapacity) {
		t.Errorf("one too many: %v", err)
	}
	for _, bad := range [][]string{{"203.0.113.0/24", "203.0.113.8/29"}, {"2001:db8::/32", "2001:db8:1::/48"}} {
		if _, err := New(Config{Catalog: s.cfg.Catalog, KeyFile: s.cfg.KeyFile, Pools: pools(bad...).Pools}); err == nil || !strings.Contains(err.Error(), "overlap") {
			t.Errorf("%v: %v", bad, err)
		}
	}
	if err := checkPools([]netip.Prefix{netip.MustParsePrefix("10.0.0.1/8")}); err == nil {
		t.Error("took a pool with bits beyond its length")
	}
}

// TestAddressChanges: who watches hears of the app.
func TestAddressChanges(t *testing.T) {
	s, _ := open(t, t.TempDir(), pools("203.0.113.0/24"))
	create(t, s, "shop")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	heard := s.Changes(ctx)
	if name := <-heard; name != "shop" {
		t.Fatal(name)
	}
	a, err := s.AllocateIP(ctx, "shop", api.AllocateIPRequest{Type: "v4"})
	if err != nil {
		t.Fatal(err)
	}
	if name := <-heard; name != "shop" {
		t.Errorf("allocated: heard of %q", name)
	}
	if err := s.ReleaseIP(ctx, "shop", a.IP); err != nil {
		t.Fatal(err)
	}
	if name, open := <-heard; !open || name != "" && name != "shop" {
		t.Errorf("released: heard of %q", name)
	}
	cancel()
	for range heard { // until it ends
	}
}
