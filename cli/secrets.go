package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sort"
	"strings"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/appconfig/dotenv"
	"github.com/spf13/cobra"
)

func secretsCmd(e *env) *cobra.Command {
	list := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List secrets by name and digest", Args: noArgs, Example: "  perigee secrets list",
		RunE: func(c *cobra.Command, _ []string) error { return e.secretsList(c.Context()) }}
	return parent("secrets", "Values that the app gets in its environment and nobody else sees", []string{"secret"}, list, secretsSetCmd(e), secretsImportCmd(e), secretsUnsetCmd(e), secretsDeployCmd(e))
}

func (e *env) secretsList(ctx context.Context) error {
	client, app, err := e.forApp()
	if err != nil {
		return err
	}
	all, err := client.AllSecrets(ctx, app)
	if err != nil {
		return e.explain(err)
	}
	secrets := slices.Concat(all.Secrets, all.Removed)
	slices.SortFunc(secrets, func(a, b api.Secret) int { return strings.Compare(a.Name, b.Name) })
	if e.json {
		return e.printJSON(secrets)
	}
	rows := make([][]string, len(secrets))
	for i, s := range secrets {
		rows[i] = []string{s.Name, s.Digest, secretStatus(s), ago(s.UpdatedAt)}
	}
	return e.table([]string{"NAME", "DIGEST", "STATUS", "UPDATED"}, rows)
}

func secretStatus(s api.Secret) string {
	if s.Status == api.SecretRemoved {
		return "staged for removal"
	}
	return first(s.Status, "-")
}

func secretsSetCmd(e *env) *cobra.Command {
	return e.changesSecrets(&cobra.Command{
		Use: "set NAME=VALUE ...", Short: "Set secrets and deploy them", Example: "  perigee secrets set DATABASE_URL=postgres://…\n  perigee secrets set KEY=value --stage",
	}, func(args []string) (map[string]*string, error) {
		if len(args) == 0 {
			return nil, hint(usagef("perigee secrets set needs NAME=VALUE"), "many at once from a file: perigee secrets import < file")
		}
		return parsePairs(args)
	})
}

func secretsImportCmd(e *env) *cobra.Command {
	return e.changesSecrets(&cobra.Command{
		Use: "import", Short: "Set secrets from standard input: lines of NAME=VALUE, as in a .env file", Args: noArgs, Example: "  perigee secrets import < .env",
	}, func([]string) (map[string]*string, error) {
		b, err := io.ReadAll(io.LimitReader(e.In, dotenv.Most+1))
		if err != nil {
			return nil, fmt.Errorf("cannot read the secrets from standard input: %w", err)
		}
		values, err := dotenv.Parse(string(b))
		if err != nil {
			return nil, usageError{err}
		}
		if len(values) == 0 {
			return nil, usagef("standard input has no line of NAME=VALUE")
		}
		return values, nil
	})
}

func secretsUnsetCmd(e *env) *cobra.Command {
	return e.changesSecrets(&cobra.Command{
		Use: "unset NAME ...", Short: "Remove secrets and deploy without them", Args: cobra.MinimumNArgs(1), Example: "  perigee secrets unset KEY",
	}, func(args []string) (map[string]*string, error) {
		values := map[string]*string{}
		for _, a := range args {
			values[a] = nil
		}
		return values, nil
	})
}

// changesSecrets completes a command that changes the secrets that read
// returns; a nil value removes one.
func (e *env) changesSecrets(c *cobra.Command, read func(args []string) (map[string]*string, error)) *cobra.Command {
	var stage bool
	c.RunE = func(c *cobra.Command, args []string) error {
		values, err := read(args)
		if err != nil {
			return err
		}
		return e.setSecrets(c.Context(), values, stage)
	}
	c.Flags().BoolVar(&stage, "stage", false, "only keep the change; the next deploy brings it to the machines")
	return c
}

func parsePairs(args []string) (map[string]*string, error) {
	values := map[string]*string{}
	for _, a := range args {
		k, v, ok := strings.Cut(a, "=")
		if !ok || k == "" {
			// The text may be a secret that lost its name: do not print it.
			return nil, usagef("a secret is written NAME=VALUE; one of the arguments is not")
		}
		values[k] = &v
	}
	return values, nil
}

func (e *env) setSecrets(ctx context.Context, values map[string]*string, stage bool) error {
	client, app, err := e.forApp()
	if err != nil {
		return err
	}
	r, err := client.SetSecrets(ctx, app, values)
	if err != nil {
		return e.explain(err)
	}
	names := make([]string, 0, len(values))
	for n := range values {
		names = append(names, n)
	}
	sort.Strings(names)
	machines, err := client.ListMachines(ctx, app)
	if err != nil {
		return e.explain(err)
	}
	if stage || len(machines) == 0 {
		if e.json {
			return e.printJSON(r)
		}
		return e.did("staged %s; perigee secrets deploy, or the next deploy, brings the change to the machines", strings.Join(names, ", "))
	}
	if !e.json {
		fmt.Fprintf(e.Err, "%s changed %s\n", e.paint(green, "✓"), strings.Join(names, ", "))
	}
	return e.rollSecrets(ctx, client, app, machines, "secrets changed")
}

func secretsDeployCmd(e *env) *cobra.Command {
	return &cobra.Command{Use: "deploy", Short: "Bring staged secrets to the machines", Args: noArgs, Example: "  perigee secrets deploy",
		RunE: func(c *cobra.Command, _ []string) error { return e.deploySecrets(c.Context()) }}
}

func (e *env) deploySecrets(ctx context.Context) error {
	client, app, err := e.forApp()
	if err != nil {
		return err
	}
	machines, err := client.ListMachines(ctx, app)
	if err != nil {
		return e.explain(err)
	}
	if len(machines) == 0 {
		return e.nobodyToTell(ctx, client, app)
	}
	return e.rollSecrets(ctx, client, app, machines, "secrets deployed")
}

// nobodyToTell says why secrets cannot be deployed to an app without machines.
func (e *env) nobodyToTell(ctx context.Context, client *api.Client, app string) error {
	a, err := client.GetApp(ctx, app)
	if err != nil {
		return e.explain(err)
	}
	if a.Release == 0 {
		return hint(usagef("app %s has no release and no machine yet: nothing is there that could get its secrets", app), "they are kept; the first deploy brings them along: perigee deploy")
	}
	return hint(usagef("app %s has no machine now: nothing is there that could get its secrets", app), "they are kept; machines that are made later have them: perigee scale count 1")
}

// rollSecrets brings the secrets to the machines: by a release, where the app has
// one, else machine by machine.
func (e *env) rollSecrets(ctx context.Context, client *api.Client, app string, machines []api.Machine, why string) error {
	a, err := client.GetApp(ctx, app)
	if err != nil {
		return e.explain(err)
	}
	if a.Release > 0 {
		return e.stream(ctx, client, app, client.Deploy(ctx, app, api.DeployRequest{Description: why}))
	}
	for _, m := range machines {
		asleep := m.State != api.StateStarted && m.State != api.StateStarting
		if _, err := client.UpdateMachine(ctx, app, m.ID, api.CreateMachineRequest{Config: m.Config, SkipLaunch: asleep}); err != nil {
			return e.explain(err)
		}
		if !e.json {
			fmt.Fprintf(e.Err, "%s machine %s has them\n", e.paint(green, "✓"), m.ID)
		}
	}
	if e.json {
		return e.printJSON(map[string]int{"machines": len(machines)})
	}
	return nil
}
