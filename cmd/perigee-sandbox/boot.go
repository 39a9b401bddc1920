package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/subcommands"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/cpuid"
	"gvisor.dev/gvisor/pkg/fd"
	"gvisor.dev/gvisor/pkg/metric"
	"gvisor.dev/gvisor/pkg/ring0"
	"gvisor.dev/gvisor/pkg/sentry/devices/nvproxy/nvconf"
	"gvisor.dev/gvisor/pkg/sentry/platform"
	"gvisor.dev/gvisor/pkg/sentry/seccheck"
	"gvisor.dev/gvisor/runsc/boot"
	"gvisor.dev/gvisor/runsc/cli"
	"gvisor.dev/gvisor/runsc/cli/maincli"
	"gvisor.dev/gvisor/runsc/cmd"
	"gvisor.dev/gvisor/runsc/cmd/sandboxsetup"
	"gvisor.dev/gvisor/runsc/cmd/util"
	"gvisor.dev/gvisor/runsc/config"
	"gvisor.dev/gvisor/runsc/flag"
	"gvisor.dev/gvisor/runsc/profile"
)

// runGVisor is gVisor's own command line, but that the sandboxes of a
// supervisor boot our way.
func runGVisor() {
	if !isClaimed(os.Args) {
		maincli.Main()
		return
	}
	cli.Run(map[util.SubCommand]string{new(bootCommand): "internal"}, nil)
}

// isClaimed says whether the sandbox to boot will be claimed: it has the
// claim's socket.
func isClaimed(args []string) bool {
	return slices.Contains(args, "boot") && slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(a, "--pass-fd=") })
}

// bootCommand starts a sandbox. gVisor's own does the first half: it makes the
// empty root and drops all rights, re-executing itself on the way. The second
// half is ours, because gVisor's needs to know the machine beforehand; this
// one does what can be done without, waits for its claim, and goes on.
type bootCommand struct{ cmd.Boot }

// Execute implements subcommands.Command.
func (b *bootCommand) Execute(ctx context.Context, f *flag.FlagSet, args ...any) subcommands.ExitStatus {
	if flagOf(f, "setup-root") == "true" || flagOf(f, "apply-caps") == "true" {
		return b.Boot.Execute(ctx, f, args...)
	}
	conf := args[0].(*config.Config)
	err := bootSandbox(f, conf)
	if err != nil {
		util.Fatalf("%v", err)
	}
	return subcommands.ExitSuccess
}

func flagOf(f *flag.FlagSet, name string) string {
	if fl := f.Lookup(name); fl != nil {
		return fl.Value.String()
	}
	return ""
}

func fdFlag(f *flag.FlagSet, name string) int {
	n, err := strconv.Atoi(flagOf(f, name))
	if err != nil {
		return -1
	}
	return n
}

func bootSandbox(f *flag.FlagSet, conf *config.Config) error {
	debug.SetTraceback(conf.Traceback)
	cpuid.Initialize()
	ring0.InitDefault()
	unix.Close(fdFlag(f, "spec-fd"))
	claimFD, err := claimSocket(f)
	if err != nil {
		return err
	}
	for _, fd := range intsFlag(f, "stdio-fds") {
		unix.Close(fd)
	}
	if err := announceBoot(fdFlag(f, "start-sync-fd")); err != nil {
		return err
	}
	if err := awaitPlaced(claimFD); err != nil {
		return err
	}
	if err := warmUp(f, conf); err != nil {
		return err
	}
	c, fds, err := receiveClaim(claimFD)
	if err != nil {
		return err
	}
	l, err := newLoader(f, conf, c, fds)
	answerClaim(claimFD, err)
	if err != nil {
		return err
	}
	if len(c.Sockets) > 0 {
		toHost.use(fds[len(fds)-1])
	}
	return runLoader(l, c, fds[3])
}

// warmUp does the part of the loader's start that is the same for every
// machine and is done once in a process: the tables of trace points, the stub
// process that all of a machine's processes are forked from, and leaving the
// host's /proc, which nothing needs from here on.
func warmUp(f *flag.FlagSet, conf *config.Config) error {
	seccheck.Initialize()
	constructor, err := platform.Lookup(conf.Platform)
	if err != nil {
		return fmt.Errorf("cannot find platform %q: %w", conf.Platform, err)
	}
	if _, err := constructor.New(platform.Options{ApplicationCores: runtime.NumCPU(), SandboxID: f.Arg(0)}); err != nil {
		return fmt.Errorf("cannot start platform %q: %w", conf.Platform, err)
	}
	metric.Initialize()
	if sync := fdFlag(f, "proc-mount-sync-fd"); sync != -1 {
		sandboxsetup.UmountProc(sync)
	}
	runtime.GC() // what the start left behind would count as the machine's
	return nil
}

// claimSocket is the one "passed" file, as host:guest.
func claimSocket(f *flag.FlagSet) (int, error) {
	var host, guest int
	value := flagOf(f, "pass-fd")
	if _, err := fmt.Sscanf(value, "%d:%d", &host, &guest); err != nil {
		return -1, fmt.Errorf("cannot find the claim's socket in %q: %w", value, err)
	}
	unix.CloseOnExec(host)
	return host, nil
}

func intsFlag(f *flag.FlagSet, name string) []int {
	if fl := f.Lookup(name); fl != nil {
		if v, ok := fl.Value.(*sandboxsetup.IntFlags); ok {
			return v.GetArray()
		}
	}
	return nil
}

// announceBoot tells the supervisor that this process waits for its claim.
func announceBoot(fd int) error {
	if _, err := unix.Write(fd, []byte{0}); err != nil {
		return fmt.Errorf("cannot tell that the sandbox has booted: %w", err)
	}
	return unix.Close(fd)
}

func newLoader(f *flag.FlagSet, conf *config.Config, c *claim, fds []int) (*boot.Loader, error) {
	gofer := fds[4 : 4+c.GoferFDs]
	upper := -1
	if c.UpperTar {
		upper = fds[4+c.GoferFDs]
	}
	return boot.New(boot.Args{
		ID:                 f.Arg(0),
		Spec:               c.Spec,
		Conf:               conf,
		ControllerFD:       fdFlag(f, "controller-fd"),
		Device:             fd.New(-1),
		GoferFDs:           gofer,
		DevGoferFD:         -1,
		StdioFDs:           fds[:3],
		ExecFD:             -1,
		GoferMountConfs:    c.Mounts,
		NumCPU:             c.CPUs,
		CPUQuota:           c.CPUQuota,
		CPUPeriod:          c.CPUPeriod,
		TotalMem:           c.MemoryBytes,
		TotalHostMem:       c.HostMemory,
		PodInitConfigFD:    -1,
		ProfileOpts:        profile.Opts{},
		NvidiaHostSettings: &nvconf.HostSettings{},
		ProductName:        "perigee",
		HostTHP:            boot.HostTHP{ShmemEnabled: flagOf(f, "host-thp-shmem-enabled"), Defrag: flagOf(f, "host-thp-defrag")},
		RootfsUpperTarFD:   upper,
	})
}

// runLoader runs the machine to its end and leaves its status in the exit
// file: nobody else may be there to see it.
func runLoader(l *boot.Loader, c *claim, exitFD int) error {
	l.WaitForStartSignal()
	makeSockets(l, c.Sockets)
	if err := l.Run(); err != nil {
		l.Destroy()
		return fmt.Errorf("running the sandbox: %w", err)
	}
	status := l.WaitExit()
	record, _ := json.Marshal(exitRecord{Status: uint32(status), At: time.Now()})
	_, _ = unix.Write(exitFD, record)
	l.Destroy()
	os.Exit(0)
	return nil
}
