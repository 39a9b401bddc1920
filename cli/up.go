package cli

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/spf13/cobra"
)

// defaultData is where a node keeps its state.
const defaultData = "/var/lib/perigee"

type upFlags struct {
	data, name, region, domain string
	listen, socket             string
	http, https                string
	acmeEmail, acmeDirectory   string
	foreground                 bool
	timeout                    time.Duration
	more                       []string // for perigeed
}

func upCmd(e *env) *cobra.Command {
	var f upFlags
	c := &cobra.Command{
		Use: "up [flags] [-- PERIGEED FLAGS]", Short: "Start a node on this server",
		Long: `Start a node on this server, in the background, and log this user in to it.

The node keeps all its state in one directory. Machines keep running when the
node stops or is killed, and are found again when it starts. What stands behind
-- goes to perigeed as it is; perigeed --help lists its other flags.`,
		Example: `  sudo perigee up                                  # apps answer on ports 80 and 443 at <app>.perigee.localhost
  sudo perigee up --domain apps.example.com --acme-email me@example.com
  sudo perigee up --http 127.0.0.1:8080 --https 127.0.0.1:8443
  sudo perigee up --foreground                     # for a service manager
  sudo perigee up -- --pause-after 10m             # idle machines stay awake longer`,
		RunE: func(c *cobra.Command, args []string) error {
			if c.ArgsLenAtDash() != 0 && len(args) > 0 {
				return noArgs(c, args)
			}
			f.more = args
			return e.up(c.Context(), f)
		},
	}
	f.register(c)
	return c
}

// register is the flags of a node's start.
func (f *upFlags) register(c *cobra.Command) {
	fl := c.Flags()
	fl.StringVar(&f.data, "data", defaultData, "directory of the node's whole state")
	fl.StringVar(&f.name, "name", "", "name of the node (default: the host's name)")
	fl.StringVar(&f.region, "region", "", "city code of this server, such as fra (default: the one it has or joined with, or local)")
	fl.StringVar(&f.domain, "domain", "", "apps answer at <app>.<domain> (default: the one it has, or perigee.localhost)")
	fl.StringVar(&f.listen, "listen", "127.0.0.1:4280", "address of the API and of the built-in registry")
	fl.StringVar(&f.socket, "socket", DefaultSocket, "unix socket of the API, for root of this server")
	fl.StringVar(&f.http, "http", "", "address that answers for public port 80 (default: port 80 on all addresses)")
	fl.StringVar(&f.https, "https", "", "address that answers for public port 443 (default: port 443 on all addresses)")
	fl.StringVar(&f.acmeEmail, "acme-email", "", "get certificates by ACME with this contact; without it a local CA signs them")
	fl.StringVar(&f.acmeDirectory, "acme-directory", "", "ACME directory URL (default: Let's Encrypt)")
	fl.BoolVar(&f.foreground, "foreground", false, "stay in the foreground")
	fl.DurationVar(&f.timeout, "timeout", 30*time.Second, "how long to wait for the node")
}

func (f upFlags) args() []string {
	a := []string{"--data", f.data, "--listen", f.listen, "--socket", f.socket}
	for _, o := range [][2]string{{"--name", f.name}, {"--domain", f.domain}, {"--region", f.region}, {"--http", f.http}, {"--https", f.https}, {"--acme-email", f.acmeEmail}, {"--acme-directory", f.acmeDirectory}} {
		if o[1] != "" {
			a = append(a, o[0], o[1])
		}
	}
	return append(a, f.more...)
}

func (e *env) up(ctx context.Context, f upFlags) error {
	prog, err := daemonProgram()
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return hint(fmt.Errorf("cannot start a node as user %d: it makes namespaces and mounts", os.Geteuid()), "run it with sudo")
	}
	if f.data, err = filepath.Abs(f.data); err != nil {
		return err
	}
	if f.foreground {
		return replaceProcess(prog, append([]string{prog}, f.args()...))
	}
	if pid, ok := running(f.data); ok {
		return hint(fmt.Errorf("a node runs already in %s (pid %d)", f.data, pid), "perigee status shows its apps; perigee down stops it")
	}
	if err := os.MkdirAll(f.data, 0o700); err != nil {
		return err
	}
	began := time.Now()
	log, cmd, err := startDetached(prog, f.args(), filepath.Join(f.data, "perigeed.log"))
	if err != nil {
		return err
	}
	if err := e.awaitNode(ctx, f, cmd); err != nil {
		return hint(fmt.Errorf("the node did not start: %w%s", err, tail(log, 8)), "the whole log is in %s", log)
	}
	return e.welcome(ctx, f, time.Since(began))
}

// awaitNode waits until the node answers on its socket, or has exited.
func (e *env) awaitNode(ctx context.Context, f upFlags, cmd *exec.Cmd) error {
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	client, err := api.NewClient(api.ClientConfig{Addr: "unix://" + f.socket})
	if err != nil {
		return err
	}
	deadline := time.After(f.timeout)
	var answered time.Time
	for {
		select {
		case err := <-exited:
			if err == nil {
				err = fmt.Errorf("it ended at once")
			}
			return err
		case <-deadline:
			return fmt.Errorf("no answer within %s", f.timeout)
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
			n, err := client.Node(ctx)
			if err == nil && answered.IsZero() {
				answered = time.Now()
			}
			// The doors for visitors open a moment after the API, on a node that has them.
			if err == nil && (n.HTTP != "" || len(n.Problems) > 0 || time.Since(answered) > time.Second) {
				return nil
			}
		}
	}
}

// welcome logs the user in and says where everything is.
func (e *env) welcome(ctx context.Context, f upFlags, took time.Duration) error {
	token, err := os.ReadFile(filepath.Join(f.data, "token"))
	if err != nil {
		return err
	}
	l := login{Addr: "unix://" + f.socket, Token: strings.TrimSpace(string(token)), Data: f.data}
	if err := writeLogin(l); err != nil {
		fmt.Fprintln(e.Err, "warning: cannot remember the login:", err)
	}
	client, err := api.NewClient(api.ClientConfig{Addr: l.Addr})
	if err != nil {
		return err
	}
	n, err := client.Node(ctx)
	if err != nil {
		return err
	}
	if e.json {
		return e.printJSON(n)
	}
	fmt.Fprintf(e.Out, "%s node %s in region %s is up after %s\n", e.paint(green, "✓"), n.Name, n.Region, took.Round(time.Millisecond))
	e.facts("apps at", "*."+n.Domain, "http", n.HTTP, "https", n.HTTPS, "API", "http://"+f.listen, "registry", n.Registry, "state", f.data)
	e.problems(n)
	fmt.Fprintln(e.Out, "Next: perigee launch, in the folder of an app")
	return nil
}

func downCmd(e *env) *cobra.Command {
	var data string
	var machines bool
	c := &cobra.Command{
		Use: "down", Short: "Stop the node on this server", Args: noArgs,
		Long: `Stop the node on this server. Its machines run on, unless --machines stops them too.

The node is found by its data directory: --data, else that of the last perigee
up or join of this user, else ` + defaultData + `. Where its API listens
(--addr, PERIGEE_ADDR, --socket of perigee up) does not matter.`,
		Example: "  sudo perigee down\n  sudo perigee down --machines",
		RunE: func(c *cobra.Command, _ []string) error {
			if l, _ := readLogin(); data == "" {
				data = first(l.Data, defaultData)
			}
			return e.down(c.Context(), data, machines)
		},
	}
	c.Flags().StringVar(&data, "data", "", "directory of the node's state (default: that of the last perigee up or join)")
	c.Flags().BoolVar(&machines, "machines", false, "stop all machines too; the next perigee up starts none of them by itself")
	return c
}

func (e *env) down(ctx context.Context, data string, machines bool) error {
	pid, ok := running(data)
	if !ok {
		return hint(fmt.Errorf("no node runs in %s", data), "name its directory with --data")
	}
	if machines {
		socket := socketOf(pid)
		if err := sameNode(socket, pid); err != nil {
			return fmt.Errorf("cannot stop the machines of the node in %s: %w", data, err)
		}
		client, err := api.NewClient(api.ClientConfig{Addr: "unix://" + socket})
		if err != nil {
			return err
		}
		if err := client.StopNode(ctx, true); err != nil {
			return e.explain(err)
		}
	} else if err := signalPid(pid, syscall.SIGTERM); err != nil {
		return fmt.Errorf("cannot stop process %d: %w", pid, err)
	}
	for range 600 {
		if _, ok := running(data); !ok {
			fmt.Fprintf(e.Out, "%s node stopped\n", e.paint(green, "✓"))
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
	return fmt.Errorf("process %d did not end within a minute", pid)
}

// running finds the node of a data directory: the process that holds the lock
// on its pid file. A file that nobody locks is of a node that is gone.
func running(data string) (int, bool) {
	path := filepath.Join(data, "perigeed.pid")
	if !locked(path) {
		return 0, false
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, false
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	return pid, err == nil && pid > 0
}

// sameNode makes sure that it is process pid that listens on a socket: what
// stops machines must not reach another node.
func sameNode(socket string, pid int) error {
	at, err := listener(socket)
	if err != nil {
		return err
	}
	if at != pid {
		return fmt.Errorf("process %d listens on %s, not the node, process %d", at, socket, pid)
	}
	return nil
}

// socketOf reads from a node's command line where its API listens, so that what
// is asked of it reaches no other node.
func socketOf(pid int) string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	args := strings.Split(string(b), "\x00")
	for i, a := range args {
		if v, ok := strings.CutPrefix(a, "--socket="); ok {
			return v
		}
		if a == "--socket" && i+1 < len(args) {
			return args[i+1]
		}
	}
	return DefaultSocket
}

// daemonProgram finds perigeed beside this program, then in PATH.
func daemonProgram() (string, error) {
	if self, err := os.Executable(); err == nil {
		if real, err := filepath.EvalSymlinks(self); err == nil {
			self = real
		}
		if p := filepath.Join(filepath.Dir(self), "perigeed"); isFile(p) {
			return p, nil
		}
	}
	p, err := exec.LookPath("perigeed")
	if err != nil {
		return "", hint(fmt.Errorf("cannot find the program perigeed"), "it runs on Linux only; put it beside perigee or into PATH (make install)")
	}
	return p, nil
}

func isFile(p string) bool {
	fi, err := os.Stat(p)
	return err == nil && fi.Mode().IsRegular()
}

// tail returns the last lines of a file, each on a line of its own.
func tail(path string, n int) string {
	b, err := os.ReadFile(path)
	if err != nil || len(b) == 0 {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return "\n  " + strings.Join(lines[max(0, len(lines)-n):], "\n  ")
}
