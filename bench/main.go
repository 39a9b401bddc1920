// Command bench measures what Perigee promises, with peers in the same run,
// and prints a table for each promise: make bench.
//
// It starts a node of its own in a temporary directory and real images made of
// Debian packages. Rounds of all contenders are interleaved, so that a noisy
// machine is noisy to all of them; figures are medians. It judges nothing: the
// goal stands beside the figure. A new figure is a new file with a function
// named in the list below.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
)

type bench struct {
	bin    string
	work   string
	rounds int
	loop   int
	cloud  *cloud
	images map[string]*benchImage
}

var figures = []struct {
	name string
	run  func(*bench, context.Context) error
}{
	{"wake", (*bench).wakeFigure},
	{"deploy", (*bench).deployFigure},
	{"idle", (*bench).idleFigure},
	{"sleepers", (*bench).sleepersFigure},
	{"loop", (*bench).loopFigure},
}

func main() {
	b := &bench{images: map[string]*benchImage{}}
	only := flag.String("only", "", "figures to measure, separated by commas (default all)")
	flag.StringVar(&b.bin, "bin", "bin", "folder of the programs")
	flag.IntVar(&b.rounds, "rounds", 9, "rounds of each measurement")
	flag.IntVar(&b.loop, "loop", 500, "machines to make, start and destroy")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := b.run(ctx, *only); err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		os.Exit(1)
	}
}

func (b *bench) run(ctx context.Context, only string) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("machines need root; run it with sudo")
	}
	var err error
	if b.bin, err = filepath.Abs(b.bin); err != nil {
		return err
	}
	if b.work, err = os.MkdirTemp("", "pgbench"); err != nil {
		return err
	}
	defer os.RemoveAll(b.work)
	if b.cloud, err = startCloud(ctx, b.bin, b.work); err != nil {
		return err
	}
	defer b.cloud.stop()
	for _, f := range figures {
		if only != "" && !slices.Contains(strings.Split(only, ","), f.name) {
			continue
		}
		if err := f.run(b, ctx); err != nil {
			return fmt.Errorf("cannot measure %s: %w", f.name, err)
		}
	}
	return nil
}
