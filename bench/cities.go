package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/internal/debian"
	"github.com/perigee-run/perigee/lab"
)

// anycastAddr is announced by every edge of the lab's cloud.
const anycastAddr = "192.0.2.1"

// deadAfter is how long a node of the lab's cloud is not heard of until its
// machines are made anew.
const deadAfter = 6 * time.Second

// cities is a cloud in the lab: a node and a visitor in each of three cities, and
// a visitor in a fourth, Tokyo, that has no node.
type cities struct {
	*bench
	lab      *lab.Lab
	dir      string
	archive  string
	nodes    map[string]*lab.Node // by name
	visitors map[string]*lab.Host // by city
}

var nodeCities = []string{"iad", "fra", "syd"}

// citiesFigure measures what many nodes are for: who waits how long, and what
// visitors see of a city that is lost.
func (b *bench) citiesFigure(ctx context.Context) (err error) {
	c := &cities{bench: b, dir: filepath.Join(b.work, "cities"), nodes: map[string]*lab.Node{}, visitors: map[string]*lab.Host{}}
	if err := c.start(ctx); err != nil {
		return errors.Join(err, c.close(err))
	}
	for _, step := range []func(context.Context) error{c.idleFigure, c.nearFigure, c.hopFigure, c.cutFigure, c.killFigure} {
		if err := step(ctx); err != nil {
			return errors.Join(err, c.close(err))
		}
	}
	return c.close(nil)
}

func (c *cities) start(ctx context.Context) (err error) {
	if c.lab, err = lab.New(ctx, lab.Config{Cities: append(slices.Clone(nodeCities), "nrt"), Dir: filepath.Join(c.dir, "lab"), Logger: slog.New(slog.DiscardHandler)}); err != nil {
		return err
	}
	for _, city := range c.lab.Cities() {
		if c.visitors[city], err = c.lab.AddHost("visitor-"+city, city); err != nil {
			return err
		}
	}
	for _, city := range nodeCities {
		if err := c.addNode(ctx, city); err != nil {
			return err
		}
	}
	return c.until(ctx, time.Minute, "all nodes keep the state", func() (bool, error) {
		list, err := c.client().ListNodes(ctx)
		up := 0
		for _, n := range list {
			if n.State == "up" && n.Member {
				up++
			}
		}
		return up == len(nodeCities), err
	})
}

// addNode starts one more node in a city.
func (c *cities) addNode(ctx context.Context, city string) (err error) {
	cfg := lab.NodeConfig{City: city, Program: filepath.Join(c.bin, "perigeed"), Args: []string{"--dead-after", deadAfter.String(), "--pause-after", "24h",
		"--anycast", anycastAddr + "/32", "--bgp-asn", "65010", "--bgp-neighbor", "{router4},64500"}}
	if first := c.nodes["iad-1"]; first != nil {
		if cfg.Join, err = first.JoinThis(ctx); err != nil {
			return err
		}
	}
	n, err := c.lab.StartNode(ctx, cfg)
	if err == nil {
		c.nodes[n.Name] = n
	}
	return err
}

// close ends the lab, and adds what the nodes said last to an error.
func (c *cities) close(why error) (err error) {
	if why != nil {
		for name, n := range c.nodes {
			b, _ := os.ReadFile(n.Log)
			err = errors.Join(err, fmt.Errorf("%s: %s", name, b[max(0, len(b)-1500):]))
		}
	}
	if c.lab != nil {
		err = errors.Join(err, c.lab.Close())
	}
	return err
}

func (c *cities) client() *api.Client { return c.nodes["iad-1"].Client() }

// until waits for a condition; while it cannot be asked for, that is no error.
func (c *cities) until(ctx context.Context, limit time.Duration, what string, so func() (bool, error)) (err error) {
	for end := time.Now().Add(limit); ; {
		var ok bool
		if ok, err = so(); ok && err == nil {
			return nil
		}
		if time.Now().After(end) || ctx.Err() != nil {
			return fmt.Errorf("it did not come to be within %s that %s: %w", limit, what, errors.Join(err, ctx.Err()))
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// deploy brings this program to machines in regions, as an app.
func (c *cities) deploy(ctx context.Context, app string, regions ...string) (err error) {
	if c.archive == "" {
		if c.archive, err = selfArchive(c.dir); err != nil {
			return err
		}
	}
	dir := filepath.Join(c.dir, app)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	config := fmt.Sprintf("app = %q\nregions = [\"%s\"]\n[http_service]\n  internal_port = 8080\n  auto_stop_machines = \"off\"\n  [[http_service.checks]]\n    path = \"/\"\n    interval = \"1s\"\n    timeout = \"1s\"\n",
		app, strings.Join(regions, `", "`))
	if err := os.WriteFile(filepath.Join(dir, "perigee.toml"), []byte(config), 0o644); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(c.bin, "perigee"), "deploy", "--image", c.archive)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "PERIGEE_ADDR=unix://"+c.nodes["iad-1"].Socket, "PERIGEE_LOGIN="+filepath.Join(c.dir, "login.json"))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("perigee deploy: %w: %s", err, out)
	}
	return nil
}

// selfArchive is an image of this program as the app that serveApp is.
func selfArchive(dir string) (string, error) {
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return "", err
	}
	return debian.Archive(dir, "bench:app", debian.Recipe{
		Files: map[string][]byte{"/bench": self}, Config: v1.Config{Entrypoint: []string{"/bench", "-app", ":8080"}, WorkingDir: "/"},
	})
}

// at is where a node's edge is reached.
func (c *cities) at(node string) string { return net.JoinHostPort(c.nodes[node].Addr4.String(), "80") }

// host is the name of an app.
func host(app string) string { return app + ".perigee.localhost" }

// visit asks from a host on a new connection.
func (c *cities) visit(from *lab.Host, addr, app string) (time.Duration, error) {
	return firstByteOver(dialFrom(from), addr, host(app), 10*time.Second)
}

func dialFrom(h *lab.Host) dialer {
	return func(addr string, limit time.Duration) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		return h.Dial(ctx, "tcp", addr)
	}
}

// idleFigure prints the memory of the nodes when nothing has been asked of them.
func (c *cities) idleFigure(context.Context) error {
	time.Sleep(15 * time.Second)
	var rows [][]string
	for _, city := range nodeCities {
		rows = append(rows, memoryRow("perigeed of "+city, "200", c.nodes[city+"-1"].Pid()))
	}
	printTable("An idle cloud of three cities, MiB", []string{"process", "RSS", "PSS", "goal (RSS)"}, rows)
	return nil
}

// nearFigure compares visitors who ask the edge of their city, where the app has
// a machine, with those who ask the one region that has it.
func (c *cities) nearFigure(ctx context.Context) error {
	if err := c.deploy(ctx, "near", nodeCities...); err != nil {
		return err
	}
	if err := c.deploy(ctx, "far", "iad"); err != nil {
		return err
	}
	near, far := map[string]samples{}, map[string]samples{}
	for range c.rounds {
		for _, city := range nodeCities {
			n, err := c.visit(c.visitors[city], c.at(city+"-1"), "near")
			if err != nil {
				return fmt.Errorf("a visitor in %s: %w", city, err)
			}
			f, err := c.visit(c.visitors[city], c.at("iad-1"), "far")
			if err != nil {
				return fmt.Errorf("a visitor in %s: %w", city, err)
			}
			near[city], far[city] = append(near[city], n), append(far[city], f)
		}
	}
	var rows [][]string
	for _, city := range nodeCities {
		n, f := near[city].median(), far[city].median()
		row := []string{city, near[city].String(), far[city].String(), fmt.Sprintf("%.0f", ms(c.lab.RTT(city, "iad"))), "", ""}
		if city != "iad" {
			row[4], row[5] = fmt.Sprintf("%.1f %% lower", 100*(1-float64(n)/float64(f))), "80 % lower"
		}
		rows = append(rows, row)
	}
	printTable(fmt.Sprintf("A visitor's first byte on a new connection, ms: median (best–worst) of %d interleaved rounds", c.rounds),
		[]string{"visitor in", "at the city's own edge", "all served from iad", "round trip to iad", "", "goal"}, rows)
	return nil
}
