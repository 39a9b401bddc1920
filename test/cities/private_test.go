//go:build linux

package cities

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/perigee-run/perigee/api"

	"github.com/perigee-run/perigee/test"
)

// TestOwnAddresses: machines reach the apps of their org at <app>.flycast, asleep or
// in another city, and nobody else does; visitors reach an app at its own address.
func TestOwnAddresses(t *testing.T) {
	t.Parallel()
	c := startCities(t, []string{"iad", "fra"}, "--ip-pool", "198.51.100.0/28", "--anycast", "192.0.2.1/32", "--bgp-asn", "65010", "--bgp-neighbor", "{router4},64500")
	if _, err := c.nodes["iad"].Client().CreateApp(t.Context(), api.CreateAppRequest{AppName: "alien", OrgSlug: "them"}); err != nil {
		t.Fatal(err)
	}
	const raw = "[[services]]\n  internal_port = 8080\n  [[services.ports]]\n    port = 5432\n"
	const web = "[http_service]\n  internal_port = 8080\n  force_https = true\n  auto_stop_machines = \"suspend\"\n  auto_start_machines = true\n"
	c.app("shop", "iad", web+raw)
	c.must("iad", "", "apps", "create", "blog")
	c.must("iad", "", "ips", "allocate-v4", "-a", "blog") // or shop's port could not be its too
	c.app("blog", "iad", raw)
	c.app("caller", "fra", "[[services]]\n  internal_port = 8080\n") // and no public port
	c.app("alien", "fra", "")
	c.flycast()
	c.ofAnotherOrg()
	c.ownAddress()
	c.oneLog()
}

// app deploys the test app under a name to one city; it says its name at /release.
func (c *cloud) app(name, city, services string) {
	c.Helper()
	dir := c.TempDir()
	config := fmt.Sprintf("app = %q\nregions = [%q]\n[env]\n  RELEASE = %q\n%s", name, city, name, services)
	if err := os.WriteFile(filepath.Join(dir, "perigee.toml"), []byte(config), 0o644); err != nil {
		c.Fatal(err)
	}
	c.must(city, dir, "deploy", "--image", test.App(c.T))
}

// from asks for a URL inside the machine of an app in fra.
func (c *cloud) from(app, url string) (out string, ok bool) {
	c.Helper()
	out, errs, code := c.perigee("fra", "", "exec", "-a", app, "--", "/testapp", "get", url)
	if code != 0 {
		return errs, false
	}
	return strings.TrimSpace(out), true
}

func (c *cloud) flycast() {
	c.Helper()
	// The caller's node hears of the apps, and where they run, within a moment.
	c.eventually("the caller reaches an app in another city", 30*time.Second, func() bool {
		out, ok := c.from("caller", "http://shop.flycast/release")
		return ok && out == "200\nshop"
	})
	for url, want := range map[string]string{
		"http://shop.flycast:5432/release":   "200\nshop", // the same public port of two apps
		"http://blog.flycast:5432/release":   "200\nblog",
		"http://caller.flycast:8080/release": "200\ncaller", // no public port at all
	} {
		if out, ok := c.from("caller", url); !ok || out != want {
			c.Errorf("%s: %q", url, out)
		}
	}
	var h http.Header
	out, _ := c.from("caller", "http://shop.flycast/headers")
	_, head, _ := strings.Cut(out, "\n")
	machine := c.only("caller")
	if err := json.Unmarshal([]byte(head), &h); err != nil || h.Get("X-Forwarded-For") != machine.PrivateIP {
		c.Errorf("the app sees a caller at %q, want %q (%v)", h.Get("X-Forwarded-For"), machine.PrivateIP, err)
	}
	slept := c.only("shop")
	c.must("iad", "", "machine", "suspend", "-a", "shop", slept.ID)
	if out, ok := c.from("caller", "http://shop.flycast/release"); !ok || out != "200\nshop" {
		c.Errorf("while it sleeps: %q", out)
	}
	for _, url := range []string{"http://shop.flycast:4280/", "http://caller.flycast/", "http://shop.flycast:8080/"} {
		if out, ok := c.from("caller", url); ok || !strings.Contains(out, "refused") && !strings.Contains(out, "reset") && !strings.Contains(out, "EOF") {
			c.Errorf("%s: %q", url, out)
		}
	}
}

// ofAnotherOrg: neither the name nor the address leads anywhere.
func (c *cloud) ofAnotherOrg() {
	c.Helper()
	if out, ok := c.from("alien", "http://shop.flycast/release"); ok || !strings.Contains(out, "no such host") {
		c.Errorf("another org's name: %q", out)
	}
	ip := c.ips("shop")[0]
	for _, port := range []int{80, 5432} {
		if out, ok := c.from("alien", fmt.Sprintf("http://[%s]:%d/release", ip.IP, port)); ok || !strings.Contains(out, "refused") {
			c.Errorf("another org's address: %q", out)
		}
	}
	if ip.Type != "private_v6" {
		c.Errorf("the first address is %+v", ip)
	}
}

// ownAddress: two apps have the same raw port, each at an address of its own, and
// visitors of every city find them there.
func (c *cloud) ownAddress() {
	c.Helper()
	c.must("fra", "", "ips", "allocate-v4", "-a", "shop")
	for _, app := range []string{"shop", "blog"} {
		ip := c.ips(app)[1]
		for _, city := range []string{"iad", "fra"} {
			c.eventually(fmt.Sprintf("a visitor in %s finds %s at %s", city, app, ip.IP), 30*time.Second, func() bool {
				got, err := c.visit(city, ip.IP+":5432")
				return err == nil && strings.HasSuffix(got, app)
			})
		}
		for _, port := range []string{"22", "4280", "4281"} {
			if got, err := c.visit("iad", ip.IP+":"+port); err == nil && got != "" {
				c.Errorf("port %s of %s answers %q", port, ip.IP, got)
			}
		}
		if out, ok := c.from("alien", "http://"+ip.IP+":5432/release"); !ok || !strings.HasSuffix(out, app) {
			c.Errorf("a machine at a public address: %q", out)
		}
	}
	if got, err := c.visit("fra", c.ips("shop")[1].IP+":80"); err != nil || !strings.Contains(got, " 301 ") {
		c.Errorf("the app forces https, yet: %q, %v", got, err)
	}
}

// visit asks as a visitor of a city for /release, under no name of ours.
func (c *cloud) visit(city, at string) (string, error) {
	ctx, cancel := context.WithTimeout(c.Context(), 5*time.Second)
	defer cancel()
	conn, err := c.visitors[city].Dial(ctx, "tcp", at)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	fmt.Fprint(conn, "GET /release HTTP/1.1\r\nHost: any.example\r\nConnection: close\r\n\r\n")
	b, err := io.ReadAll(conn)
	if _, closed := err.(*net.OpError); closed && len(b) == 0 {
		return "", err
	}
	return string(bytes.TrimSpace(b)), nil
}

func (c *cloud) only(app string) api.Machine {
	c.Helper()
	list, err := c.nodes["iad"].Client().ListMachines(c.Context(), app)
	if err != nil || len(list) != 1 {
		c.Fatalf("app %s has %d machines: %v", app, len(list), err)
	}
	return list[0]
}

func (c *cloud) ips(app string) (ips []api.IPAssignment) {
	c.Helper()
	if err := json.Unmarshal([]byte(c.must("fra", "", "ips", "list", "-a", app, "--json")), &ips); err != nil {
		c.Fatal(err)
	}
	return ips
}
