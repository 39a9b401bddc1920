package main

import (
	"fmt"
	"strings"
	"time"

	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/runsc/config"
	"gvisor.dev/gvisor/runsc/flag"
	"gvisor.dev/gvisor/runsc/version"
)

// gvisorVersion is what the link step set (-X …/runsc/version.version); gVisor
// writes it into snapshots.
func gvisorVersion() string { return version.Version() }

// sandboxFlags are gVisor's settings for a node's machines.
//
//   - directfs off: a sandbox runs as nobody with no rights and no host files
//     but those handed to it; mounts go through the gofer.
//   - host-settings ignored: the node's owner tunes the host, not each start.
//   - allow-suid and net-raw as Docker has it: su, sudo and ping work.
//   - specs of snapshots are compared by us (snapshot.go): what gVisor compares
//     may differ, a host name say.
var sandboxFlags = []string{
	"--platform=systrap",
	"--directfs=false",
	"--ignore-cgroups",
	"--host-settings=ignore",
	"--allow-suid",
	"--net-raw",
	"--allow-rootfs-tar-annotation",
	"--watchdog-action=log",
	"--restore-spec-validation=ignore",
	"--control-rpc-stop-timeout=1s",
}

// newConfig makes gVisor's configuration with root as its state directory.
func newConfig(root string, extra ...string) (*config.Config, error) {
	fs := flag.NewFlagSet("perigee", flag.ContinueOnError)
	config.RegisterFlags(fs)
	args := append([]string{"--root=" + root}, sandboxFlags...)
	if err := fs.Parse(append(args, extra...)); err != nil {
		return nil, fmt.Errorf("cannot set gVisor's flags %q: %w", strings.Join(args, " "), err)
	}
	conf, err := config.NewFromFlags(fs)
	if err != nil {
		return nil, fmt.Errorf("cannot configure gVisor: %w", err)
	}
	return conf, nil
}

// silence drops the library's own log lines.
func silence() { log.SetTarget(noLog{}) }

type noLog struct{}

// Emit implements log.Emitter.
func (noLog) Emit(int, log.Level, time.Time, string, ...any) {}
