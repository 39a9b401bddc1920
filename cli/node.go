package cli

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/perigee-run/perigee/api"
	"github.com/spf13/cobra"
)

func nodeCmd(e *env) *cobra.Command {
	show := &cobra.Command{Use: "show [NODE]", Short: "Show what the node that answers is and has, or another one of the cloud", Args: maxArgs(1), Example: "  perigee node show --json\n  perigee node show fra1",
		RunE: func(c *cobra.Command, args []string) error {
			return e.showNode(c.Context(), strings.Join(args, ""))
		}}
	ca := &cobra.Command{Use: "ca", Short: "Print the certificate of the node's local CA, to trust it", Args: noArgs,
		Example: "  perigee node ca > ca.crt && curl --cacert ca.crt https://shop.perigee.localhost",
		RunE:    func(c *cobra.Command, _ []string) error { return e.nodeCA(c.Context()) }}
	return parent("node", "Look at nodes, let them join, and let them go", nil, show, ca, joinTokenCmd(e), joinTokensCmd(e),
		e.nodeVerb("cordon", "Keep new machines away from a node", (*api.Client).CordonNode, "%s takes no new machines"),
		e.nodeVerb("uncordon", "Let a node take machines again, and end its draining", (*api.Client).UncordonNode, "%s takes machines"),
		e.nodeVerb("rotate-key", "Have a node replace its WireGuard key; laptops that enter there need new files", (*api.Client).RotateNodeKey, "%s replaces its key as soon as the others know the next one"),
		drainCmd(e), upgradeCmd(e), removeNodeCmd(e), recoverNodesCmd(e))
}

func (e *env) nodeCA(ctx context.Context) error {
	client, err := e.client()
	if err != nil {
		return err
	}
	n, err := client.Node(ctx)
	if err != nil {
		return e.explain(err)
	}
	if n.CACert == "" {
		return hint(fmt.Errorf("the node has no local CA: its certificates come from ACME"), "browsers trust those already")
	}
	_, err = fmt.Fprint(e.Out, n.CACert)
	return err
}

func loginCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "login ADDRESS", Short: "Remember a node and its token, read from standard input or PERIGEE_TOKEN", Args: exactArgs("ADDRESS"),
		Example: "  perigee login http://203.0.113.7:4280 < token",
		RunE: func(c *cobra.Command, args []string) error {
			// Never that of the login: it is another cloud's.
			token := first(e.token, os.Getenv("PERIGEE_TOKEN"))
			if token == "" {
				if e.asks() {
					fmt.Fprint(e.Err, "Token: ")
				}
				fmt.Fscanln(e.In, &token)
			}
			client, err := api.NewClient(api.ClientConfig{Addr: args[0], Token: strings.TrimSpace(token)})
			if err != nil {
				return usageError{err}
			}
			e.addr = args[0]
			if _, err := client.CurrentTokens(c.Context()); err != nil {
				return e.explain(err)
			}
			if err := writeLogin(login{Addr: args[0], Token: strings.TrimSpace(token)}); err != nil {
				return err
			}
			return e.did("logged in to %s", args[0])
		},
	}
}

func showTokenCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "show", Short: "Print the token, for scripts and docker login", Args: noArgs,
		Example: "  perigee token show | docker login -u perigee --password-stdin localhost:4280",
		RunE: func(c *cobra.Command, _ []string) error {
			_, token, err := e.target()
			if err != nil {
				return err
			}
			if token == "" {
				return hint(fmt.Errorf("no token is known here"), "log in first: perigee login ADDRESS")
			}
			_, err = fmt.Fprintln(e.Out, token)
			return err
		},
	}
}
