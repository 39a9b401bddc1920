package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/perigee-run/perigee/internal/exit"
	"github.com/spf13/cobra"
)

type joinFlags struct {
	upFlags
	token, address string
	roles          []string
	peerPort       int
}

func joinCmd(e *env) *cobra.Command {
	var f joinFlags
	c := &cobra.Command{
		Use: "join ADDRESS [flags] [-- PERIGEED FLAGS]", Short: "Make this server a node of the cloud at an address, and start it",
		Long: `Make this server a node of the cloud at ADDRESS, which is any of its nodes: HOST
or HOST:PORT (default 4281). perigee node token, on a node of that cloud, makes
the token. Then the node is started, as perigee up does.

Before the token is sent, the other side must prove that it is of the cloud
that the token is for. A join that was cut off is completed by the same command.`,
		Example: `  sudo perigee join 203.0.113.7 --token perigee1-… --region fra
  sudo perigee join iad1.example.com --region fra --token - < token
  sudo perigee join 203.0.113.7 --token perigee1-… --region fra --roles host,edge`,
		Args: func(c *cobra.Command, args []string) error {
			if n := c.ArgsLenAtDash(); n >= 0 {
				args = args[:n]
			}
			return exactArgs("ADDRESS")(c, args)
		},
		RunE: func(c *cobra.Command, args []string) error {
			f.more = args[1:]
			return e.join(c.Context(), args[0], f)
		},
	}
	f.register(c)
	fl := c.Flags()
	fl.StringVar(&f.token, "token", "", "what perigee node token printed; - reads it from standard input (env PERIGEE_JOIN_TOKEN)")
	fl.StringVar(&f.address, "address", "", "host at which other nodes reach this one (default: the address from which it reaches ADDRESS)")
	fl.StringSliceVar(&f.roles, "roles", nil, "what the node does: host, edge, state, build (default: the token's, or all)")
	fl.IntVar(&f.peerPort, "peer-port", 4281, "port of calls between nodes")
	return c
}

// args are those of perigeed join. The token is not among them: others could
// see it.
func (f joinFlags) args(at string) []string {
	a := []string{"join", at, "--token", "-", "--data", f.data, "--peer-port", strconv.Itoa(f.peerPort)}
	for _, o := range [][2]string{{"--name", f.name}, {"--region", f.region}, {"--address", f.address}, {"--roles", strings.Join(f.roles, ",")}} {
		if o[1] != "" {
			a = append(a, o[0], o[1])
		}
	}
	return a
}

func (e *env) join(ctx context.Context, at string, f joinFlags) error {
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
	if pid, ok := running(f.data); ok {
		return coded{hint(fmt.Errorf("a node runs already in %s (pid %d)", f.data, pid), "name another directory with --data"), exit.Conflict}
	}
	cmd := exec.CommandContext(ctx, prog, f.args(at)...)
	cmd.Stdin, cmd.Stderr = e.In, e.Err
	if token := first(f.token, os.Getenv("PERIGEE_JOIN_TOKEN")); token != "-" {
		cmd.Stdin = strings.NewReader(token + "\n")
	}
	if !e.json {
		cmd.Stdout = e.Err
	}
	if err := cmd.Run(); err != nil {
		var failed *exec.ExitError
		if errors.As(err, &failed) && ctx.Err() == nil {
			return exitError{max(failed.ExitCode(), exit.Failure)} // perigeed said why
		}
		return errors.Join(ctx.Err(), err)
	}
	return e.up(ctx, f.upFlags)
}
