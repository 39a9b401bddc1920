package cli

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/perigee-run/perigee/appconfig"
	"github.com/spf13/cobra"
)

type launchFlags struct {
	name, image string
	port        int
	noDeploy    bool
	force       bool
	autostop    string
	regions     []string
}

func launchCmd(e *env) *cobra.Command {
	var f launchFlags
	c := &cobra.Command{
		Use: "launch [FOLDER]", Short: "Write a perigee.toml for the app in a folder, and deploy it", Args: maxArgs(1),
		Example: `  perigee launch
  perigee launch ./shop --name shop --internal-port 3000
  perigee launch --region fra,iad,syd
  perigee launch --image nginx:1.27 --internal-port 80 --no-deploy`,
		RunE: func(c *cobra.Command, args []string) error {
			dir := "."
			if len(args) == 1 {
				dir = args[0]
			}
			return e.launch(c.Context(), dir, f)
		},
	}
	fl := c.Flags()
	fl.StringVar(&f.name, "name", "", "name of the app (default: the folder's)")
	fl.StringVar(&f.image, "image", "", "image to run instead of the folder's Dockerfile")
	fl.IntVar(&f.port, "internal-port", 0, "port that the app listens on (default: the Dockerfile's EXPOSE, else 8080)")
	fl.StringVar(&f.autostop, "auto-stop", "suspend", "what an idle machine does: off, stop or suspend")
	fl.StringSliceVarP(&f.regions, "region", "r", nil, "regions to run in, the primary one first, with commas between (default: the node's)")
	fl.BoolVar(&f.noDeploy, "no-deploy", false, "only write the file")
	fl.BoolVar(&f.force, "force", false, "replace a file that is there")
	return c
}

func (e *env) launch(ctx context.Context, dir string, f launchFlags) error {
	path, err := launchPath(dir, f)
	if err != nil {
		return err
	}
	cfg, err := launchConfig(dir, f)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path, []byte(cfg), 0o644); err != nil {
		return fmt.Errorf("cannot write the configuration: %w", err)
	}
	fmt.Fprintf(e.Out, "%s wrote %s\n", e.paint(green, "✓"), path)
	if f.noDeploy {
		fmt.Fprintln(e.Out, "Next: perigee deploy")
		return nil
	}
	e.config = path
	return e.deploy(ctx, deployFlags{dir: dir})
}

func launchPath(dir string, f launchFlags) (string, error) {
	if !isDir(dir) {
		return "", usagef("%s is not a folder", dir)
	}
	path := filepath.Join(dir, "perigee.toml")
	if found, err := appconfig.Find(dir); err == nil && !f.force {
		return "", hint(usagef("%s is there already", found), "perigee deploy uses it as it is; --force writes a new perigee.toml")
	}
	return path, nil
}

// launchConfig writes the smallest configuration that serves the app.
func launchConfig(dir string, f launchFlags) (string, error) {
	name := f.name
	if name == "" {
		abs, err := filepath.Abs(dir)
		if err != nil {
			return "", err
		}
		name = appName(filepath.Base(abs))
	}
	dockerfile := filepath.Join(dir, "Dockerfile")
	if f.image == "" && !isFile(dockerfile) {
		return "", hint(usagef("%s has no Dockerfile", dir), "write one, or name an image: perigee launch --image REF")
	}
	port := f.port
	if port == 0 {
		port = exposed(dockerfile)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "app = %q\n", name)
	b.WriteString(launchRegions(f.regions))
	if f.image != "" {
		fmt.Fprintf(&b, "\n[build]\n  image = %q\n", f.image)
	}
	fmt.Fprintf(&b, "\n[http_service]\n  internal_port = %d\n  force_https = true\n  auto_stop_machines = %q\n  auto_start_machines = true\n  min_machines_running = 0\n", port, f.autostop)
	b.WriteString("\n[[vm]]\n  size = \"shared-cpu-1x\"\n  memory = \"256mb\"\n")
	if _, _, err := appconfig.Parse("perigee.toml", []byte(b.String())); err != nil {
		return "", usageError{err}
	}
	return b.String(), nil
}

// launchRegions are the lines that say where the app runs.
func launchRegions(regions []string) string {
	if len(regions) == 0 {
		return ""
	}
	quoted := make([]string, len(regions))
	for i, r := range regions {
		quoted[i] = strconv.Quote(r)
	}
	return fmt.Sprintf("primary_region = %s\nregions = [%s]\n", quoted[0], strings.Join(quoted, ", "))
}

var notName = regexp.MustCompile(`[^a-z0-9]+`)

// appName makes a valid app name of a folder's name.
func appName(s string) string {
	s = strings.Trim(notName.ReplaceAllString(strings.ToLower(s), "-"), "-")
	if s == "" {
		return "app"
	}
	return strings.TrimRight(s[:min(len(s), 63)], "-")
}

// exposed returns the first port of the Dockerfile's last EXPOSE, else 8080.
func exposed(dockerfile string) int {
	port := 8080
	file, err := os.Open(dockerfile)
	if err != nil {
		return port
	}
	defer file.Close()
	for s := bufio.NewScanner(file); s.Scan(); {
		words := strings.Fields(s.Text())
		if len(words) < 2 || !strings.EqualFold(words[0], "EXPOSE") {
			continue
		}
		number, _, _ := strings.Cut(words[1], "/")
		if p, err := strconv.Atoi(number); err == nil {
			port = p
		}
	}
	return port
}
