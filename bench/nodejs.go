package main

import (
	"maps"
	"os"
	"os/exec"
	"strings"

	"github.com/perigee-run/perigee/internal/debian"
)

// portable are the libraries that a program may need to be moved into an image
// of libstdc++6 alone.
var portable = []string{"linux-vdso", "ld-linux", "libdl.", "libstdc++.", "libm.", "libgcc_s.", "libpthread.", "libc."}

// withHostNode puts this machine's own node into the recipe where that can be
// moved, since Debian's is years older; it says which version the image has.
func withHostNode(r debian.Recipe) (debian.Recipe, string) {
	path, err := exec.LookPath("node")
	if err != nil || !movable(path) {
		return r, "Debian's Node.js"
	}
	program, err := os.ReadFile(path)
	if err != nil {
		return r, "Debian's Node.js"
	}
	version, _ := exec.Command(path, "--version").Output()
	r.Files = maps.Clone(r.Files)
	r.Files["/usr/bin/node"] = program
	r.Packages = []string{"libstdc++6", "busybox-static"}
	return r, "Node.js " + strings.TrimSpace(string(version))
}

func movable(path string) bool {
	out, err := exec.Command("ldd", path).Output()
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(out)) {
		known := false
		for _, p := range portable {
			known = known || strings.Contains(line, p)
		}
		if !known {
			return false
		}
	}
	return true
}
