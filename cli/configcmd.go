package cli

import (
	"fmt"
	"path/filepath"

	"github.com/perigee-run/perigee/appconfig"
	"github.com/spf13/cobra"
)

// loadConfig reads the configuration of a folder, or the file that --config
// names, prints its warnings, and returns it with the folder it stands in.
// --app wins over the file; with --app alone no file is needed.
func (e *env) loadConfig(dir string) (*appconfig.Config, string, error) {
	path := e.config
	if path == "" {
		found, err := appconfig.Find(dir)
		if err != nil {
			if e.app != "" {
				return &appconfig.Config{App: e.app}, dir, nil
			}
			return nil, "", hint(usageError{err}, "perigee launch writes one")
		}
		path = found
	}
	cfg, warnings, err := appconfig.Load(path)
	if err != nil {
		return nil, "", usageError{err}
	}
	for _, w := range warnings {
		fmt.Fprintln(e.Err, e.paint(yellow, "warning:"), w)
	}
	if e.app != "" {
		cfg.App = e.app
	}
	e.loaded = path
	return cfg, filepath.Dir(path), nil
}

// appName finds the app to act on: --app, or the configuration here.
func (e *env) appName() (string, error) {
	if e.app != "" {
		return e.app, nil
	}
	path := e.config
	if path == "" {
		found, err := appconfig.Find(".")
		if err != nil {
			return "", hint(usagef("no app is named, and this folder has no perigee.toml"), "name one with --app; perigee apps lists them")
		}
		path = found
	}
	cfg, _, err := appconfig.Load(path)
	if err != nil {
		return "", usageError{err}
	}
	if cfg.App == "" {
		return "", hint(usagef("%s names no app", path), "add app = \"name\" to it, or use --app")
	}
	return cfg.App, nil
}

func configCmd(e *env) *cobra.Command {
	validate := &cobra.Command{
		Use: "validate [FILE]", Short: "Check a configuration", Args: maxArgs(1),
		Example: "  perigee config validate\n  perigee config validate fly.toml",
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 1 {
				e.config = args[0]
			}
			cfg, dir, err := e.loadConfig(".")
			if err != nil {
				return err
			}
			if _, err := appconfig.MachineConfigs(cfg, dir); err != nil {
				return usageError{err}
			}
			if cfg.App == "" {
				fmt.Fprintln(e.Err, e.paint(yellow, "warning:"), "no app is named: deploy will need --app")
			}
			if e.json {
				return e.printJSON(map[string]any{"valid": true, "app": cfg.App})
			}
			fmt.Fprintf(e.Out, "%s the configuration is valid\n", e.paint(green, "✓"))
			return nil
		},
	}
	show := &cobra.Command{
		Use: "show [FILE]", Short: "Print a configuration in its canonical form", Args: maxArgs(1),
		Example: "  perigee config show\n  perigee config show fly.toml > perigee.toml",
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 1 {
				e.config = args[0]
			}
			cfg, _, err := e.loadConfig(".")
			if err != nil {
				return err
			}
			if e.json {
				return e.printJSON(cfg)
			}
			b, err := cfg.TOML()
			if err != nil {
				return err
			}
			_, err = e.Out.Write(b)
			return err
		},
	}
	return parent("config", "Check and show configurations", nil, validate, show)
}
