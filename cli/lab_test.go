//go:build linux

package cli

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestLab runs a lab as its users do.
func TestLab(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to make namespaces")
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		t.Skip("needs /dev/net/tun")
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/lab",
		Setup: func(e *testscript.Env) error {
			dir, err := os.MkdirTemp("", "lab") // a path that sockets may have
			if err != nil {
				return err
			}
			lab := filepath.Join(dir, "l")
			e.Defer(func() { // a script that failed leaves its lab running
				Main([]string{"lab", "down", "--dir", lab}, IO{Out: io.Discard, Err: io.Discard})
				os.RemoveAll(dir)
			})
			e.Setenv("LAB", lab)
			e.Setenv("NO_COLOR", "1")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits},
	})
}
