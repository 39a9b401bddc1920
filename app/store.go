package app

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/catalog"
)

// Config says where the records are. Catalog and KeyFile are required.
type Config struct {
	Catalog *catalog.Catalog
	// KeyFile holds the key of the secrets; it is made when there are none yet.
	KeyFile string
	// Identity is a file of age identities that open KeyFile, if it is wrapped; see
	// package keyfile. Default: it is not.
	Identity string
	// Org owns apps that name no other. Default "personal".
	Org string
	// Domain is the node's own: names under it cannot be custom names.
	Domain string
	// KeepReleases is how many finished releases of an app are kept. Default 50.
	KeepReleases int
	// Pools are the networks that apps get addresses of their own from. Default:
	// none, apps are reached by name at the edges' addresses.
	Pools []netip.Prefix
	// PrivateIP is the address at which the machines of an org, by its number, reach
	// an app; invalid if there is none. Default: there are none.
	PrivateIP func(org uint32, app string) netip.Addr
}

// Store is the apps. Its methods may be called from any goroutine. What it
// returns is shared with other readers and must not be changed.
type Store struct {
	cfg    Config
	seal   *sealer
	opened opened

	apps       *catalog.Table[App]
	hosts      *catalog.Table[host]
	secrets    *catalog.Table[secretSet]
	oldSecrets *catalog.Table[secretSet]
	releases   *catalog.Table[Release]
	orgs       *catalog.Table[orgRecord]
	addresses  *catalog.Table[address]
	locks      *catalog.Table[lock]

	numbering sync.Mutex // one release at a time gets its number from this node
}

// New opens the tables and reads, or at the first start makes, the key.
func New(cfg Config) (*Store, error) {
	if cfg.Catalog == nil || cfg.KeyFile == "" {
		return nil, errors.New("cannot open apps: the catalog and the path of the key file are both needed")
	}
	if cfg.Org == "" {
		cfg.Org = "personal"
	}
	if cfg.KeepReleases == 0 {
		cfg.KeepReleases = 50
	}
	if cfg.PrivateIP == nil {
		cfg.PrivateIP = func(uint32, string) netip.Addr { return netip.Addr{} }
	}
	if err := checkPools(cfg.Pools); err != nil {
		return nil, err
	}
	s := &Store{cfg: cfg}
	if err := s.open(); err != nil {
		return nil, err
	}
	var err error
	s.seal, err = openKey(cfg.KeyFile, cfg.Identity, len(s.secrets.List("")) > 0)
	return s, err
}

func (s *Store) open() (err error) {
	c := s.cfg.Catalog
	if s.apps, err = catalog.NewTable[App](c, "apps"); err != nil {
		return err
	}
	if s.hosts, err = catalog.NewTable[host](c, "hosts"); err != nil {
		return err
	}
	if s.secrets, err = catalog.NewTable[secretSet](c, "secrets"); err != nil {
		return err
	}
	if s.oldSecrets, err = catalog.NewTable[secretSet](c, "oldsecrets"); err != nil {
		return err
	}
	if s.addresses, err = catalog.NewTable[address](c, "addresses"); err != nil {
		return err
	}
	if s.locks, err = catalog.NewTable[lock](c, "locks"); err != nil {
		return err
	}
	if s.releases, err = catalog.NewTable[Release](c, "releases"); err != nil {
		return err
	}
	s.orgs, err = catalog.NewTable[orgRecord](c, "orgs")
	return err
}

// Changes sends the name of every app, and then of each whose record, hosts,
// addresses or releases change, until ctx ends; "" stands for the app that a
// host or an address was taken from. A slow reader may get a name once for several changes.
func (s *Store) Changes(ctx context.Context) <-chan string {
	out := make(chan string)
	var wg sync.WaitGroup
	forward(ctx, &wg, s.apps.Watch(ctx, ""), out, func(c catalog.Change[App]) string { return c.Key })
	forward(ctx, &wg, s.hosts.Watch(ctx, ""), out, func(c catalog.Change[host]) string { return c.Value.App })
	forward(ctx, &wg, s.addresses.Watch(ctx, ""), out, func(c catalog.Change[address]) string { return c.Value.App })
	forward(ctx, &wg, s.releases.Watch(ctx, ""), out, func(c catalog.Change[Release]) string { return releaseApp(c.Key) })
	go func() {
		wg.Wait()
		close(out)
	}()
	return out
}

func forward[T any](ctx context.Context, wg *sync.WaitGroup, in <-chan catalog.Change[T], out chan<- string, name func(catalog.Change[T]) string) {
	wg.Go(func() {
		for c := range in {
			select {
			case out <- name(c):
			case <-ctx.Done(): // in is closed soon; what is left in it does not matter
			}
		}
	})
}

// tries is how often a change to a record that others change too is begun anew.
const tries = 20

// edit reads, changes and writes a record until nobody was in between. change
// is given a copy of the struct: it must replace maps and slices, not fill them.
func edit[T any](ctx context.Context, t *catalog.Table[T], key string, change func(v *T) error) (T, error) {
	var zero T
	for range tries {
		e, ok := t.Get(key)
		v := e.Value
		if err := change(&v); err != nil {
			return zero, err
		}
		var err error
		if ok {
			_, err = t.Update(ctx, key, v, e.Revision)
		} else {
			_, err = t.Create(ctx, key, v)
		}
		if err == nil {
			return v, nil
		}
		if !errors.Is(err, catalog.ErrConflict) && !errors.Is(err, catalog.ErrExists) {
			return zero, err
		}
	}
	return zero, fmt.Errorf("cannot write record %q: others change it all the time; try again", key)
}

func invalid(field, format string, a ...any) *api.Error {
	return api.Errorf(api.CodeInvalid, format, a...).WithField(field)
}
