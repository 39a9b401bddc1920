package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/perigee-run/perigee/lab"
	"github.com/perigee-run/perigee/lab/space"
)

// serveApp is the app of the cities' figures: it answers at once and keeps
// connections.
func serveApp(addr string) error {
	return http.ListenAndServe(addr, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello\n") }))
}

// way is one way to the app, over a kept connection.
type way struct {
	name string
	from *lab.Host
	to   string
	got  samples
}

// plainPort is where a server that is no machine listens, proxyPort nginx.
const plainPort, proxyPort = "8090", "8091"

// hopFigure measures what our edge and host router add to a request, beside two
// nginx in the same places: one that clients ask, and one before the machine. What
// goes between ours is encrypted, what goes between theirs is not.
func (c *cities) hopFigure(ctx context.Context) error {
	if err := c.addNode(ctx, "fra"); err != nil {
		return err
	}
	if err := c.deploy(ctx, "hop", "fra"); err != nil {
		return err
	}
	m, err := c.client().ListMachines(ctx, "hop")
	if err != nil || len(m) != 1 {
		return fmt.Errorf("want one machine, have %d: %w", len(m), err)
	}
	here, edge := c.nodes[m[0].Node], c.nodes["fra-1"]
	if here == edge {
		edge = c.nodes["fra-2"]
	}
	stop, absent := c.peersOnTheWay(ctx, edge.Host, here.Host, m[0].PrivateIP)
	defer stop()
	ways := []*way{
		{name: "the machine, from its own server", from: here.Host, to: net.JoinHostPort(m[0].PrivateIP, "8080")},
		{name: "a plain server there, from there", from: here.Host, to: "127.0.0.1:" + plainPort},
		{name: "a plain server there, from the other server", from: edge.Host, to: net.JoinHostPort(here.Addr4.String(), plainPort)},
		{name: "the edge there → the machine", from: here.Host, to: c.at(here.Name)},
		{name: "the other server's edge → host router → the machine", from: edge.Host, to: c.at(edge.Name)},
	}
	if absent == nil {
		ways = append(ways, &way{name: "nginx there → the machine", from: here.Host, to: "127.0.0.1:" + proxyPort},
			&way{name: "the other server's nginx → nginx → the machine", from: edge.Host, to: "127.0.0.1:" + proxyPort})
	}
	for range c.rounds {
		for _, w := range ways {
			if err := w.ask(100); err != nil {
				return fmt.Errorf("%s: %w", w.name, err)
			}
		}
	}
	c.hopTable(ways, absent)
	return nil
}

// hopTable prints what each way adds to the machine's own time, and to the
// network's where two servers are on it.
func (c *cities) hopTable(ways []*way, absent error) {
	direct, network := ways[0].got.median(), ways[2].got.median()-ways[1].got.median()
	added := map[int]time.Duration{3: direct, 4: direct + network, 5: direct, 6: direct + network}
	var rows [][]string
	for i, w := range ways {
		row := []string{w.name, fmt.Sprintf("%.3f", ms(w.got.median())), "", ""}
		if less, ok := added[i]; ok {
			row[2] = fmt.Sprintf("%.3f", ms(w.got.median()-less))
		}
		if i == 4 {
			row[3] = "1"
		}
		if i == 5 || i == 6 {
			row = append(row, fmt.Sprintf("ours takes %.2f of it", float64(ways[i-2].got.median())/float64(w.got.median())))
		}
		rows = append(rows, row)
	}
	if absent != nil {
		rows = append(rows, []string{"nginx", "-", "", "", absent.Error()})
	}
	printTable(fmt.Sprintf("A request over a kept connection in one city, ms, median of %d interleaved rounds of 100", c.rounds), []string{"way", "ms", "added", "goal", ""}, rows)
}

// ask makes requests on one connection and notes how long each took; the first
// warms the way up.
func (w *way) ask(n int) error {
	conn, err := dialFrom(w.from)(w.to, 10*time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	r := bufio.NewReader(conn)
	for i := range n + 1 {
		began := time.Now()
		fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", host("hop"))
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			return err
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK || string(body) != "hello\n" {
			return fmt.Errorf("answer %s %q, %v", resp.Status, body, err)
		}
		if i > 0 {
			w.got = append(w.got, time.Since(began))
		}
	}
	return nil
}

// peersOnTheWay starts the plain server and both nginx; absent says why there is
// no nginx.
func (c *cities) peersOnTheWay(ctx context.Context, edge, here *lab.Host, machine string) (stop func(), absent error) {
	var started []*space.Cmd
	run := func(h *lab.Host, name string, args ...string) error {
		cmd := h.Command(ctx, name, args...)
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			return err
		}
		started = append(started, cmd)
		return nil
	}
	stop = func() {
		for _, cmd := range started {
			cmd.Process.Kill()
			cmd.Wait()
		}
	}
	self, err := os.Executable()
	if err != nil {
		return stop, err
	}
	if err := run(here, self, "-app", ":"+plainPort); err != nil {
		return stop, err
	}
	nginx, err := exec.LookPath("nginx")
	if err != nil {
		return stop, errors.New("nginx is not installed")
	}
	to := netip.AddrPortFrom(netip.MustParseAddr(machine), 8080).String()
	for _, p := range []struct {
		host     *lab.Host
		upstream string
	}{{here, to}, {edge, here.Addr4.String() + ":" + proxyPort}} {
		conf, err := c.writeNginx(p.host.Name, p.upstream)
		if err != nil {
			return stop, err
		}
		if err := run(p.host, nginx, "-p", c.dir, "-e", "stderr", "-c", conf); err != nil {
			return stop, err
		}
	}
	time.Sleep(time.Second)
	return stop, nil
}

func (c *cities) writeNginx(name, upstream string) (string, error) {
	path := filepath.Join(c.dir, "nginx-"+name+".conf")
	temp := ""
	for _, what := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		temp += fmt.Sprintf("  %s_temp_path %s/nginx-%s;\n", what, c.dir, what)
	}
	return path, os.WriteFile(path, []byte(fmt.Sprintf(`daemon off; master_process off; user root; pid %s.pid;
events {}
http {
  access_log off;
  keepalive_requests 1000000;
%s  upstream app { server %s; keepalive 16; }
  server { listen %s; location / { proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host; } }
}
`, path, temp, upstream, proxyPort)), 0o644)
}
