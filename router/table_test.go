package router

import (
	"crypto/tls"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// noCerts is enough where no handshake happens.
type noCerts struct{}

func (noCerts) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return nil, errors.New("no certificates in this test")
}
func (noCerts) ServeChallenge(http.ResponseWriter, *http.Request) bool { return false }

func oneApp(name string, s ...Service) Table { return Table{Apps: []App{{Name: name, Services: s}}} }

func TestBadTablesAreRefused(t *testing.T) {
	good := Service{InternalPort: 80}
	edit := func(fn func(*Service)) Table { s := good; fn(&s); return oneApp("a", s) }
	tests := map[string]Table{
		"no name":           oneApp("", good),
		"name twice":        {Apps: []App{{Name: "a"}, {Name: "a"}}},
		"internal port 0":   edit(func(s *Service) { s.InternalPort = 0 }),
		"internal port big": edit(func(s *Service) { s.InternalPort = 70000 }),
		"port 0":            edit(func(s *Service) { s.Ports = []Port{{}} }),
		"backward range":    edit(func(s *Service) { s.Ports = []Port{{Start: 90, End: 80}} }),
		"unknown handler":   edit(func(s *Service) { s.Ports = []Port{{Start: 90, Handlers: []string{"gopher"}}} }),
		"proxy version":     edit(func(s *Service) { s.Ports = []Port{{Start: 90, ProxyProtoVersion: 3}} }),
		"negative limit":    edit(func(s *Service) { s.Concurrency.Hard = -1 }),
		"machine twice":     edit(func(s *Service) { s.Machines = []Machine{{ID: "m"}, {ID: "m"}} }),
		"machine no id":     edit(func(s *Service) { s.Machines = []Machine{{}} }),
	}
	r := New(Config{})
	if err := r.SetTable(Table{Apps: []App{{Name: "old", Hosts: []string{"old.test"}}}}); err != nil {
		t.Fatal(err)
	}
	for name, table := range tests {
		if err := r.SetTable(table); err == nil {
			t.Errorf("%s: taken", name)
		}
		if !r.Serves("old.test") {
			t.Fatalf("%s: the old table is gone", name)
		}
	}
}

// TestClashes checks that who came first keeps what it has, whatever the order in later tables, and that both are named.
func TestClashes(t *testing.T) {
	var told [][]Problem
	r := New(Config{Certificates: noCerts{}, OnProblems: func(p []Problem) { told = append(told, p) }})
	app := func(name, host string, port int, handlers ...string) App {
		return App{Name: name, Hosts: []string{host}, Services: []Service{{InternalPort: 1, Ports: []Port{{Start: port, Handlers: handlers}}}}}
	}
	set := func(apps ...App) {
		t.Helper()
		if err := r.SetTable(Table{Apps: apps}); err != nil {
			t.Fatal(err)
		}
	}
	b := app("b", "b.test", 5000)
	set(b)
	if len(r.Problems()) != 0 {
		t.Fatalf("problems: %v", r.Problems())
	}
	set(app("a", "b.test", 5000), b)
	if tg, _ := r.routes.Load().find(&ask{entrance: entrance{port: 5000}}); tg.app.name != "b" {
		t.Errorf("the newcomer %q has taken the port", tg.app.name)
	}
	if tg := r.routes.Load().byHost([]byte("b.test")); tg.name != "b" {
		t.Errorf("the newcomer %q has taken the host", tg.name)
	}
	p := r.Problems()
	if len(p) != 2 || p[0].App != "a" || p[0].Other != "b" || p[1].App != "a" || p[1].Other != "b" || len(told) != 1 {
		t.Errorf("problems %v, told %d times", p, len(told))
	}
	set(app("a", "b.test", 5000)) // b is gone
	if len(r.Problems()) != 0 || len(told) != 2 || len(told[1]) != 0 {
		t.Errorf("problems stay: %v; told %v", r.Problems(), told)
	}

	hopeless := []struct {
		app  App
		want string
	}{
		{app("x", "x", 80), "the router itself takes http"},
		{app("x", "x", 443, HandlerHTTP), "the router itself takes tls"},
		{app("x", "x", 5000, HandlerHTTP), `app "a" has it for raw TCP`},
		{app("x", "x", 6000, HandlerPgTLS, HandlerTLS), "do not go together"},
		{app("x", "x", 6000, HandlerHTTP, HandlerProxyProto), "do not go together"},
		{App{Name: "x", Services: []Service{{Protocol: "udp", InternalPort: 1}}}, "tcp only"},
		{App{Name: "x", Services: []Service{{InternalPort: 1, Ports: []Port{{Start: 7000}, {Start: 6999, End: 7001}}}}}, "7000"},
	}
	for _, tt := range hopeless {
		set(app("a", "b.test", 5000), tt.app)
		p := r.Problems()
		if len(p) != 1 || p[0].App != "x" || !strings.Contains(p[0].Err.Error(), tt.want) {
			t.Errorf("%v: problems %v, want one with %q", tt.app, p, tt.want)
		}
	}
}

func TestSharedPorts(t *testing.T) {
	r := New(Config{Certificates: noCerts{}})
	share := func(name string) App {
		return App{Name: name, Hosts: []string{name + ".test"}, Services: []Service{{InternalPort: 1, Ports: []Port{
			{Start: 8080, Handlers: []string{HandlerHTTP}}, {Start: 5432, Handlers: []string{HandlerPgTLS}}, {Start: 443, Handlers: []string{HandlerTLS}},
		}}}}
	}
	if err := r.SetTable(Table{Apps: []App{share("a"), share("b")}}); err != nil || len(r.Problems()) != 0 {
		t.Fatalf("%v, %v", err, r.Problems())
	}
	var ports []int
	for p := range r.routes.Load().ports {
		ports = append(ports, p)
	}
	slices.Sort(ports)
	if !slices.Equal(ports, []int{80, 443, 5432, 8080}) {
		t.Errorf("ports %v", ports)
	}
}

func TestTLSWithoutCertificates(t *testing.T) {
	r := New(Config{})
	s := Service{InternalPort: 1, Ports: []Port{{Start: 443, Handlers: []string{HandlerTLS, HandlerHTTP}}, {Start: 80, Handlers: []string{HandlerHTTP}}}}
	if err := r.SetTable(oneApp("a", s)); err != nil {
		t.Fatal(err)
	}
	if p := r.Problems(); len(p) != 1 || p[0].Port != 443 {
		t.Errorf("problems: %v", p)
	}
}
