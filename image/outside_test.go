package image_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/perigee-run/perigee/image"
)

// own is a service of the server's that nobody outside may reach.
func own(t *testing.T) (address string, asked *atomic.Int32) {
	t.Helper()
	asked = new(atomic.Int32)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		http.Error(w, "INTERNALSECRET", http.StatusInternalServerError)
	}))
	t.Cleanup(srv.Close)
	return strings.TrimPrefix(srv.URL, "http://"), asked
}

// reached are the addresses of this server that are not of its loopback, as hosts.
func reached(t *testing.T) (hosts []string) {
	t.Helper()
	all, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range all {
		p, err := netip.ParsePrefix(a.String())
		switch at := p.Addr(); {
		case err != nil || !at.IsGlobalUnicast():
		case at.Is6():
			hosts = append(hosts, "["+at.String()+"]")
		default:
			hosts = append(hosts, at.String())
		}
	}
	return hosts
}

// TestPullReachesNothingOfTheServer: whatever is at an address of the server's own, or
// is not, the answer is the same, by whatever spelling the address comes.
func TestPullReachesNothingOfTheServer(t *testing.T) {
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	address, asked := own(t)
	_, port, _ := net.SplitHostPort(address)
	s := open(t, func(c *image.Config) {
		c.Private = func() []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix("10.99.0.0/16")} }
		c.PlainHTTP = []string{"0.0.0.0"}
	})
	hosts := []string{"0.0.0.0:" + port, "0.0.0.0:1", "[::]:" + port, "[::ffff:127.0.0.1]:" + port,
		"169.254.169.254", "[fe80::1]:80", "224.0.0.1:80", "10.99.0.3:5000"}
	for _, host := range reached(t) {
		hosts = append(hosts, host+":"+port, host+":1")
	}
	for _, host := range hosts {
		_, err := s.Pull(t.Context(), host+"/x:v1", nil)
		if loopback := s.Loopback(host + "/x:v1"); err == nil || !loopback && !strings.HasSuffix(err.Error(), "registry "+host+" is not reachable from here: its address belongs to this server") {
			t.Errorf("%s (loopback %v): %v", host, loopback, err)
		}
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("the service was asked %d times", n)
	}
}

// TestRegistriesLeadNowhere: a registry that may be reached is still no way to others
// of the server, be it by its token server, a redirect or a blob's address.
func TestRegistriesLeadNowhere(t *testing.T) {
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	address, asked := own(t)
	for name, lead := range map[string]http.HandlerFunc{
		"token server": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/admin?x=1"`, address))
			w.WriteHeader(http.StatusUnauthorized)
		},
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://"+address+"/admin", http.StatusTemporaryRedirect)
		},
		"redirect of what is asked": func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/v2/" {
				http.Redirect(w, r, "http://"+address+"/admin", http.StatusTemporaryRedirect)
			}
		},
	} {
		srv := httptest.NewServer(lead)
		defer srv.Close()
		_, err := open(t).Pull(t.Context(), strings.TrimPrefix(srv.URL, "http://")+"/x:v1", nil)
		if n := asked.Load(); err == nil || n != 0 || strings.Contains(err.Error(), "INTERNAL") {
			t.Errorf("%s: asked %d times, %v", name, n, err)
		}
	}
}

// TestRefusalsShowNoBodies: of a refusal only what registries are documented to say
// is shown, on one line and clipped.
func TestRefusalsShowNoBodies(t *testing.T) {
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	for body, want := range map[string]string{
		"INTERNALSECRET": "answered 500 Internal Server Error",
		`{"errors":[{"code":"TAG_INVALID","message":"no\u001b[2J","detail":"INTERNALSECRET"}]}`: "; TAG_INVALID: no [2J",
		`{"errors":[{"code":"TAG_INVALID","message":"` + strings.Repeat("x", 500) + `"}]}`:      "; TAG_INVALID: " + strings.Repeat("x", 187) + "…",
	} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/v2/" {
				w.WriteHeader(http.StatusInternalServerError)
				fmt.Fprint(w, body)
			}
		}))
		defer srv.Close()
		_, err := open(t).Pull(context.Background(), strings.TrimPrefix(srv.URL, "http://")+"/x:v1", nil)
		if err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%s: %v", body, err)
		}
	}
}

// TestLoopback: what names the loopback is told, however it is written.
func TestLoopback(t *testing.T) {
	s := open(t, func(c *image.Config) { c.Hosts = []string{"localhost:4280"} })
	for ref, want := range map[string]bool{
		"localhost:5000/x": true, "localhost/x": true, "127.0.0.1:5000/x:v1": true, "127.9.9.9:1/x": true, "[::1]:5000/x": true,
		"localhost:4280/x": false, "nginx": false, "docker.io/library/nginx": false, "localhost.example.com/x": false, "10.0.0.1:5000/x": false,
	} {
		if got := s.Loopback(ref); got != want {
			t.Errorf("%s: %v", ref, got)
		}
	}
}

// TestListedRegistryMayBeHere: one that the operator lists with its port is reached at
// an address of the server's, at that port alone.
func TestListedRegistryMayBeHere(t *testing.T) {
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	host, _ := away(t)
	push(t, host+"/app:v1", simple(t, "x"))
	_, port, _ := net.SplitHostPort(host)
	listed := "0.0.0.0:" + port
	s := open(t, func(c *image.Config) { c.PlainHTTP = []string{listed} })
	pull(t, s, listed+"/app:v1")
	_, err := s.Pull(t.Context(), "0.0.0.0:1/app:v1", nil)
	wantError(t, err, "its address belongs to this server")
}
