// Command router measures the router beside nginx, on one machine in one run: the proxy on one core, the origin and the
// load (wrk) on another, in interleaved rounds. It prints medians: requests per second, and the proxy's CPU seconds per
// million requests, or per terabyte for large bodies.
//
//	go run ./bench/router [-rounds 5] [-seconds 3]
//
// It needs nginx, wrk and taskset, and two cores. It is not a test of features: both proxies do the least they can.
package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/perigee-run/perigee/router/localca"
)

var (
	rounds  = flag.Int("rounds", 5, "interleaved rounds")
	seconds = flag.Int("seconds", 3, "seconds a round")
	role    = flag.String("role", "", "internal: what this process is")
	dir     = flag.String("dir", "", "internal: where its files are")
	addrs   = flag.String("addrs", "", "internal: its addresses, with commas")
)

func main() {
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var err error
	switch *role {
	case "origin":
		err = origin(*addrs)
	case "router":
		err = edge(ctx, *dir, strings.Split(*addrs, ","))
	default:
		err = bench(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "cannot measure:", err)
		os.Exit(1)
	}
}

// work is one row of the table.
type work struct {
	name   string
	tls    bool
	path   string
	close  bool // a new connection for each request
	perTB  bool // CPU counts per terabyte
	unit   string
	size   float64
	wrkers string // connections
}

var works = []work{
	{name: "HTTP/1.1 keepalive, 1 KiB", path: "/1k", unit: "s/M", wrkers: "64"},
	{name: "HTTPS keepalive, 1 KiB", tls: true, path: "/1k", unit: "s/M", wrkers: "64"},
	{name: "a new TCP connection each", path: "/1k", close: true, unit: "s/M", wrkers: "64"},
	{name: "1 MiB bodies", path: "/1m", perTB: true, unit: "s/TB", size: 1 << 20, wrkers: "16"},
	{name: "1 MiB bodies over TLS", tls: true, path: "/1m", perTB: true, unit: "s/TB", size: 1 << 20, wrkers: "16"},
}

// proxy is one of the two that are compared.
type proxy struct {
	name        string
	plain, tls  string
	cmd         *exec.Cmd
	rates, cpus map[string][]float64
}

func bench(ctx context.Context) error {
	for _, tool := range []string{"nginx", "wrk", "taskset"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%s is missing: apt-get install nginx-light wrk util-linux", tool)
		}
	}
	tmp, err := os.MkdirTemp("", "perigee-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	self, err := os.Executable()
	if err != nil {
		return err
	}
	at := ports(5)
	proxies := []*proxy{
		{name: "perigee", plain: at[1], tls: at[2], cmd: pinned(ctx, "0", self, "-role", "router", "-dir", tmp, "-addrs", strings.Join(at[:3], ","))},
		{name: "nginx", plain: at[3], tls: at[4], cmd: pinned(ctx, "0", "nginx", "-p", tmp, "-c", filepath.Join(tmp, "nginx.conf"))},
	}
	if err := writeNginx(tmp, at[0], at[3], at[4]); err != nil {
		return err
	}
	procs := []*exec.Cmd{pinned(ctx, "1", self, "-role", "origin", "-addrs", at[0])}
	for _, p := range proxies {
		p.rates, p.cpus = map[string][]float64{}, map[string][]float64{}
		procs = append(procs, p.cmd)
	}
	for _, c := range procs {
		if err := c.Start(); err != nil {
			return err
		}
		defer func() { _ = c.Process.Signal(os.Interrupt); _ = c.Wait() }()
	}
	for _, a := range at {
		if err := answers(a); err != nil {
			return err
		}
	}
	if err := measureAll(ctx, proxies); err != nil {
		return err
	}
	report(proxies)
	return nil
}

func measureAll(ctx context.Context, proxies []*proxy) error {
	for round := range *rounds + 1 {
		for _, w := range works {
			for i := range proxies {
				p := proxies[(i+round)%len(proxies)]
				rate, cpu, err := measure(ctx, p, w)
				if err != nil {
					return fmt.Errorf("%s, %s: %w", p.name, w.name, err)
				}
				if round > 0 { // the first one warms up
					p.rates[w.name] = append(p.rates[w.name], rate)
					p.cpus[w.name] = append(p.cpus[w.name], cpu)
				}
			}
		}
		fmt.Fprintf(os.Stderr, "round %d of %d done\n", round, *rounds)
	}
	return nil
}

func pinned(ctx context.Context, core, name string, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, "taskset", append([]string{"-c", core, name}, args...)...)
	c.Stderr = os.Stderr
	c.Env = append(os.Environ(), "GOMAXPROCS=1")
	return c
}

// ports are addresses that are free now.
func ports(n int) (out []string) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			continue
		}
		defer l.Close()
		out = append(out, l.Addr().String())
	}
	return out
}

func answers(addr string) error {
	var err error
	for range 200 {
		var c net.Conn
		if c, err = net.Dial("tcp", addr); err == nil {
			return c.Close()
		}
		time.Sleep(20 * time.Millisecond)
	}
	return err
}

var (
	total = regexp.MustCompile(`(\d+) requests in ([\d.]+)(m?s)`)
	wrong = regexp.MustCompile(`Non-2xx or 3xx responses: (\d+)`)
)

// measure runs the load once, and returns requests per second and the proxy's CPU per million of them, or per terabyte.
func measure(ctx context.Context, p *proxy, w work) (rate, cpu float64, err error) {
	url := "http://" + p.plain + w.path
	if w.tls {
		url = "https://" + p.tls + w.path
	}
	args := []string{"wrk", "-t1", "-c" + w.wrkers, "-d" + strconv.Itoa(*seconds), "-H", "Host: bench.localhost"}
	if w.close {
		args = append(args, "-H", "Connection: close")
	}
	before := cpuOf(p.cmd.Process.Pid)
	start := time.Now()
	out, err := pinned(ctx, "1", args[0], append(args[1:], url)...).Output()
	took := time.Since(start).Seconds()
	used := cpuOf(p.cmd.Process.Pid) - before
	m := total.FindStringSubmatch(string(out))
	if err != nil || m == nil || wrong.Match(out) {
		return 0, 0, fmt.Errorf("wrk: %v: %s", err, out)
	}
	n, _ := strconv.ParseFloat(m[1], 64)
	if w.perTB {
		return n / took, used / (n * w.size) * 1e12, nil
	}
	return n / took, used / n * 1e6, nil
}

// cpuOf is the CPU time of a process and its children so far, in seconds.
func cpuOf(pid int) (sum float64) {
	for _, id := range append(children(pid), pid) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", id))
		if err != nil {
			continue
		}
		f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
		user, _ := strconv.ParseFloat(f[11], 64)
		system, _ := strconv.ParseFloat(f[12], 64)
		sum += (user + system) / 100 // USER_HZ
	}
	return sum
}

func children(pid int) (out []int) {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	for _, f := range strings.Fields(string(b)) {
		if id, err := strconv.Atoi(f); err == nil {
			out = append(append(out, id), children(id)...)
		}
	}
	return out
}

func report(proxies []*proxy) {
	fmt.Printf("%-28s %12s %12s %7s   %-6s %9s %9s %7s\n", "work", proxies[0].name, proxies[1].name, "ratio", "CPU in", proxies[0].name, proxies[1].name, "ratio")
	for _, w := range works {
		a, b := median(proxies[0].rates[w.name]), median(proxies[1].rates[w.name])
		c, d := median(proxies[0].cpus[w.name]), median(proxies[1].cpus[w.name])
		fmt.Printf("%-28s %10.0f/s %10.0f/s %6.2fx   %-6s %9.1f %9.1f %6.2fx\n", w.name, a, b, a/b, w.unit, c, d, d/c)
	}
	fmt.Println("\nratio: above 1 the first one is better. Medians of", *rounds, "rounds of", *seconds, "seconds.")
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

// writeNginx writes nginx's configuration and the certificate that both use.
func writeNginx(dir, origin, plain, secure string) error {
	ca, err := localca.Open(filepath.Join(dir, "ca"), "bench")
	if err != nil {
		return err
	}
	if err := writePair(ca, dir); err != nil {
		return err
	}
	conf := fmt.Sprintf(`daemon off; worker_processes 1; pid %[1]s/nginx.pid; error_log /dev/stderr crit;
events { worker_connections 1024; }
http {
	access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000000; client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy;
	fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
	upstream origin { server %[2]s; keepalive 256; keepalive_requests 1000000000; }
	server {
		listen %[3]s backlog=4096; listen %[4]s ssl backlog=4096;
		ssl_certificate %[1]s/cert.pem; ssl_certificate_key %[1]s/key.pem; ssl_protocols TLSv1.3; ssl_session_cache shared:s:1m;
		location / {
			proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host; proxy_buffering on; proxy_max_temp_file_size 0;
			proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme; proxy_set_header X-Forwarded-Port $server_port; proxy_set_header X-Request-Id $request_id;
		}
	}
}
`, dir, origin, plain, secure)
	return os.WriteFile(filepath.Join(dir, "nginx.conf"), []byte(conf), 0o600)
}
