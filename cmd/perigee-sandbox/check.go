package main

import (
	"fmt"
	"path"
	"regexp"
	"strings"

	"github.com/perigee-run/perigee/sandbox"
)

var idPattern = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}$`)

func checkID(id string) error {
	if !idPattern.MatchString(id) {
		return invalid("id %q: use 1 to 64 letters, digits, '-', '_' or '.'", id)
	}
	return nil
}

func invalid(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, sandbox.ErrInvalid)...)
}

// checkSpec refuses what would fail later with less to say.
func checkSpec(s *sandbox.Spec) error {
	if err := checkID(s.ID); err != nil {
		return err
	}
	switch {
	case !path.IsAbs(s.Rootfs):
		return invalid("rootfs %q: give the absolute path of an EROFS file", s.Rootfs)
	case len(s.Args) == 0 || s.Args[0] == "":
		return invalid("args: give a command to run")
	case s.Cwd != "" && !path.IsAbs(s.Cwd):
		return invalid("cwd %q: give an absolute path", s.Cwd)
	case s.Resources.CPUs < 0 || s.Resources.MemoryMiB < 0 || s.Resources.PIDs < 0:
		return invalid("resources: limits are not negative")
	case s.Resources.MemoryMiB > 0 && s.Resources.MemoryMiB < minMemoryMiB:
		return invalid("memory of %d MiB: give at least %d", s.Resources.MemoryMiB, minMemoryMiB)
	case s.WritableDir != "" && s.ReadOnly:
		return invalid("writable_dir with read_only: choose one")
	}
	return checkPaths(s)
}

// minMemoryMiB is below what the sandbox itself needs to start.
const minMemoryMiB = 32

func checkPaths(s *sandbox.Spec) error {
	for _, e := range s.Env {
		if strings.ContainsRune(e, 0) || strings.IndexByte(e, '=') < 1 {
			return invalid("env %q: write NAME=value", e)
		}
	}
	for _, f := range s.Files {
		if !path.IsAbs(f.Path) || path.Clean(f.Path) == "/" || strings.ContainsRune(f.Path, 0) {
			return invalid("file %q: give an absolute path of a file", f.Path)
		}
	}
	for _, m := range s.Mounts {
		if !path.IsAbs(m.Source) || !path.IsAbs(m.Destination) || path.Clean(m.Destination) == "/" {
			return invalid("mount of %q at %q: give two absolute paths", m.Source, m.Destination)
		}
	}
	for _, x := range s.Sockets {
		switch {
		case !path.IsAbs(x.Path) || path.Clean(x.Path) != x.Path || path.Dir(x.Path) == "/" || len(x.Path) > maxSocketPath:
			return invalid("socket %q: give an absolute path of at most %d bytes, in a directory of its own", x.Path, maxSocketPath)
		case !path.IsAbs(x.Host) || len(x.Host) > maxSocketPath:
			return invalid("socket %q leads to %q: give an absolute path of at most %d bytes", x.Path, x.Host, maxSocketPath)
		case len(x.Name) > maxSocketName:
			return invalid("socket %q: its name has %d bytes, the most is %d", x.Path, len(x.Name), maxSocketName)
		}
	}
	return nil
}

const (
	maxSocketPath = 107 // of a unix address
	maxSocketName = 256
)
