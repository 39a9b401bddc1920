package app

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/catalog"
)

// address is the record of an address that belongs to one app.
type address struct {
	App       string     `json:"app"`
	Address   netip.Addr `json:"address"`
	CreatedAt time.Time  `json:"created_at"`
}

const (
	// maxAddresses is how many an app may have: pools are small.
	maxAddresses = 16
	// guesses is how many random addresses of a large pool are tried.
	guesses = 64
	// searched is up to what size a pool is looked through from end to end.
	searched = 1 << 16
)

// AddressOwner returns the app that the address was given to. It answers from
// memory.
func (s *Store) AddressOwner(a netip.Addr) (app string, ok bool) {
	e, ok := s.addresses.Get(addressKey(a.Unmap()))
	return e.Value.App, ok
}

// Addresses returns the app's own addresses, those of IPv4 first.
func (s *Store) Addresses(app string) []netip.Addr {
	var out []netip.Addr
	for _, e := range s.addresses.List("") {
		if e.Value.App == app {
			out = append(out, e.Value.Address)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}

// AllAddresses returns the addresses of every app that has some, in no order.
func (s *Store) AllAddresses() map[string][]netip.Addr {
	out := map[string][]netip.Addr{}
	for _, e := range s.addresses.List("") {
		out[e.Value.App] = append(out[e.Value.App], e.Value.Address)
	}
	return out
}

// ListIPs returns the app's own addresses as the API shows them, oldest first: so the
// private one before the others.
func (s *Store) ListIPs(app string) ([]api.IPAssignment, error) {
	a, err := s.Get(app)
	if err != nil {
		return nil, err
	}
	out := []api.IPAssignment{}
	if private, ok := s.privateIP(a); ok {
		out = append(out, private)
	}
	for _, e := range s.addresses.List("") {
		if e.Value.App == app {
			out = append(out, e.Value.shown())
		}
	}
	slices.SortFunc(out, func(a, b api.IPAssignment) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), strings.Compare(a.IP, b.IP))
	})
	return out, nil
}

func (a address) shown() api.IPAssignment {
	kind := "v6"
	if a.Address.Is4() {
		kind = "v4"
	}
	return api.IPAssignment{IP: a.Address.String(), Type: kind, Region: "global", CreatedAt: a.CreatedAt}
}

// privateIP is the address that the app has from the beginning.
func (s *Store) privateIP(a App) (api.IPAssignment, bool) {
	ip := s.cfg.PrivateIP(s.OrgNumber(a.Org), a.Name)
	return api.IPAssignment{IP: ip.String(), Type: "private_v6", Region: "global", CreatedAt: a.CreatedAt}, ip.IsValid()
}

// AllocateIP gives the app an address of its own from the pools. Its private one it
// has already.
func (s *Store) AllocateIP(ctx context.Context, app string, req api.AllocateIPRequest) (api.IPAssignment, error) {
	rec, err := s.usable(app)
	if err != nil {
		return api.IPAssignment{}, err
	}
	if private, ok := s.privateIP(rec); ok && req.Type == "private_v6" {
		return private, nil
	}
	pools, err := s.poolsFor(req)
	if err != nil {
		return api.IPAssignment{}, err
	}
	if n := len(s.Addresses(app)); n >= maxAddresses {
		return api.IPAssignment{}, api.Errorf(api.CodeCapacity, "app %q has %d addresses; the most is %d", app, n, maxAddresses).
			WithHint("release one that is not needed")
	}
	for _, pool := range pools {
		a, ok, err := s.take(ctx, app, pool)
		if err != nil || ok {
			return a.shown(), err
		}
	}
	return api.IPAssignment{}, api.Errorf(api.CodeCapacity, "no %s address is free in the pools of this cloud", req.Type).
		WithField("type").WithHint("the operator may add a pool; apps are reached by name without an address of their own")
}

// poolsFor says where the address may come from.
func (s *Store) poolsFor(req api.AllocateIPRequest) ([]netip.Prefix, error) {
	if req.Region != "" && req.Region != "global" {
		return nil, api.Errorf(api.CodeUnsupported, "addresses belong to all regions, not to %q alone", api.Clip(req.Region)).WithField("region")
	}
	switch req.Type {
	case "v4", "v6":
	case "shared_v4":
		return nil, api.Errorf(api.CodeUnsupported, "the cloud's shared addresses need no allocation: every app answers on them by its name").WithField("type")
	case "private_v6":
		return nil, api.Errorf(api.CodeUnsupported, "this node has no private network for IPv6").WithField("type")
	default:
		return nil, invalid("type", "there is no address type %q", api.Clip(req.Type)).WithHint("v4, v6 or private_v6")
	}
	var pools []netip.Prefix
	for _, p := range s.cfg.Pools {
		if p.Addr().Is4() == (req.Type == "v4") {
			pools = append(pools, p)
		}
	}
	if pools == nil {
		return nil, api.Errorf(api.CodeUnsupported, "this cloud has no pool of %s addresses", req.Type).WithField("type").
			WithHint("the operator gives pools to perigeed with --ip-pool; apps are reached by name without an address of their own")
	}
	return pools, nil
}

// take makes a free address of the pool the app's. Who creates the record has the
// address: two takers never get the same.
func (s *Store) take(ctx context.Context, app string, pool netip.Prefix) (address, bool, error) {
	for a := range candidates(pool) {
		if _, taken := s.addresses.Get(addressKey(a)); taken {
			continue
		}
		rec := address{App: app, Address: a, CreatedAt: time.Now().UTC()}
		_, err := s.addresses.Create(ctx, addressKey(a), rec)
		if !errors.Is(err, catalog.ErrExists) {
			return rec, err == nil, err
		}
	}
	return address{}, false, nil
}

// candidates yields addresses of the pool in an order that differs every time: all of
// a small one, some of a large one. The first and, of IPv4, the last are left
// out, for some networks take them for themselves.
func candidates(pool netip.Prefix) func(yield func(netip.Addr) bool) {
	return func(yield func(netip.Addr) bool) {
		free := pool.Addr().BitLen() - pool.Bits()
		if 1<<min(free, 62) > searched {
			for range guesses {
				if a := randomIn(pool); usableIn(pool, a) && !yield(a) {
					return
				}
			}
			return
		}
		size := 1 << free
		start := rand.IntN(size)
		for i := range size {
			if a := nth(pool, (start+i)%size); usableIn(pool, a) && !yield(a) {
				return
			}
		}
	}
}

func usableIn(pool netip.Prefix, a netip.Addr) bool {
	if pool.Addr().BitLen()-pool.Bits() < 2 {
		return true
	}
	last := !pool.Contains(a.Next())
	return a != pool.Addr() && !(last && a.Is4())
}

// nth is the address at n < searched in the pool.
func nth(pool netip.Prefix, n int) netip.Addr {
	b := pool.Addr().As16()
	b[14] |= byte(n >> 8)
	b[15] |= byte(n)
	return back(pool, b)
}

func randomIn(pool netip.Prefix) netip.Addr {
	b := pool.Addr().As16()
	for i := pool.Bits() + 128 - pool.Addr().BitLen(); i < 128; i++ {
		b[i/8] |= byte(rand.IntN(2)) << (7 - i%8)
	}
	return back(pool, b)
}

func back(pool netip.Prefix, b [16]byte) netip.Addr {
	if a := netip.AddrFrom16(b); pool.Addr().Is6() {
		return a
	}
	return netip.AddrFrom16(b).Unmap()
}

// ReleaseIP takes an address from the app; api.CodeNotFound if it does not have it.
func (s *Store) ReleaseIP(ctx context.Context, app, ip string) error {
	rec, err := s.Get(app)
	if err != nil {
		return err
	}
	if a, err := netip.ParseAddr(ip); err == nil && a.Zone() == "" {
		if private, ok := s.privateIP(rec); ok && private.IP == a.String() {
			return api.Errorf(api.CodeConflict, "%s is the app's private address, which it keeps for as long as it exists", a).WithField("ip")
		}
		if owner, ok := s.AddressOwner(a); ok && owner == app {
			return s.addresses.Delete(ctx, addressKey(a.Unmap()))
		}
	}
	return api.Errorf(api.CodeNotFound, "app %q has no address %q", app, api.Clip(ip)).WithField("ip")
}

// releaseAll gives back what a destroyed app had.
func (s *Store) releaseAll(ctx context.Context, app string) error {
	for _, a := range s.Addresses(app) {
		if err := s.addresses.Delete(ctx, addressKey(a)); err != nil {
			return err
		}
	}
	return nil
}

func addressKey(a netip.Addr) string { return strings.ReplaceAll(a.String(), ":", "_") }

// checkPools refuses pools that are not what they seem, or overlap.
func checkPools(pools []netip.Prefix) error {
	for i, p := range pools {
		if !p.IsValid() || p.Addr().Is4In6() || p != p.Masked() {
			return invalid("pools", "cannot give out addresses from %s: want a network such as 203.0.113.0/24 or 2001:db8::/48", p)
		}
		for _, q := range pools[:i] {
			if p.Overlaps(q) {
				return invalid("pools", "cannot give out addresses from %s and %s: they overlap", q, p)
			}
		}
	}
	return nil
}
