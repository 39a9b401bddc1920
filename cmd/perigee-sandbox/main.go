// The program perigee-sandbox runs a node's machines in gVisor.
//
// It is several programs in one. As "perigee-sandbox serve" it is the node's
// supervisor: it makes, pauses, saves and ends sandboxes for the daemon, over
// a unix socket. Each sandbox is this program again, re-executed by gVisor's
// library as "boot" (the machine's kernel) or "gofer" (its file server). And
// called perigee-oci it is an OCI runtime, for the builder. Called
// perigee-guest it runs inside a machine, see guest.go.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

func main() {
	if os.Args[0] == guestName {
		exit(runGuest(os.Args[1:]))
	}
	usePrecompiledSeccomp()
	switch {
	case filepath.Base(os.Args[0]) == "perigee-oci":
		os.Exit(runOCI(os.Args[1:]))
	case isReexec(os.Args):
		if err := closeInherited(os.Args[1:]); err != nil {
			exit(err)
		}
		runGVisor()
	case len(os.Args) > 1 && os.Args[1] == "serve":
		exit(serve(os.Args[2:]))
	case len(os.Args) > 1 && os.Args[1] == "pump":
		exit(pump())
	case len(os.Args) > 1 && os.Args[1] == "version":
		fmt.Println(gvisorVersion())
	default:
		exit(fmt.Errorf("usage: perigee-sandbox serve -state DIR -socket PATH [-cgroup NAME] | version"))
	}
}

// isReexec says whether gVisor's library started this process: by its name for
// sandboxes and gofers, by its command for the small helpers.
func isReexec(args []string) bool {
	return strings.HasPrefix(args[0], "runsc") || len(args) > 1 && args[1] == "umount"
}

func exit(err error) {
	if err == nil {
		os.Exit(0)
	}
	fmt.Fprintln(os.Stderr, "perigee-sandbox:", err)
	os.Exit(1)
}
