// Command bench measures what Perigee promises, with peers in the same run,
// and prints a table for each promise: make bench.
//
// It starts a node of its own in a temporary directory and in a network
// namespace of its own, with real images made of Debian packages. Rounds of all
// contenders are interleaved, so that a noisy machine is noisy to all of them;
// figures are medians. It judges nothing: the goal stands beside the figure.
// docs/benchmarks.md says how to read the tables. A new figure is a new file
// with a function named in the list below.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

type bench struct {
	bin    string
	work   string
	only   string
	rounds int
	loop   int
	cpus   int
	cloud  *cloud
	images map[string]*benchImage
	// nodejs is what the Node.js apps run on.
	nodejs string
}

var figures = []struct {
	name string
	run  func(*bench, context.Context) error
	lab  bool // it starts nodes of its own, in the lab
}{
	{"wake", (*bench).wakeFigure, false},
	{"deploy", (*bench).deployFigure, false},
	{"idle", (*bench).idleFigure, false},
	{"sleepers", (*bench).sleepersFigure, false},
	{"loop", (*bench).loopFigure, false},
	{"flyctl", (*bench).flyctlFigure, false},
	{"api", (*bench).apiFigure, false},
	{"catalog", (*bench).catalogFigure, true},
	{"cities", (*bench).citiesFigure, true},
}

func main() {
	b := &bench{images: map[string]*benchImage{}}
	flag.StringVar(&b.only, "only", "", "figures to measure, separated by commas: "+names()+" (default all)")
	flag.StringVar(&b.bin, "bin", "bin", "folder of the programs")
	flag.IntVar(&b.rounds, "rounds", 9, "rounds of each measurement")
	flag.IntVar(&b.loop, "loop", 500, "machines to make, start and destroy")
	flag.IntVar(&b.cpus, "cpus", 0, "processors of a machine (default: the node's default)")
	app := flag.String("app", "", "internal: be the app of the cities' figures, at this address")
	flag.StringVar(&b.work, "inside", "", "internal: the work folder of the process that has its own network namespace")
	catalogNode := flag.Bool("catalog-node", false, "internal: be a node of the figure \"catalog\"")
	flag.Parse()
	if *catalogNode {
		end(serveCatalogNode())
	}
	if *app != "" {
		end(serveApp(*app))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	signal.Ignore(syscall.SIGPIPE) // a reader that leaves must not leave a node behind
	err := b.start(ctx)
	stop()
	end(err)
}

// end leaves with the exit code that an error asks for.
func end(err error) {
	switch {
	case err == nil:
		os.Exit(0)
	case !errors.Is(err, errInside):
		fmt.Fprintln(os.Stderr, "Error:", err)
	}
	os.Exit(1)
}

func names() string {
	var all []string
	for _, f := range figures {
		all = append(all, f.name)
	}
	return strings.Join(all, ",")
}

func (b *bench) wants(figure string) bool {
	return b.only == "" || slices.Contains(strings.Split(b.only, ","), figure)
}

// needsNode reports whether a figure is wanted that is measured at a node with
// machines of Debian's packages.
func (b *bench) needsNode() bool {
	for _, f := range figures {
		if !f.lab && b.wants(f.name) {
			return true
		}
	}
	return false
}

func (b *bench) start(ctx context.Context) (err error) {
	if err := b.check(); err != nil {
		return err
	}
	if b.work == "" {
		return b.reexec(ctx)
	}
	if err := loopbackUp(); err != nil {
		return err
	}
	return b.run(ctx)
}

func (b *bench) check() (err error) {
	if os.Geteuid() != 0 {
		return fmt.Errorf("machines need root; hint: run it with sudo")
	}
	for _, n := range strings.Split(b.only, ",") {
		if n != "" && !slices.Contains(strings.Split(names(), ","), n) {
			return fmt.Errorf("there is no figure %q; hint: there are %s", n, names())
		}
	}
	if b.bin, err = filepath.Abs(b.bin); err != nil {
		return err
	}
	if _, err = os.Stat(filepath.Join(b.bin, "perigeed")); err != nil {
		return fmt.Errorf("cannot find the programs: %w; hint: make build", err)
	}
	return nil
}

func (b *bench) run(ctx context.Context) (err error) {
	describeHost()
	defer b.leave()
	for _, f := range figures {
		if !b.wants(f.name) {
			continue
		}
		if err := b.ready(ctx, f.lab); err != nil {
			return err
		}
		began := time.Now()
		if err := f.run(b, ctx); err != nil {
			return fmt.Errorf("cannot measure %s: %w; the node's last words:\n%s", f.name, err, b.cloud.lastWords())
		}
		fmt.Printf("(measured in %.0f s)\n", time.Since(began).Seconds())
	}
	return nil
}

// ready starts the node that a figure needs, or ends it for one that is measured
// in the lab.
func (b *bench) ready(ctx context.Context, lab bool) (err error) {
	if lab {
		b.leave()
	}
	if lab || b.cloud != nil {
		return nil
	}
	if b.cloud, err = startCloud(ctx, b.bin, b.work, "pgbench", "fdaa::/16"); err != nil {
		return err
	}
	b.cloud.cpus = b.cpus
	return nil
}

// leave ends the node.
func (b *bench) leave() {
	if b.cloud != nil {
		b.cloud.stop()
		b.cloud = nil
	}
}
