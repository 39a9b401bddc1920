package main

import (
	_ "github.com/perigee-run/perigee/sandbox"
	"gvisor.dev/gvisor/runsc/cli/maincli"
	_ "gvisor.dev/gvisor/runsc/container"
	_ "golang.org/x/sys/unix"
)

func main() { maincli.Main() }
