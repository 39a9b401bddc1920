package machine

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"go.uber.org/goleak"
)

const insideEnv = "PERIGEE_MACHINE_TEST_INSIDE"

// TestMain runs the tests once more in a network and mount namespace of their
// own, if it may: there they are the host, and the real one stays untouched.
func TestMain(m *testing.M) {
	if os.Geteuid() != 0 || os.Getenv(insideEnv) != "" {
		goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) { endKit(); os.Exit(code) }),
			goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server/ats.Register.func1"))
		return
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	switch exit := new(exec.ExitError); {
	case errors.As(err, &exit):
		os.Exit(exit.ExitCode())
	case errors.Is(err, syscall.EPERM):
		os.Exit(m.Run()) // root without rights: what needs them skips
	case err != nil:
		fmt.Fprintln(os.Stderr, "cannot run tests in a namespace:", err)
		os.Exit(1)
	}
}
