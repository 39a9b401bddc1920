package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/internal/exit"
	"github.com/perigee-run/perigee/internal/version"
	"github.com/spf13/cobra"
)

// IO is where a command reads and writes.
type IO struct {
	In       io.Reader
	Out, Err io.Writer
}

// env is what every verb has at hand.
type env struct {
	IO
	json    bool
	app     string
	config  string
	addr    string
	token   string
	noColor bool
	loaded  string // the configuration file in use
}

// usageError marks errors that end with [exit.Usage].
type usageError struct{ error }

func usagef(format string, a ...any) error { return usageError{fmt.Errorf(format, a...)} }

// hinted carries a line that says what to do.
type hinted struct {
	error
	hint string
}

func (h hinted) Unwrap() error { return h.error }

func hint(err error, format string, a ...any) error {
	return hinted{err, fmt.Sprintf(format, a...)}
}

// exitError ends the command with the exit code of a remote process.
type exitError struct{ code int }

func (e exitError) Error() string { return fmt.Sprintf("exit code %d", e.code) }

// coded is an error that ends the command with a code of its own.
type coded struct {
	error
	code int
}

func (c coded) Unwrap() error { return c.error }

// Main runs the command line and returns its exit code.
func Main(args []string, std IO) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	e := &env{IO: std}
	root := Root(e)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exit.OK
	}
	return e.report(err)
}

// report prints the error with its hint and chooses the exit code.
func (e *env) report(err error) int {
	var remote exitError
	if errors.As(err, &remote) {
		return remote.code
	}
	if errors.Is(err, context.Canceled) {
		fmt.Fprintln(e.Err, "interrupted")
		return exit.Interrupted
	}
	fmt.Fprintln(e.Err, e.paint(red, "Error:"), plainText(err.Error()))
	if h := hintOf(err); h != "" {
		fmt.Fprintln(e.Err, e.paint(dim, "hint: ")+plainText(h))
	}
	return exitCode(err)
}

func hintOf(err error) string {
	var h hinted
	if errors.As(err, &h) {
		return h.hint
	}
	var a *api.Error
	if errors.As(err, &a) {
		return a.Hint
	}
	return ""
}

func exitCode(err error) int {
	var c coded
	if errors.As(err, &c) {
		return c.code
	}
	var u usageError
	if errors.As(err, &u) {
		return exit.Usage
	}
	var un unreachable
	if errors.As(err, &un) {
		return exit.Unreachable
	}
	if strings.HasPrefix(err.Error(), "unknown command") || strings.HasPrefix(err.Error(), "unknown flag") ||
		strings.HasPrefix(err.Error(), "unknown shorthand flag") || strings.HasPrefix(err.Error(), "required flag") {
		return exit.Usage
	}
	return exit.Of(err)
}

// negative finds a number that was taken for a flag.
var negative = regexp.MustCompile(`^unknown shorthand flag: '\d' in (-\d\S*)$`)

// Root returns the whole command tree.
func Root(e *env) *cobra.Command {
	root := &cobra.Command{
		Use:   "perigee",
		Short: "Run apps on your own servers, near their users, asleep until asked",
		Long: `Perigee turns Linux servers that you own into an edge cloud: it runs Docker
images as small isolated machines, sends every connection to the nearest one,
and lets idle machines sleep until the next request.`,
		Example: `  perigee up                     # start a node on this server
  perigee launch                 # write a perigee.toml for the app in this folder
  perigee deploy                 # build the Dockerfile here and run it
  perigee deploy --image nginx   # run an image from a registry
  perigee logs -f                # follow what the app says`,
		Version:       version.Version,
		SilenceErrors: true, SilenceUsage: true,
	}
	root.SetOut(e.Out)
	root.SetErr(e.Err)
	root.SetIn(e.In)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		if n := negative.FindStringSubmatch(err.Error()); n != nil {
			err = fmt.Errorf("cannot use %s: there is no number below zero here", n[1])
		}
		return hint(usageError{err}, "%s --help lists the flags", c.CommandPath())
	})
	f := root.PersistentFlags()
	f.BoolVar(&e.json, "json", false, "print JSON instead of text")
	f.StringVarP(&e.app, "app", "a", "", "app to act on (default: the one in perigee.toml or fly.toml)")
	root.RegisterFlagCompletionFunc("app", e.completeApps)
	f.StringVarP(&e.config, "config", "c", "", "configuration file (default: perigee.toml, then fly.toml)")
	f.StringVar(&e.addr, "addr", "", "node to talk to: http://host:4280 or unix:///path (env PERIGEE_ADDR)")
	f.StringVar(&e.token, "token", "", "API token (env PERIGEE_TOKEN; better than a flag, which others can see)")
	f.BoolVar(&e.noColor, "no-color", os.Getenv("NO_COLOR") != "", "plain text")

	root.AddGroup(&cobra.Group{ID: "app", Title: "Apps:"}, &cobra.Group{ID: "machine", Title: "Machines:"}, &cobra.Group{ID: "node", Title: "Nodes:"})
	add(root, "app", launchCmd(e), deployCmd(e), statusCmd(e), appsCmd(e), logsCmd(e), scaleCmd(e), secretsCmd(e), releasesCmd(e), rollbackCmd(e), configCmd(e), openCmd(e), hostsCmd(e), ipsCmd(e), volumesCmd(e), regionsCmd(e))
	add(root, "machine", machineCmd(e), execCmd(e), sshCmd(e), sshConsoleCmd(e, "console"), imagesCmd(e), proxyCmd(e), wireguardCmd(e))
	add(root, "node", upCmd(e), joinCmd(e), downCmd(e), nodesCmd(e), nodeCmd(e), doctorCmd(e), tokenCmd(e), loginCmd(e), orgsCmd(e), auditCmd(e), labCmd(e))
	add(root, "app", certsCmd(e))
	root.AddCommand(docsCmd(e))
	for _, c := range root.Commands() {
		refuseEmpty(c)
	}
	return root
}

// refuseEmpty has a command and those below it refuse an empty argument, mostly
// a script's variable that is not set: it would name any machine, or a path of
// the API that is not meant. What stands behind -- is the program's that gets it.
func refuseEmpty(c *cobra.Command) {
	for _, sub := range c.Commands() {
		refuseEmpty(sub)
	}
	check := c.Args
	c.Args = func(c *cobra.Command, args []string) error {
		own := args
		if n := c.ArgsLenAtDash(); n >= 0 {
			own = args[:n]
		}
		if i := slices.Index(own, ""); i >= 0 {
			return hint(usagef("%s is empty", argName(c.Use, i)), "usage: %s", c.UseLine())
		}
		if check == nil {
			return nil
		}
		return check(c, args)
	}
}

// argName is what the line of usage calls an argument; the last one may be many.
func argName(use string, i int) string {
	names := strings.FieldsFunc(strings.ReplaceAll(use, "[flags]", ""), func(r rune) bool { return strings.ContainsRune(" .", r) })[1:]
	if len(names) == 0 {
		return "the argument"
	}
	return strings.Trim(names[min(i, len(names)-1)], "[]")
}

func add(root *cobra.Command, group string, cmds ...*cobra.Command) {
	for _, c := range cmds {
		c.GroupID = group
		root.AddCommand(c)
	}
}

// parent makes a command that only holds others. Naming none of them lists,
// where there is a list, and else prints the help; naming a wrong one is an
// error.
func parent(use, short string, aliases []string, cmds ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Aliases: aliases, Args: func(c *cobra.Command, args []string) error {
		if len(args) > 0 {
			return hint(usagef("unknown command %q for %q", args[0], c.CommandPath()), "%s --help lists them", c.CommandPath())
		}
		return nil
	}, RunE: func(c *cobra.Command, args []string) error {
		for _, sub := range cmds { // "perigee apps" is "perigee apps list"
			if sub.Name() == "list" {
				sub.SetContext(c.Context())
				return sub.RunE(sub, args)
			}
		}
		return c.Help()
	}}
	c.AddCommand(cmds...)
	return c
}

// exactArgs is cobra's ExactArgs with names in its words.
func exactArgs(names ...string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) == len(names) {
			return nil
		}
		if len(args) < len(names) {
			return hint(usagef("%s needs %s", c.CommandPath(), strings.Join(names[len(args):], " and ")), "usage: %s", c.UseLine())
		}
		return hint(usagef("%s takes %d arguments, not %d", c.CommandPath(), len(names), len(args)), "usage: %s", c.UseLine())
	}
}

func noArgs(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return hint(usagef("%s takes no argument, but got %q", c.CommandPath(), args[0]), "usage: %s", c.UseLine())
	}
	return nil
}

func maxArgs(n int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) > n {
			return hint(usagef("%s takes at most %d argument(s), not %d", c.CommandPath(), n, len(args)), "usage: %s", c.UseLine())
		}
		return nil
	}
}
