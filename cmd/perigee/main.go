// Command perigee is the command line of Perigee; see package cli.
package main

import (
	"os"

	"github.com/perigee-run/perigee/cli"
)

func main() {
	os.Exit(cli.Main(os.Args[1:], cli.IO{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}))
}
