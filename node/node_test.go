package node

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/app"
	"github.com/perigee-run/perigee/machine"
	"github.com/perigee-run/perigee/router"
)

func TestConfigRefusesInWords(t *testing.T) {
	good := func() Config { return Config{Data: t.TempDir(), Sandbox: "/bin/true", Name: "n1"} }
	for _, c := range []struct {
		name string
		bend func(*Config)
		want string
	}{
		{"no data", func(c *Config) { c.Data = "" }, "no data directory"},
		{"region", func(c *Config) { c.Region = "Frankfurt!" }, `"Frankfurt!" as region`},
		{"domain", func(c *Config) { c.Domain = "not a domain" }, `"not a domain" as domain`},
		{"listen", func(c *Config) { c.Listen = "4280" }, `"4280" as --listen`},
		{"http", func(c *Config) { c.HTTP = "8080" }, `"8080" as --http`},
	} {
		cfg := good()
		c.bend(&cfg)
		if err := cfg.defaults(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q in it", c.name, err, c.want)
		}
	}
	cfg := good()
	if err := cfg.defaults(); err != nil {
		t.Fatal(err)
	}
	if cfg.publicPort(80) != "80" || cfg.registryHosts()[0] != "localhost:4280" {
		t.Errorf("defaults: port %s, registry %v", cfg.publicPort(80), cfg.registryHosts())
	}
}

func TestOneNodePerDataDirectory(t *testing.T) {
	dir := t.TempDir()
	first, err := lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lock(dir); err == nil || !strings.Contains(err.Error(), "another node") {
		t.Errorf("second lock: %v", err)
	}
	first.Close()
	again, err := lock(dir)
	if err != nil {
		t.Fatalf("after the first ended: %v", err)
	}
	again.Close()
}

func TestSecretFileIsMadeOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	one, err := secretFile(path, 24, true)
	if err != nil {
		t.Fatal(err)
	}
	two, err := secretFile(path, 24, true)
	if err != nil || string(one) != string(two) || !strings.HasPrefix(string(one), tokenPrefix) {
		t.Errorf("%q, %q, %v", one, two, err)
	}
	if fi, _ := os.Stat(path); fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", fi.Mode())
	}
}

func offered(id, group string, release int, healthy bool, services ...api.Service) offer {
	m := router.Machine{ID: id, Region: "fra", State: api.StateStarted, Healthy: healthy}
	return offer{Machine: m, App: "shop", Group: group, Release: release, Config: &api.MachineConfig{Services: services}}
}

func web(soft int) api.Service {
	return api.Service{Protocol: "tcp", InternalPort: 8080, Ports: []api.Port{{Port: 443, Handlers: []string{"tls", "http"}}}, Concurrency: &api.Concurrency{SoftLimit: soft}}
}

func TestServices(t *testing.T) {
	got := services([]offer{
		offered("a", "app", 1, true, web(10)),
		offered("b", "app", 2, true, web(20)),
		offered("c", "app", 3, false, web(30)),
		offered("d", "admin", 1, true, web(40)),
		offered("e", "app", 1, true, api.Service{Protocol: "udp", InternalPort: 53}),
	})
	if len(got) != 2 {
		t.Fatalf("%d services, want one of each group", len(got))
	}
	if len(got[0].Machines) != 3 || len(got[1].Machines) != 1 {
		t.Errorf("machines: %d and %d, want 3 and 1", len(got[0].Machines), len(got[1].Machines))
	}
	if got[0].Concurrency.Soft != 20 {
		t.Errorf("soft limit %d, want that of the newest healthy release", got[0].Concurrency.Soft)
	}
	if !got[0].AutoStart || got[0].Ports[0].Start != 443 {
		t.Errorf("service %+v", got[0])
	}
}

func TestServicesOfOneInternalPortAreOne(t *testing.T) {
	plain := api.Service{Protocol: "tcp", InternalPort: 8080, Ports: []api.Port{{Port: 80, Handlers: []string{"http"}}}}
	got := services([]offer{offered("a", "app", 1, true, web(10), plain)})
	if len(got) != 1 || len(got[0].Ports) != 2 || len(got[0].Machines) != 1 {
		t.Fatalf("got %+v", got)
	}
	if err := router.New(router.Config{}).SetTable(router.Table{Apps: []router.App{{Name: "shop", Hosts: []string{"shop.x"}, Services: got}}}); err != nil {
		t.Error(err)
	}
}

func TestRawPorts(t *testing.T) {
	got := raw([]api.Service{web(1), {Ports: []api.Port{{Port: 5432}, {StartPort: 7000, EndPort: 7002}, {Port: 9000, Handlers: []string{"proxy_proto"}}}}})
	if want := []int{5432, 7000, 7001, 7002, 9000}; !slices.Equal(got, want) {
		t.Errorf("raw ports %v, want %v", got, want)
	}
}

// TestRawPortsOfOtherNodes: what machines of other nodes have is taken too, and
// of two old apps the older one gets what none has.
func TestRawPortsOfOtherNodes(t *testing.T) {
	db := api.MachineConfig{Services: []api.Service{{Ports: []api.Port{{Port: 5432}}}}}
	all := []machine.Summary{{App: "db", Node: "fra-1", Config: &db}, {App: "shop", Node: "iad-1", Config: &db}, {App: "new", Node: "iad-1"}}
	if got := rawPorts(all, "shop"); len(got) != 1 || got[5432] != "db" {
		t.Errorf("taken: %v", got)
	}
	now := time.Now()
	apps := oldest([]app.App{{Name: "a", CreatedAt: now}, {Name: "z", CreatedAt: now.Add(-time.Hour)}, {Name: "b", CreatedAt: now}})
	if apps[0].Name != "z" || apps[1].Name != "a" {
		t.Errorf("order: %v", apps)
	}
}

func TestNameIsKept(t *testing.T) {
	dir := t.TempDir()
	if name, err := keepName(dir, ""); err != nil || name == "" {
		t.Fatalf("first start: %q, %v", name, err)
	}
	dir = t.TempDir()
	if name, err := keepName(dir, "one"); err != nil || name != "one" {
		t.Fatalf("%q, %v", name, err)
	}
	if name, err := keepName(dir, ""); err != nil || name != "one" {
		t.Errorf("after the host was renamed: %q, %v", name, err)
	}
	if _, err := keepName(dir, "two"); err == nil || !strings.Contains(err.Error(), `"one"`) {
		t.Errorf("another name: %v", err)
	}
}

func TestAutostop(t *testing.T) {
	off, stop, suspend := api.AutostopOff, api.AutostopStop, api.AutostopSuspend
	for _, c := range []struct {
		services []*api.Autostop
		want     api.Autostop
	}{
		{[]*api.Autostop{&suspend}, suspend}, {[]*api.Autostop{&suspend, &stop}, stop},
		{[]*api.Autostop{&suspend, &off}, off}, {[]*api.Autostop{nil}, off},
	} {
		var list []api.Service
		for _, a := range c.services {
			list = append(list, api.Service{Autostop: a})
		}
		if got := autostop(list); got != c.want {
			t.Errorf("autostop(%v) = %s, want %s", c.services, got, c.want)
		}
	}
}
