//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/lab/space"
)

// NodeConfig says what a node of the lab is. The zero value of every field but
// City is useful.
type NodeConfig struct {
	// City is where it stands and its region. Required.
	City string
	// Name of the node and of its host. Default: the city and a number, "fra-1".
	Name string
	// Program is perigeed. Default: the one in the folder that PERIGEE_BIN names,
	// then beside this program, then in PATH.
	Program string
	// Data is the directory of its state. Default: one in the lab's directory.
	Data string
	// Args go to perigeed after the lab's own. In them {router4} and {router6} stand
	// for the city's router, {addr4} and {addr6} for the node's own addresses,
	// {places} for the path of the file that says where visitors are.
	Args []string
	// Join makes it join a cluster before it starts for the first time. Default: it
	// is the first node of its own, or what its data says.
	Join *Join
}

// startPatience is how long a node may take to answer.
const startPatience = 30 * time.Second

// Node is a real perigeed on a host of its own. Its methods may be called from
// anywhere, but only one at a time changes whether it runs.
type Node struct {
	*Host
	// Socket is that of its API, which needs no token; Data is the directory of
	// its state, Log the file with what it says.
	Socket, Data, Log string

	program string
	region  string
	args    []string
	join    *Join // nil once it has joined
	client  *api.Client

	mu    sync.Mutex // guards what follows
	cmd   *space.Cmd
	ended chan struct{} // closed when cmd has ended
}

// StartNode makes a host and starts perigeed there. It returns when the node
// answers; if it does not, the host is gone again.
func (l *Lab) StartNode(ctx context.Context, cfg NodeConfig) (*Node, error) {
	n, err := l.newNode(cfg)
	if err != nil {
		return nil, err
	}
	if err := n.Start(ctx); err != nil {
		n.Remove()
		return nil, err
	}
	return n, nil
}

func (l *Lab) newNode(cfg NodeConfig) (*Node, error) {
	program, err := findProgram(cfg.Program)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	l.nodeCount++
	prefix := l.cfg.Name + strconv.Itoa(l.nodeCount)
	l.groups = append(l.groups, prefix)
	l.mu.Unlock()
	if cfg.Name == "" {
		cfg.Name = l.freeName(cfg.City)
	}
	n := &Node{program: program, region: cfg.City, join: cfg.Join, Data: cfg.Data, Log: l.path("nodes", cfg.Name, "log"), Socket: l.path("nodes", cfg.Name, "sock")}
	if n.Data == "" {
		n.Data = l.path("nodes", cfg.Name, "data")
	}
	if err := os.MkdirAll(filepath.Dir(n.Log), 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the node's directory: %w", err)
	}
	n.args = []string{"--data", n.Data, "--name", cfg.Name, "--region", cfg.City, "--listen", "127.0.0.1:4280",
		"--socket", n.Socket, "--network-prefix", prefix, "--pool", "1"}
	if n.client, err = api.NewClient(api.ClientConfig{Addr: "unix://" + n.Socket}); err != nil {
		return nil, err
	}
	if n.Host, err = l.AddHost(cfg.Name, cfg.City); err != nil {
		return nil, err
	}
	n.args = append(n.args, n.fill(cfg.Args)...)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.nodes = append(l.nodes, n)
	return n, nil
}

// fill puts in what only the lab knows.
func (n *Node) fill(args []string) []string {
	known := strings.NewReplacer("{router4}", addr4(n.city, 1).String(), "{router6}", addr6(n.city, 1).String(),
		"{addr4}", n.Addr4.String(), "{addr6}", n.Addr6.String(), "{places}", n.lab.Places())
	out := slices.Clone(args)
	for i := range out {
		out[i] = known.Replace(out[i])
	}
	return out
}

// freeName is the city with the first number that no host has.
func (l *Lab) freeName(city string) string {
	for i := 1; ; i++ {
		name := city + "-" + strconv.Itoa(i)
		if _, err := l.Host(name); err != nil {
			return name
		}
	}
}

// HasData reports whether the next node of a city finds the data of an earlier
// one: it is of a cluster already.
func (l *Lab) HasData(city string) bool {
	_, err := os.Stat(l.path("nodes", l.freeName(city), "data", "name"))
	return err == nil
}

// findProgram finds perigeed.
func findProgram(given string) (string, error) {
	tries := []string{given}
	if given == "" {
		self, _ := os.Executable()
		tries = []string{filepath.Join(os.Getenv("PERIGEE_BIN"), "perigeed"), filepath.Join(filepath.Dir(self), "perigeed")}
	}
	for _, p := range tries {
		if fi, err := os.Stat(p); err == nil && fi.Mode().IsRegular() && filepath.IsAbs(p) {
			return p, nil
		}
	}
	if p, err := exec.LookPath("perigeed"); err == nil && given == "" {
		return p, nil
	}
	return "", fmt.Errorf("cannot find perigeed in %s: build it with make build, or name its folder with PERIGEE_BIN", strings.Join(tries, ", "))
}

// Nodes are those that were started and are still there.
func (l *Lab) Nodes() []*Node {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.nodes)
}

// Node finds one by its name.
func (l *Lab) Node(name string) (*Node, error) {
	for _, n := range l.Nodes() {
		if n.Name == name {
			return n, nil
		}
	}
	return nil, fmt.Errorf("cannot find node %q in the lab", name)
}

// Client speaks to the node's API, through its unix socket: also when the node
// is cut off from the network.
func (n *Node) Client() *api.Client { return n.client }

// Settle waits until every node sees all others up, or ctx ends.
func (l *Lab) Settle(ctx context.Context) error {
	nodes := l.Nodes()
	for _, n := range nodes {
		for !n.sees(ctx, len(nodes)) {
			select {
			case <-ctx.Done():
				return fmt.Errorf("node %q does not see all others: %w", n.Name, ctx.Err())
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
	return nil
}

// sees reports whether so many nodes are up, as this one sees it.
func (n *Node) sees(ctx context.Context, want int) bool {
	all, err := n.client.ListNodes(ctx)
	up := 0
	for _, o := range all {
		if o.Up {
			up++
		}
	}
	return err == nil && up >= want
}

// Running reports whether perigeed runs.
func (n *Node) Running() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.runs()
}

func (n *Node) runs() bool {
	if n.cmd == nil {
		return false
	}
	select {
	case <-n.ended:
		return false
	default:
		return true
	}
}

// Pid is perigeed's, as seen from outside; 0 if it does not run.
func (n *Node) Pid() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.runs() {
		return 0
	}
	return n.cmd.Process.Pid
}

// Start starts perigeed, which joins first where it was told to, and waits until
// it answers. What runs already is left as it is.
func (n *Node) Start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	if err := n.joinOnce(ctx); err != nil {
		return err
	}
	if err := n.launch(); err != nil {
		return err
	}
	for {
		if _, err := n.client.Node(ctx); err == nil {
			return nil
		}
		select {
		case <-n.ended:
			return fmt.Errorf("cannot start node %q: perigeed ended: %s", n.Name, tail(n.Log))
		case <-ctx.Done():
			return fmt.Errorf("cannot start node %q: no answer: %w: %s", n.Name, ctx.Err(), tail(n.Log))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (n *Node) launch() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.runs() {
		return nil
	}
	log, err := os.OpenFile(n.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("cannot open the log of node %q: %w", n.Name, err)
	}
	defer log.Close()
	cmd := n.Command(context.Background(), n.program, n.args...)
	cmd.Stdout, cmd.Stderr, cmd.Dir = log, log, "/"
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("cannot start node %q: %w", n.Name, err)
	}
	n.cmd, n.ended = cmd, make(chan struct{})
	go n.wait(cmd, n.ended)
	return nil
}

// wait ends with the process, which ends with the host at the latest.
func (n *Node) wait(cmd *space.Cmd, ended chan struct{}) {
	_ = cmd.Wait()
	close(ended)
}

// Kill ends perigeed at once, as kill -9 does. Its machines run on.
func (n *Node) Kill() error { return n.signal(syscall.SIGKILL) }

// Stop lets perigeed end in good order. Its machines run on.
func (n *Node) Stop() error { return n.signal(syscall.SIGTERM) }

// Restart kills perigeed and starts it again.
func (n *Node) Restart(ctx context.Context) error {
	if err := n.Kill(); err != nil {
		return err
	}
	return n.Start(ctx)
}

// Crash ends all processes of the node's host at once, machines too, as a power
// failure does. Start brings it back.
func (n *Node) Crash() error {
	if err := n.Host.Crash(); err != nil {
		return err
	}
	return n.Kill()
}

// stopPatience is how long a node may take to end in good order.
const stopPatience = 30 * time.Second

// signal sends a signal and waits for the end of the process.
func (n *Node) signal(sig syscall.Signal) error {
	n.mu.Lock()
	running, cmd, ended := n.runs(), n.cmd, n.ended
	n.mu.Unlock()
	if !running {
		return nil
	}
	if err := cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("cannot end node %q: %w", n.Name, err)
	}
	select {
	case <-ended:
		return nil
	case <-time.After(stopPatience):
		return fmt.Errorf("cannot end node %q: it goes on after %s", n.Name, stopPatience)
	}
}

// Remove ends the node and takes its host away. Its data stays until the lab is
// closed.
func (n *Node) Remove() {
	n.lab.mu.Lock()
	n.lab.nodes = slices.DeleteFunc(n.lab.nodes, func(o *Node) bool { return o == n })
	n.lab.mu.Unlock()
	n.client.Close()
	n.Host.Remove()
}

// end lets go of a node whose host is about to go.
func (n *Node) end() { n.client.Close() }

// tail is the end of a log, for an error: its last lines, or how a crash begins.
func tail(path string) string {
	b, _ := os.ReadFile(path)
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	crash := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, "panic: ") || strings.HasPrefix(l, "fatal error: ") })
	if crash >= 0 {
		return strings.Join(lines[crash:min(len(lines), crash+12)], " | ")
	}
	return strings.Join(lines[max(0, len(lines)-4):], " | ")
}
