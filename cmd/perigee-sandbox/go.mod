// The sandbox program is a module of its own: gVisor's go branch needs
// runtime-spec 1.2 (Pids.Limit is a number there), containerd, which BuildKit
// brings, needs 1.3 (a pointer). The daemon never imports gVisor, so the two
// need not agree.
module github.com/perigee-run/perigee/cmd/perigee-sandbox

go 1.26.8

require (
	github.com/creack/pty v1.1.24
	github.com/google/subcommands v1.0.2-0.20190508160503-636abe8753b8
	github.com/opencontainers/runtime-spec v1.3.0
	github.com/perigee-run/perigee v0.0.0-00010101000000-000000000000
	github.com/pkg/sftp v1.13.12
	golang.org/x/sync v0.24.0
	golang.org/x/sys v0.49.0
	gvisor.dev/gvisor v0.0.0-20260701204157-69c2d17aea96
)

require (
	github.com/cenkalti/backoff v2.2.1+incompatible // indirect
	github.com/cilium/ebpf v0.16.0 // indirect
	github.com/coreos/go-systemd/v22 v22.6.0 // indirect
	github.com/godbus/dbus/v5 v5.1.0 // indirect
	github.com/gofrs/flock v0.13.1 // indirect
	github.com/google/btree v1.1.2 // indirect
	github.com/kr/fs v0.1.0 // indirect
	github.com/moby/sys/capability v0.4.0 // indirect
	github.com/mohae/deepcopy v0.0.0-20170308212314-bb9b5e7adda9 // indirect
	github.com/vishvananda/netlink v1.3.1 // indirect
	github.com/vishvananda/netns v0.0.5 // indirect
	golang.org/x/crypto v0.58.0 // indirect
	golang.org/x/exp v0.0.0-20250711185948-6ae5c78190dc // indirect
	golang.org/x/mod v0.41.0 // indirect
	golang.org/x/time v0.16.0 // indirect
	google.golang.org/protobuf v1.36.12 // indirect
)

replace github.com/perigee-run/perigee => ../..

replace github.com/opencontainers/runtime-spec => github.com/opencontainers/runtime-spec v1.2.1
