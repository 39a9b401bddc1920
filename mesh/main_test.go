package mesh

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
)

const (
	insideEnv = "PERIGEE_MESH_TEST_INSIDE"
	guestEnv  = "PERIGEE_MESH_TEST_GUEST"
)

// TestMain runs the tests once more in a network and mount namespace of their
// own, if it may: there they are the host, and the real one stays untouched.
func TestMain(m *testing.M) {
	if os.Getenv(guestEnv) != "" {
		if err := guest(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if spec := os.Getenv(nodeEnv); spec != "" {
		if err := nodeMain(spec); err != nil {
			fmt.Fprintln(os.Stderr, "node:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if os.Geteuid() != 0 || os.Getenv(insideEnv) != "" {
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		os.Exit(exit.ExitCode())
	}
	if errors.Is(err, syscall.EPERM) {
		os.Exit(m.Run()) // root without rights: what needs them skips
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "cannot run tests in a namespace:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// needHost skips a test that cannot have a network namespace to be the host in.
func needHost(t testing.TB) {
	t.Helper()
	if os.Getenv(insideEnv) == "" {
		t.Skip("needs root, to make network namespaces")
	}
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		t.Fatal(err)
	}
}
