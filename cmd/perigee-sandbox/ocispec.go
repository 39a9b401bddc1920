package main

import (
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/perigee-run/perigee/sandbox"
)

// dockerCaps are the capabilities that Docker gives by default: what images
// expect to have.
var dockerCaps = []string{
	"CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD",
	"CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
}

const (
	openFilesSoft = 65536
	openFilesHard = 1048576
)

// ociSpec is the machine in the words of gVisor.
func ociSpec(s *sandbox.Spec, rootPath string) *specs.Spec {
	cwd := s.Cwd
	if cwd == "" {
		cwd = "/"
	}
	return &specs.Spec{
		Version:  specs.Version,
		Hostname: s.Hostname,
		Root:     &specs.Root{Path: rootPath, Readonly: s.ReadOnly},
		Process: &specs.Process{
			Terminal:     s.Terminal,
			User:         specs.User{UID: s.UID, GID: s.GID, AdditionalGids: s.AdditionalGIDs},
			Args:         s.Args,
			Env:          s.Env,
			Cwd:          cwd,
			Capabilities: capabilities(s.UID),
			Rlimits:      []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: openFilesSoft, Hard: openFilesHard}},
		},
		Mounts: slices.Concat(systemMounts(), socketMounts(s.Sockets), bindMounts(s.Mounts)),
		Linux:  &specs.Linux{Namespaces: namespaces(s.Netns)},
	}
}

// capabilities are in force for root; another user only may gain them (sudo).
func capabilities(uid uint32) *specs.LinuxCapabilities {
	if uid != 0 {
		return &specs.LinuxCapabilities{Bounding: dockerCaps}
	}
	return &specs.LinuxCapabilities{Bounding: dockerCaps, Effective: dockerCaps, Permitted: dockerCaps}
}

func namespaces(netns string) []specs.LinuxNamespace {
	ns := []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.MountNamespace}}
	if netns != "" {
		ns = append(ns, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: netns})
	}
	return ns
}

func systemMounts() []specs.Mount {
	nosuid := []string{"nosuid", "noexec", "nodev"}
	return []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: nosuid},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: append([]string{"mode=1777"}, nosuid...)},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: nosuid},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: append([]string{"ro"}, nosuid...)},
	}
}

func bindMounts(mounts []sandbox.Mount) []specs.Mount {
	var out []specs.Mount
	for _, m := range mounts {
		mode := "rw"
		if m.ReadOnly {
			mode = "ro"
		}
		out = append(out, specs.Mount{Destination: m.Destination, Type: "bind", Source: m.Source, Options: []string{"rbind", mode}})
	}
	return out
}
