package main

import (
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// ociFlags contain a build step: gVisor's kernel, the network of the namespace
// in its configuration (which the builder chose), and no layer of ours over the builder's root, which
// must get the step's files.
var ociFlags = []string{"--platform=systrap", "--ignore-cgroups", "--host-settings=ignore", "--network=host", "--overlay2=none", "--allow-suid"}

// runOCI is perigee-oci, an OCI runtime as BuildKit's executor calls it. It
// speaks to runc, so what only runc knows is dropped, and deleting or killing
// what has ended is no error.
func runOCI(args []string) int {
	global, verb, rest := splitOCI(args)
	lenient := verb == "delete" || verb == "kill"
	if verb == "delete" && !slices.Contains(rest, "--force") && !slices.Contains(rest, "-force") {
		rest = append([]string{"--force"}, rest...)
	}
	argv := append([]string{"runsc-oci"}, ociFlags...)
	argv = append(argv, global...)
	if verb != "" {
		argv = append(append(argv, verb), rest...)
	}
	if lenient {
		return runLenient(argv)
	}
	err := unix.Exec("/proc/self/exe", argv, os.Environ())
	fmt.Fprintln(os.Stderr, "perigee-oci:", err)
	return 127
}

// ociVerbs are the commands of an OCI runtime that the executor uses.
var ociVerbs = []string{"create", "start", "state", "kill", "delete", "run", "exec", "ps", "events", "pause", "resume", "list", "spec", "features", "update"}

// splitOCI takes a command line apart and drops runc's own flags.
func splitOCI(args []string) (global []string, verb string, rest []string) {
	for _, a := range args {
		switch {
		case a == "--keep" || a == "-keep" || a == "--systemd-cgroup" || a == "-systemd-cgroup":
		case verb == "" && slices.Contains(ociVerbs, a):
			verb = a
		case verb == "":
			global = append(global, a)
		default:
			rest = append(rest, a)
		}
	}
	return global, verb, rest
}

// runLenient runs gVisor and forgives its answer.
func runLenient(argv []string) int {
	p, err := os.StartProcess("/proc/self/exe", argv, &os.ProcAttr{Files: []*os.File{os.Stdin, os.Stdout, nil}})
	if err != nil {
		fmt.Fprintln(os.Stderr, "perigee-oci:", err)
		return 127
	}
	_, _ = p.Wait()
	return 0
}
