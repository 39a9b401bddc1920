//go:build linux

package cities

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/perigee-run/perigee/mesh/wire"
)

// keysTurn: every node gets a new key in the mesh while two cities are served
// through it by the third, and nobody notices; also where a node is killed between
// any two steps.
func (c *cloud) keysTurn(dir string) {
	c.Helper()
	c.scale(dir, "0")
	stop := c.load("fra", "syd")
	for _, city := range cloudCities {
		old := c.key(city, "wireguard.key")
		c.must("iad", "", "node", "rotate-key", city+"-1")
		c.eventually(city+" has a new key", 60*time.Second, func() bool { return c.key(city, "wireguard.key") != old && c.key(city, "wireguard.key.next") == "" })
	}
	time.Sleep(time.Second)
	if asked, faults := stop(); len(faults) > 0 || asked < 10 {
		c.Errorf("while keys were replaced %d of %d requests failed: %v", len(faults), asked, faults[:min(3, len(faults))])
	}
	c.killed("after the next key is made", func(key, next string) error {
		k, err := wire.NewKey()
		if err != nil {
			return err
		}
		return os.WriteFile(next, []byte(k.Text()+"\n"), 0o600)
	})
	c.killed("after the next key is in use, before it is said", func(key, next string) error {
		k, err := wire.NewKey()
		if err != nil {
			return err
		}
		return os.WriteFile(key, []byte(k.Text()+"\n"), 0o600)
	})
	c.killed("and away for long, so that its key is old", func(key, next string) error {
		then := time.Now().Add(-31 * 24 * time.Hour)
		return os.Chtimes(key, then, then)
	})
	c.scale(dir, "1")
}

// scale sets how many machines fra and syd have each.
func (c *cloud) scale(dir, count string) {
	c.Helper()
	for _, city := range []string{"fra", "syd"} {
		c.eventually(city+" has "+count, 60*time.Second, func() bool {
			_, _, code := c.perigee("iad", dir, "scale", "count", count, "--region", city) // not while the release before ends
			return code == 0
		})
	}
}

// killed kills fra, leaves its keys as a crash at some step does, and wants the
// mesh to be whole again.
func (c *cloud) killed(when string, leave func(key, next string) error) {
	c.Helper()
	n := c.nodes["fra"]
	if err := n.Kill(); err != nil {
		c.Fatal(err)
	}
	old := c.key("fra", "wireguard.key")
	if err := leave(filepath.Join(n.Data, "wireguard.key"), filepath.Join(n.Data, "wireguard.key.next")); err != nil {
		c.Fatal(err)
	}
	if err := n.Start(c.Context()); err != nil {
		c.Fatal(err)
	}
	c.eventually("killed "+when+", fra has the new key and its neighbours", 60*time.Second, func() bool {
		status, _, _, err := c.ask("fra", "fra", "/")
		return err == nil && status == http.StatusOK && c.key("fra", "wireguard.key") != old && c.key("fra", "wireguard.key.next") == ""
	})
}

// key is a file's private key, "" where there is none.
func (c *cloud) key(city, file string) string {
	b, _ := os.ReadFile(filepath.Join(c.nodes[city].Data, file))
	return strings.TrimSpace(string(b))
}
