package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/region"
	"github.com/spf13/cobra"
)

func nodesCmd(e *env) *cobra.Command {
	return &cobra.Command{Use: "nodes", Short: "List the nodes of the cloud", Args: noArgs, Example: "  perigee nodes\n  perigee nodes --json",
		RunE: func(c *cobra.Command, _ []string) error { return e.listNodes(c.Context()) }}
}

func (e *env) listNodes(ctx context.Context) error {
	client, err := e.client()
	if err != nil {
		return err
	}
	nodes, err := client.ListNodes(ctx)
	if err != nil {
		return e.explain(err)
	}
	if e.json {
		return e.printJSON(nodes)
	}
	rows := make([][]string, len(nodes))
	for i, n := range nodes {
		rows[i] = []string{n.Name, n.Region, strings.Join(n.Roles, ","), yes(n.Member), n.Address, n.Version, nodeState(n)}
	}
	return e.table([]string{"NAME", "REGION", "ROLES", "MEMBER", "ADDRESS", "VERSION", "STATE"}, rows)
}

// nodeState adds what a node is otherwise to a node that is down.
func nodeState(n api.ClusterNode) string {
	switch {
	case n.Up && n.State == "draining":
		return n.State + ": " + leftHere(n)
	case n.Up:
		return n.State
	case n.Draining:
		return n.State + ", draining"
	case n.Cordoned:
		return n.State + ", cordoned"
	}
	return n.State
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "-"
}

// showNode shows a node of the cloud; without a name, the one that answers.
func (e *env) showNode(ctx context.Context, name string) error {
	client, err := e.client()
	if err != nil {
		return err
	}
	here, err := client.Node(ctx)
	if err != nil {
		return e.explain(err)
	}
	if e.json && name == "" {
		return e.printJSON(here)
	}
	n, err := client.GetNode(ctx, first(name, here.Name))
	if err != nil {
		return e.explain(err)
	}
	if e.json {
		return e.printJSON(n)
	}
	return e.nodePage(n, here)
}

// nodePage is what is known of a node, and what the one that answers knows of
// itself alone.
func (e *env) nodePage(n api.ClusterNode, here api.NodeInfo) error {
	size, registry := "", ""
	if n.CPUs > 0 {
		size = fmt.Sprintf("%s, %d MiB", count(n.CPUs, "CPU"), n.MemoryMB)
	}
	if n.Self {
		registry = here.Registry
		e.problems(here)
	}
	return e.facts("node", n.Name, "region", n.Region, "state", nodeState(n), "roles", strings.Join(n.Roles, ", "), "member", yes(n.Member),
		"address", n.Address, "number", strconv.FormatUint(uint64(n.Number), 10), "version", n.Version, "apps at", "*."+here.Domain, "http", n.HTTP, "https", n.HTTPS,
		"registry", registry, "size", size, "machines", strconv.Itoa(n.Machines), "requests", strconv.Itoa(n.Requests),
		"started", ago(n.StartedAt), "last heard of", ago(n.SeenAt), "last upgrade", n.Fault, "joined", ago(n.JoinedAt), "certified", ago(n.CertifiedAt))
}

// problems warns of what a node says is amiss.
func (e *env) problems(n api.NodeInfo) {
	for _, p := range n.Problems {
		text := p.Name + ": " + p.Fault
		if p.Cure != "" {
			text += "; " + p.Cure
		}
		fmt.Fprintln(e.Err, e.paint(yellow, "warning:"), plainText(text))
	}
}

// nodeVerb is a command that does one thing to a node.
func (e *env) nodeVerb(use, short string, do func(*api.Client, context.Context, string) error, done string) *cobra.Command {
	return &cobra.Command{Use: use + " NODE", Short: short, Args: exactArgs("NODE"), Example: "  perigee node " + use + " fra1",
		RunE: func(c *cobra.Command, args []string) error {
			client, err := e.client()
			if err != nil {
				return err
			}
			if err := do(client, c.Context(), args[0]); err != nil {
				return e.explain(err)
			}
			return e.did(done, args[0])
		}}
}

func drainCmd(e *env) *cobra.Command {
	var wait time.Duration
	c := &cobra.Command{
		Use: "drain NODE", Short: "Move everything away from a node, and wait until it is empty", Args: exactArgs("NODE"),
		Long: `Move everything away from a node, and wait until it is empty: it gets no new
machines, its machines are replaced on other nodes, clients are led to other
edges, and what is in progress ends. perigee node uncordon ends the draining.
Machines with volumes stay.`,
		Example: "  perigee node drain fra1\n  perigee node drain fra1 --wait 0",
		RunE:    func(c *cobra.Command, args []string) error { return e.drain(c.Context(), args[0], wait) },
	}
	c.Flags().DurationVar(&wait, "wait", 10*time.Minute, "how long to wait until it is empty; 0 does not wait")
	return c
}

func (e *env) drain(ctx context.Context, name string, wait time.Duration) error {
	client, err := e.client()
	if err != nil {
		return err
	}
	if err := client.DrainNode(ctx, name); err != nil {
		return e.explain(err)
	}
	if wait <= 0 {
		return e.did("%s drains", name)
	}
	if err := e.awaitDrained(ctx, client, name, wait); err != nil {
		return err
	}
	return e.did("%s is empty", name)
}

// drainPoll is how often a draining node is looked at.
const drainPoll = 250 * time.Millisecond

// awaitDrained shows what is left on a draining node until nothing is. A node
// that does not answer for a moment may be the one that was asked.
func (e *env) awaitDrained(ctx context.Context, client *api.Client, name string, wait time.Duration) error {
	ends, failing, shown := time.After(wait), time.Time{}, ""
	for view := e.newProgress(); ; {
		n, err := client.GetNode(ctx, name)
		switch {
		case err == nil && !n.Draining:
			return hint(fmt.Errorf("node %q does not drain any more: somebody ended it", name), "begin again with perigee node drain %s", name)
		case err == nil && !n.Up:
			return hint(fmt.Errorf("node %q is down: it cannot say that it is empty", name), "wait for it, or remove it with perigee node remove %s", name)
		case err == nil && n.Drained():
			return nil
		case err == nil:
			failing = time.Time{}
			if text := left(n); text != shown {
				view.note("%s", text)
				shown = text
			}
		case refused(err) || !failing.IsZero() && time.Since(failing) > patience:
			return e.explain(err)
		case failing.IsZero():
			failing = time.Now()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ends:
			return hint(fmt.Errorf("node %q is not empty after %s: %s", name, wait, first(shown, "it did not answer")), "it goes on draining; look again with perigee node show %s", name)
		case <-time.After(drainPoll):
		}
	}
}

func left(n api.ClusterNode) string {
	text := fmt.Sprintf("%s and %s are left on %s", count(n.Machines, "machine"), count(n.Requests, "request"), n.Name)
	if n.Leaving {
		text += ", and clients may still come in there"
	}
	return text
}

// leftHere is left in short.
func leftHere(n api.ClusterNode) string {
	text := count(n.Machines, "machine") + ", " + count(n.Requests, "request")
	if n.Leaving {
		text += ", clients"
	}
	return text
}

func removeNodeCmd(e *env) *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use: "remove NODE", Aliases: []string{"rm"}, Short: "End a node's membership: no other node speaks to it again", Args: exactArgs("NODE"),
		Long: `End a node's membership: its certificate is refused from now on. A node that is
up must be drained before, or --force be given. One without which the others could
not decide is never removed: drain it, and its part of the state is handed over.
The machines of a node that was lost are made anew elsewhere. A removed server joins
again with an empty data directory and a new token; its name is free.`,
		Example: "  perigee node remove fra1\n  perigee node remove fra1 --force",
		RunE: func(c *cobra.Command, args []string) error {
			client, err := e.client()
			if err != nil {
				return err
			}
			if err := client.RemoveNode(c.Context(), args[0], force); err != nil {
				return e.explain(err)
			}
			return e.did("removed %s", args[0])
		},
	}
	c.Flags().BoolVar(&force, "force", false, "also a node that is up and not drained")
	return c
}

func recoverNodesCmd(e *env) *cobra.Command {
	var lost []string
	c := &cobra.Command{
		Use: "recover --lost NODE", Short: "Go on without nodes that are lost for good, where most of the state's members are", Args: noArgs,
		Long: `Go on without nodes that are lost for good, disks and all, where so many of those
that keep the cloud's state are among them that nothing can be decided any more.
They are removed, and those that are left decide. Ask a node that keeps the state
and is left. What was written to none but the lost ones is lost with them. A node that
merely is down or cut off must not be named: start it instead.`,
		Example: "  perigee node recover --lost fra1 --lost syd1",
		RunE: func(c *cobra.Command, _ []string) error {
			if len(lost) == 0 {
				return usagef("--lost is missing: name each node that is lost for good")
			}
			client, err := e.client()
			if err != nil {
				return err
			}
			if err := client.RecoverNodes(c.Context(), lost...); err != nil {
				return e.explain(err)
			}
			return e.did("removed %s; the state goes on without", strings.Join(lost, " and "))
		},
	}
	c.Flags().StringSliceVar(&lost, "lost", nil, "a node that is lost for good; repeat it for each")
	return c
}

// joinTokenCmd makes tokens, and holds the verb that ends them.
func joinTokenCmd(e *env) *cobra.Command {
	var req api.CreateJoinTokenRequest
	var ttl time.Duration
	c := &cobra.Command{
		Use: "token", Short: "Make a token by which a server joins the cloud", Args: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return hint(usagef("unknown command %q for %q", args[0], c.CommandPath()), "%s --help lists them", c.CommandPath())
			}
			return nil
		},
		Long: `Make a token by which a server joins the cloud, and print it. It is shown once.
Who has it can make a server of theirs a node, which gets the keys of the
cloud's secrets: hand it over as you would a password.`,
		Example: "  perigee node token\n  perigee node token --ttl 10m --uses 3 --region fra --roles host,edge",
		RunE: func(c *cobra.Command, _ []string) error {
			req.TTL = api.D(ttl)
			return e.makeJoinToken(c.Context(), req)
		},
	}
	f := c.Flags()
	f.DurationVar(&ttl, "ttl", time.Hour, "how long it can be used")
	f.IntVar(&req.Uses, "uses", 1, "how many nodes can join with it")
	f.StringVar(&req.Region, "region", "", "only for nodes of this region")
	f.StringSliceVar(&req.Roles, "roles", nil, "only for nodes with none but these roles")
	c.AddCommand(&cobra.Command{Use: "revoke ID", Short: "Make a join token useless", Args: exactArgs("ID"), Example: "  perigee node token revoke abcd2345",
		RunE: func(c *cobra.Command, args []string) error {
			client, err := e.client()
			if err != nil {
				return err
			}
			if err := client.RevokeJoinToken(c.Context(), args[0]); err != nil {
				return e.explain(err)
			}
			return e.did("revoked %s", args[0])
		}})
	return c
}

func (e *env) makeJoinToken(ctx context.Context, req api.CreateJoinTokenRequest) error {
	if req.Uses < 1 {
		return usagef("--uses is %d; it must be at least 1", req.Uses)
	}
	client, err := e.client()
	if err != nil {
		return err
	}
	tok, err := client.CreateJoinToken(ctx, req)
	if err != nil {
		return e.explain(err)
	}
	if e.json {
		return e.printJSON(tok)
	}
	if _, err := fmt.Fprintln(e.Out, tok.Token); err != nil {
		return err
	}
	if _, city := region.Lookup(req.Region); req.Region != "" && !city {
		fmt.Fprintf(e.Err, "%s region %q is no city that Perigee knows: how far it is from others is not known before it is measured\n", e.paint(yellow, "warning:"), req.Region)
	}
	_, err = fmt.Fprintf(e.Err, "Until %s, on the new server: %s\n", tok.ExpiresAt.Local().Format("15:04:05 on 2006-01-02"), joinLine(tok))
	return err
}

// joinLine is the command that a token is for.
func joinLine(tok api.JoinToken) string {
	line := "sudo perigee join " + tok.Address + " --token TOKEN --region " + first(tok.Region, "CITY")
	if len(tok.Roles) > 0 {
		line += " --roles " + strings.Join(tok.Roles, ",")
	}
	return line
}

func joinTokensCmd(e *env) *cobra.Command {
	return &cobra.Command{Use: "tokens", Short: "List join tokens, without their secrets", Args: noArgs, Example: "  perigee node tokens",
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := e.client()
			if err != nil {
				return err
			}
			tokens, err := client.ListJoinTokens(c.Context())
			if err != nil {
				return e.explain(err)
			}
			if e.json {
				return e.printJSON(tokens)
			}
			rows := make([][]string, len(tokens))
			for i, t := range tokens {
				rows[i] = []string{t.ID, t.State, strconv.Itoa(t.UsesLeft), t.ExpiresAt.Local().Format(time.DateTime), first(t.Region, "any"), first(strings.Join(t.Roles, ","), "any"), first(strings.Join(t.Nodes, ","), "-")}
			}
			return e.table([]string{"ID", "STATE", "USES LEFT", "EXPIRES", "REGION", "ROLES", "USED BY"}, rows)
		}}
}
