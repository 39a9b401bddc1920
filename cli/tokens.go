package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/token/caveat"
	"github.com/spf13/cobra"
)

func tokenCmd(e *env) *cobra.Command {
	return parent("tokens", "Make, look at and narrow tokens; log in with one", []string{"token"},
		tokensCreateCmd(e), tokensListCmd(e), tokensRevokeCmd(e), tokensAttenuateCmd(e), tokensInspectCmd(e), loginCmd(e), showTokenCmd(e))
}

func tokensCreateCmd(e *env) *cobra.Command {
	kind := func(use, kind, short, example string, args cobra.PositionalArgs) *cobra.Command {
		var org string
		req := api.CreateTokenRequest{Kind: kind}
		c := &cobra.Command{Use: use, Short: short, Args: args, Example: example, RunE: func(c *cobra.Command, args []string) error {
			req.App = e.app
			if needsApp := kind == api.TokenDeploy || kind == api.TokenMachineExec; needsApp {
				var err error
				if req.App, err = e.appName(); err != nil {
					return err
				}
			}
			if len(args) > 0 {
				req.Commands = append(req.Commands, args)
			}
			return e.createToken(c.Context(), org, req)
		}}
		forOrg(c, &org)
		c.Flags().StringVar(&req.Name, "name", "", "name, for lists")
		c.Flags().StringVarP(&req.Expiry, "expiry", "x", "", "how long it is valid, such as 24h (default: as long as its maker, at most 20 years)")
		if kind == api.TokenMachineExec || kind == api.TokenSSH {
			c.Flags().StringSliceVar(&req.Machines, "machine", nil, "only this machine; repeated")
		}
		return c
	}
	return parent("create", "Make a token; its text is printed this once", nil,
		kind("org", api.TokenOrg, "Everything in an org", "  perigee tokens create org --name ops", noArgs),
		kind("deploy", api.TokenDeploy, "Everything in one app but to destroy it", "  perigee tokens create deploy --app shop --expiry 24h", noArgs),
		kind("readonly", api.TokenReadOnly, "See an org, or with --app one app", "  perigee tokens create readonly --app shop", noArgs),
		kind("ssh", api.TokenSSH, "Certificates and sessions, in an org or with --app one app", "  perigee tokens create ssh --app shop\n  perigee tokens create ssh --app shop --machine 3d8d9014b32789", noArgs),
		kind("machine-exec [COMMAND ...]", api.TokenMachineExec, "Run commands in an app's machines, or with COMMAND that one only; ... at its end stands for any more arguments",
			"  perigee tokens create machine-exec --app shop\n  perigee tokens create machine-exec --app shop --machine 3d8d9014b32789 -- pg_dump ...", nil))
}

func (e *env) createToken(ctx context.Context, org string, req api.CreateTokenRequest) error {
	client, err := e.client()
	if err != nil {
		return err
	}
	r, err := client.CreateToken(ctx, org, req)
	if err != nil {
		return e.explain(err)
	}
	if e.json {
		return e.printJSON(r)
	}
	fmt.Fprintf(e.Err, "%s token %s of kind %s, until %s; its text is shown this once:\n", e.paint(green, "✓"), r.ID, r.Kind, r.ExpiresAt.Format(time.RFC3339))
	_, err = fmt.Fprintln(e.Out, r.Token)
	return err
}

func tokensListCmd(e *env) *cobra.Command {
	var org string
	c := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List an org's tokens, without their texts", Args: noArgs, Example: "  perigee tokens list\n  perigee tokens list --org acme --json",
		RunE: func(c *cobra.Command, _ []string) error { return e.listTokens(c.Context(), org) }}
	forOrg(c, &org)
	return c
}

func (e *env) listTokens(ctx context.Context, org string) error {
	client, err := e.client()
	if err != nil {
		return err
	}
	all, err := client.ListTokens(ctx, org)
	if err != nil {
		return e.explain(err)
	}
	if e.json {
		return e.printJSON(all)
	}
	rows := make([][]string, len(all))
	for i, t := range all {
		rows[i] = []string{t.ID, t.Kind, first(t.Name, "-"), first(t.App, "-"), tokenState(t), ago(t.CreatedAt), first(usedAgo(t.LastUsed), "-"), t.CreatedBy}
	}
	return e.table([]string{"ID", "KIND", "NAME", "APP", "STATE", "CREATED", "USED", "BY"}, rows)
}

func usedAgo(t *time.Time) string {
	if t == nil {
		return ""
	}
	return ago(*t)
}

// tokenState says whether a token is still good for something.
func tokenState(t api.TokenInfo) string {
	switch {
	case t.RevokedAt != nil:
		return "revoked"
	case t.ExpiresAt != nil && time.Now().After(*t.ExpiresAt):
		return "expired"
	case t.ExpiresAt != nil:
		return "until " + t.ExpiresAt.Format("2006-01-02")
	}
	return "valid"
}

func tokensRevokeCmd(e *env) *cobra.Command {
	var org string
	c := &cobra.Command{Use: "revoke ID", Short: "Make a token useless, at once and for good", Args: exactArgs("ID"), Example: "  perigee tokens revoke 3f9c0a1b2d4e5f60",
		RunE: func(c *cobra.Command, args []string) error {
			client, err := e.client()
			if err != nil {
				return err
			}
			if err := client.RevokeToken(c.Context(), org, args[0]); err != nil {
				return e.explain(err)
			}
			return e.did("revoked %s, and every token narrowed from it", args[0])
		}}
	forOrg(c, &org)
	return c
}

// ownToken is the token to look at or to narrow: of the input where something is
// sent, else the one in use.
func (e *env) ownToken() (caveat.Token, error) {
	text, err := e.sentToken()
	if err == nil && text == "" {
		_, text, err = e.target()
	}
	if err != nil {
		return caveat.Token{}, err
	}
	if text == "" {
		return caveat.Token{}, hint(usagef("there is no token"), "give it on standard input, in PERIGEE_TOKEN, or log in: perigee login ADDRESS")
	}
	t, err := caveat.Read(text)
	if err != nil {
		return caveat.Token{}, hint(usageError{err}, "the cloud's own token has no limits in it; perigee tokens create makes others")
	}
	return t, nil
}

// sentToken is what is on standard input, "" where that is a person or empty.
func (e *env) sentToken() (string, error) {
	if e.asks() || e.In == nil {
		return "", nil
	}
	b, err := io.ReadAll(io.LimitReader(e.In, 1<<16))
	if err != nil {
		return "", fmt.Errorf("cannot read the token from standard input: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

func tokensInspectCmd(e *env) *cobra.Command {
	return &cobra.Command{Use: "inspect", Short: "Show the limits in a token, read from standard input, PERIGEE_TOKEN or the login; no node is asked", Args: noArgs,
		Example: "  perigee tokens inspect < token",
		RunE: func(*cobra.Command, []string) error {
			t, err := e.ownToken()
			if err != nil {
				return err
			}
			if e.json {
				return e.printJSON(map[string]any{"id": t.ID(), "limits": t.Lines()})
			}
			rows := [][]string{{"id", t.ID()}}
			for _, line := range t.Lines() {
				name, value, _ := strings.Cut(line, " ")
				rows = append(rows, []string{name, value})
			}
			return e.table([]string{"LIMIT", "VALUE"}, rows)
		}}
}

func tokensAttenuateCmd(e *env) *cobra.Command {
	var n narrowing
	c := &cobra.Command{Use: "attenuate [COMMAND ...]", Short: "Make a narrower token of one, read from standard input, PERIGEE_TOKEN or the login; no node is asked",
		Example: "  perigee tokens attenuate --app shop --read-only --expires 1h < token\n  perigee tokens attenuate --actions reads,execs --machine 3d8d9014b32789 -- psql ...",
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				n.command = args
			}
			if e.app != "" {
				n.apps = strings.Split(e.app, ",")
			}
			return e.attenuate(n)
		}}
	f := c.Flags()
	f.StringVar(&n.org, "org", "", "only this org")
	f.StringSliceVar(&n.machines, "machine", nil, "only this machine; repeated")
	f.StringSliceVar(&n.actions, "actions", nil, "only these classes of calls: reads, changes, execs, shells, owns")
	f.BoolVar(&n.readOnly, "read-only", false, "only to look: the same as --actions reads")
	f.DurationVar(&n.expires, "expires", 0, "valid for this long, such as 1h")
	f.DurationVar(&n.after, "not-before", 0, "valid only after this time, such as 10m")
	return c
}

// narrowing is what a narrower token is to be limited to.
type narrowing struct {
	org                     string
	apps, machines, actions []string
	command                 []string
	readOnly                bool
	expires, after          time.Duration
}

func (n narrowing) limits(now time.Time) (out []caveat.Caveat) {
	if n.readOnly {
		n.actions = []string{"reads"}
	}
	if n.org != "" {
		out = append(out, caveat.Caveat{Name: caveat.Org, Words: []string{n.org}})
	}
	for _, l := range []struct {
		name  string
		words []string
	}{{caveat.Apps, n.apps}, {caveat.Machines, n.machines}, {caveat.Actions, n.actions}} {
		if len(l.words) > 0 {
			out = append(out, caveat.Caveat{Name: l.name, Words: l.words})
		}
	}
	if len(n.command) > 0 {
		out = append(out, caveat.Caveat{Name: caveat.Commands, Commands: [][]string{n.command}})
	}
	if n.after > 0 {
		out = append(out, caveat.Caveat{Name: caveat.NotBefore, Time: now.Add(n.after)})
	}
	if n.expires > 0 {
		out = append(out, caveat.Caveat{Name: caveat.Expires, Time: now.Add(n.expires)})
	}
	return out
}

// actions are the classes that a token can be limited to.
var actions = map[string]bool{"reads": true, "changes": true, "execs": true, "shells": true, "owns": true}

func (e *env) attenuate(n narrowing) error {
	for _, a := range n.actions {
		if !actions[a] {
			return hint(usagef("there is no class of calls %q", a), "reads, changes, execs, shells, owns")
		}
	}
	if n.expires < 0 || n.after < 0 {
		return usagef("a time span is not below zero")
	}
	limits := n.limits(time.Now())
	if len(limits) == 0 {
		return hint(usagef("no limit is given"), "--app, --org, --machine, --actions, --read-only, --expires, --not-before, or a command")
	}
	t, err := e.ownToken()
	if err != nil {
		return err
	}
	if t, err = t.With(limits...); err != nil {
		return usageError{err}
	}
	if e.json {
		return e.printJSON(map[string]any{"token": t.String(), "id": t.ID(), "limits": t.Lines()})
	}
	_, err = fmt.Fprintln(e.Out, t.String())
	return err
}
