//go:build linux

package cities

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/perigee-run/perigee/lab"
	"golang.org/x/sys/unix"
)

// ahead is how far the clock of one of the cloud's nodes is ahead, in all that
// happens to it: who is alive, who may decide and what follows what must not hang
// on clocks. (Clocks that differ by hours keep a node out, in words: cluster:
// TestSkewedClock, TestJoinRefusals.)
const ahead = 40 * time.Minute

// addAhead adds a city whose node has the wrong clock.
func (c *cloud) addAhead(city string, args ...string) {
	c.Helper()
	program, why := wrongClock(filepath.Join(c.bin, "perigeed"), c.TempDir())
	if why != nil {
		c.Logf("all clocks are right: %v", why)
		c.add(city, lab.NodeConfig{Args: args})
		return
	}
	c.add(city, lab.NodeConfig{Program: program, Args: append(args, "--sandbox", filepath.Join(c.bin, "perigee-sandbox"))})
	info, err := c.nodes[city].Client().Node(c.Context())
	if err != nil {
		c.Fatal(err)
	}
	if d := time.Until(info.StartedAt); (d - ahead).Abs() > time.Minute {
		c.Fatalf("the clock of %s is %s ahead of ours, not %s: nothing would be proved", city, d, ahead)
	}
}

// wrongClock makes a perigeed whose clock is ahead of the machine's. The kernel
// has no clock of day for single processes, but time namespaces with another
// count of time since boot. So a copy of the program asks for that where it would
// ask for the time of day, and runs where the boot was in 1970.
func wrongClock(program, dir string) (launch string, err error) {
	code, err := os.ReadFile(program)
	if err != nil {
		return "", err
	}
	// SUBQ $32, SP; ANDQ $~15, SP; MOVL $CLOCK_REALTIME, DI: see time·now in Go's
	// runtime/time_linux_amd64.s.
	now := []byte{0x48, 0x83, 0xec, 0x20, 0x48, 0x83, 0xe4, 0xf0, 0xbf, unix.CLOCK_REALTIME, 0, 0, 0}
	if runtime.GOARCH != "amd64" || bytes.Count(code, now) != 1 {
		return "", fmt.Errorf("this test knows time.Now of amd64 and Go 1.26 alone")
	}
	other := bytes.Clone(now)
	other[9] = unix.CLOCK_BOOTTIME
	var boot unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot); err != nil {
		return "", err
	}
	if _, err := os.Stat("/proc/self/ns/time"); err != nil {
		return "", fmt.Errorf("the kernel has no time namespaces: %w", err)
	}
	copied, launch := filepath.Join(dir, "perigeed"), filepath.Join(dir, "launch")
	if err := os.WriteFile(copied, bytes.Replace(code, now, other, 1), 0o755); err != nil {
		return "", err
	}
	offset := time.Now().Add(ahead).Unix() - boot.Sec
	script := fmt.Sprintf("#!/bin/sh\nexec unshare --time --boottime %d %s \"$@\"\n", offset, copied)
	return launch, os.WriteFile(launch, []byte(script), 0o755)
}
