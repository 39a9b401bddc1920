//go:build linux

package cities

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/perigee-run/perigee/mesh"

	"github.com/perigee-run/perigee/test"
)

// TestBuildsAreNotTheNode: what a Dockerfile runs and downloads has the internet, by
// name too, and nothing of the node that builds it.
func TestBuildsAreNotTheNode(t *testing.T) {
	c := startCities(t, []string{"iad", "fra"})
	c.app("shop", "fra", "[[services]]\n  internal_port = 8080\n")
	node := c.nodes["fra"]
	machine := netip.MustParseAddr(c.only("shop").PrivateIP)
	own := mesh.NodeAddr(netip.MustParsePrefix("fdaa::/16"), mesh.NodeOfAddr(machine))
	hello(c, c.visitors["iad"].Listen, c.visitors["iad"].Addr4)
	hello(c, node.Listen, node.Addr4)
	shut := []string{
		netip.AddrPortFrom(own, mesh.HostRouterPort).String(), netip.AddrPortFrom(machine, 8080).String(),
		"127.0.0.1:4280", netip.AddrPortFrom(node.Addr4, 4281).String(), netip.AddrPortFrom(node.Addr4, helloPort).String(),
	}
	for _, to := range shut {
		conn, err := node.Dial(t.Context(), "tcp", to)
		if err != nil {
			t.Fatalf("the node itself does not reach %s: %v", to, err)
		}
		conn.Close()
	}
	outside := fmt.Sprintf("http://visitor-iad.lab:%d/", helloPort)
	step := "RUN /testapp get " + outside + " || exit 1"
	for _, to := range shut {
		step += fmt.Sprintf("; if /testapp get http://%s/; then echo reached %s; exit 1; fi", to, to)
	}
	c.mustBuild("fine", step+"\nADD "+outside+" /hello\n")
	out := c.build("nosy", fmt.Sprintf("ADD http://%s/ /hello\n", shut[len(shut)-1]))
	if !strings.Contains(out, "connection refused") {
		t.Errorf("a download from the node: %s", out)
	}
}

const helloPort = 8098

// hello serves HTTP at an address of a host.
func hello(c *cloud, listen func(network, addr string) (net.Listener, error), at netip.Addr) {
	c.Helper()
	l, err := listen("tcp", netip.AddrPortFrom(at, helloPort).String())
	if err != nil {
		c.Fatal(err)
	}
	s := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") })}
	go s.Serve(l)
	c.Cleanup(func() { s.Close() })
}

// build deploys an app that is built in fra with these steps, and returns what is
// said when that fails.
func (c *cloud) build(app, steps string) string {
	c.Helper()
	dir := c.TempDir()
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		c.Skipf("needs busybox-static: %v", err)
	}
	for name, data := range map[string][]byte{
		"busybox": busybox, "testapp": test.AppProgram(c.T),
		"perigee.toml": fmt.Appendf(nil, "app = %q\nregions = [\"fra\"]\n", app),
		"Dockerfile":   []byte("FROM scratch\nCOPY busybox /bin/busybox\nCOPY testapp /testapp\nSHELL [\"/bin/busybox\", \"sh\", \"-c\"]\n" + steps + "ENTRYPOINT [\"/testapp\"]\n"),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o755); err != nil {
			c.Fatal(err)
		}
	}
	out, errs, code := c.perigee("fra", dir, "deploy")
	if code == 0 {
		return ""
	}
	return out + errs
}

func (c *cloud) mustBuild(app, steps string) {
	c.Helper()
	if out := c.build(app, steps); out != "" {
		c.Errorf("the build of %s: %s", app, out)
	}
}
