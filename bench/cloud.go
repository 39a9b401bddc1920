package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/internal/debian"
)

// cloud is a node of the benchmark's own.
type cloud struct {
	bin, work string
	api, http string
	client    *api.Client
	cpus      int // of a machine; 0 is the node's default
	cmd       *exec.Cmd
}

func startCloud(ctx context.Context, bin, work, prefix, ipv6 string) (*cloud, error) {
	if err := os.MkdirAll(work, 0o700); err != nil {
		return nil, err
	}
	c := &cloud{bin: bin, work: work, api: freeAddr(), http: freeAddr()}
	socket := filepath.Join(work, "api.sock")
	c.cmd = exec.Command(filepath.Join(bin, "perigeed"), "--data", filepath.Join(work, "data"), "--socket", socket, "--listen", c.api,
		"--http", c.http, "--https", "off", "--alone", "--name", "bench", "--region", "lab", "--network-prefix", prefix, "--ipv6", ipv6,
		// Nothing goes to sleep by itself while something else is measured.
		"--pause-after", "24h", "--sink-after", "24h", "--stop-after", "24h")
	log, err := os.Create(filepath.Join(work, "perigeed.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	c.cmd.Stdout, c.cmd.Stderr = log, log
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	if c.client, err = api.NewClient(api.ClientConfig{Addr: "unix://" + socket}); err != nil {
		return nil, err
	}
	for range 1500 {
		if _, err = c.client.Node(ctx); err == nil {
			return c, nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	c.cmd.Process.Kill()
	c.cmd.Wait()
	return nil, fmt.Errorf("the node does not answer: %w; its last words:\n%s", err, c.lastWords())
}

// lastWords are the end of the node's log.
func (c *cloud) lastWords() string {
	if c == nil {
		return ""
	}
	b, _ := os.ReadFile(filepath.Join(c.work, "perigeed.log"))
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(lines[max(0, len(lines)-12):], "\n")
}

func (c *cloud) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := c.client.StopNode(ctx, true); err != nil {
		fmt.Fprintln(os.Stderr, "the node does not stop as it should:", err)
		c.cmd.Process.Kill()
	}
	c.cmd.Wait()
}

// put brings an image to the node as an app's and returns its reference.
func (c *cloud) put(ctx context.Context, app, archive string) (ref string, err error) {
	if _, err := c.client.CreateApp(ctx, api.CreateAppRequest{AppName: app}); err != nil && !api.IsCode(err, api.CodeNameTaken) {
		return "", err
	}
	f, err := os.Open(archive)
	if err != nil {
		return "", err
	}
	defer f.Close()
	for p, err := range c.client.ImportImage(ctx, app, f) {
		if err != nil {
			return "", err
		}
		if p.Kind == "done" {
			ref = p.Image
		}
	}
	return ref, nil
}

// serve makes a machine that answers HTTP on port 80 for the app's name.
func (c *cloud) serve(ctx context.Context, app, ref string, memory int) (string, error) {
	start := true
	cfg := &api.MachineConfig{Image: ref, Guest: &api.Guest{MemoryMB: memory, CPUs: c.cpus}, Services: []api.Service{{
		Protocol: "tcp", InternalPort: 8080, Autostart: &start, Ports: []api.Port{{Port: 80, Handlers: []string{"http"}}},
	}}}
	m, err := c.client.CreateMachine(ctx, app, api.CreateMachineRequest{Config: cfg})
	return m.ID, err
}

// firstByte asks for the app's page on a new connection and returns the time
// until the answer begins.
func (c *cloud) firstByte(app string) (time.Duration, error) {
	return firstByte(c.http, app+".perigee.localhost", 30*time.Second)
}

func firstByte(addr, host string, limit time.Duration) (time.Duration, error) {
	return firstByteOver(func(addr string, limit time.Duration) (net.Conn, error) { return net.DialTimeout("tcp", addr, limit) }, addr, host, limit)
}

// dialer connects within a time, from wherever it is.
type dialer func(addr string, limit time.Duration) (net.Conn, error)

func firstByteOver(dial dialer, addr, host string, limit time.Duration) (time.Duration, error) {
	began := time.Now()
	conn, err := dial(addr, limit)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	conn.SetDeadline(began.Add(limit))
	fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", host)
	r := bufio.NewReader(conn)
	line, err := r.ReadString('\n')
	took := time.Since(began)
	if err != nil || !strings.Contains(line, " 200 ") {
		rest, _ := io.ReadAll(io.LimitReader(r, 500))
		return 0, fmt.Errorf("answer %q, %v: %s", strings.TrimSpace(line), err, rest)
	}
	io.Copy(io.Discard, r)
	return took, nil
}

// until repeats firstByte until the address answers: for peers, which hold no
// request.
func until(addr string, began time.Time) (time.Duration, error) {
	for time.Since(began) < 30*time.Second {
		if _, err := firstByte(addr, "peer", 2*time.Second); err == nil {
			return time.Since(began), nil
		}
		time.Sleep(500 * time.Microsecond)
	}
	return 0, fmt.Errorf("the peer at %s does not answer", addr)
}

func freeAddr() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// benchImage is one app's image in the forms that the contenders take.
type benchImage struct {
	name    string
	image   v1.Image
	archive string
	rootfs  string // unpacked, for runc and runsc
	args    []string
	memory  int
}

func (b *bench) makeImage(name string, r debian.Recipe, memory int) (*benchImage, error) {
	if i := b.images[name]; i != nil {
		return i, nil
	}
	img, err := debian.Image(r)
	if err != nil {
		return nil, err
	}
	i := &benchImage{name: name, image: img, args: r.Config.Cmd, memory: memory, rootfs: filepath.Join(b.work, "rootfs-"+name)}
	if i.archive, err = debian.Archive(b.work, name+":bench", r); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(i.rootfs, 0o755); err != nil {
		return nil, err
	}
	tar := exec.Command("tar", "-x", "-C", i.rootfs)
	layers := mutate.Extract(img)
	defer layers.Close()
	tar.Stdin = layers
	if out, err := tar.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("cannot unpack %s: %w: %s", name, err, out)
	}
	for _, d := range []string{"proc", "dev", "sys", "tmp"} {
		os.MkdirAll(filepath.Join(i.rootfs, d), 0o755)
	}
	b.images[name] = i
	return i, nil
}

// apps are the three sizes of app that the figures speak of.
func (b *bench) apps() ([]*benchImage, error) {
	tiny, err := debian.Tiny()
	if err != nil {
		return nil, err
	}
	express, err := debian.Express(npmDir())
	if err != nil {
		return nil, err
	}
	node, version := withHostNode(debian.Node())
	express, _ = withHostNode(express)
	b.nodejs = version
	var out []*benchImage
	for _, a := range []struct {
		name   string
		recipe debian.Recipe
		memory int
	}{{"tiny", tiny, 128}, {"node", node, 512}, {"express", express, 512}} {
		i, err := b.makeImage(a.name, a.recipe, a.memory)
		if err != nil {
			return nil, err
		}
		out = append(out, i)
	}
	return out, nil
}
