package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/perigee-run/perigee/sandbox"
)

// limitMemory bounds the machine's memory anew, within what its kernel was told at its
// start.
func (s *supervisor) limitMemory(id string, mib int) error {
	b, err := s.alive(id, "limit")
	if err != nil {
		return err
	}
	if spec := b.info().Spec; spec != nil {
		if most := max(spec.Resources.MemoryMiB, spec.Resources.MaxMemoryMiB); mib < minMemoryMiB || most > 0 && mib > most {
			return invalid("memory of %d MiB: it can be %d to %d", mib, minMemoryMiB, most)
		}
	}
	err = s.groups.write(b.rec.Container, s.groups.settings(b.rec.Container, sandbox.Resources{MemoryMiB: mib}))
	if errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("cannot limit %q to %d MiB, for it holds more that it cannot do without: %w", id, mib, sandbox.ErrState)
	}
	return err
}

// reclaim takes back memory that the machine can do without, and returns how many
// bytes those were. The older control groups cannot be told how much.
func (s *supervisor) reclaim(id string, mib int) (uint64, error) {
	b, err := s.alive(id, "reclaim the memory of")
	if err != nil {
		return 0, err
	}
	before, err := s.groups.used(b.rec.Container)
	if err != nil {
		return 0, err
	}
	file, value := "memory.force_empty", "0"
	if s.groups.v2 != "" {
		file, value = "memory.reclaim", strconv.FormatInt(int64(mib)<<20, 10)
	}
	// Less than was asked for is an EAGAIN, or EBUSY of the older kind.
	err = writeFile(filepath.Join(s.groups.dir(b.rec.Container, "memory"), file), value)
	if err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EBUSY) {
		return 0, fmt.Errorf("cannot reclaim the memory of %q: %w", id, err)
	}
	after, err := s.groups.used(b.rec.Container)
	return before - min(before, after), err
}

func (s *supervisor) alive(id, verb string) (*box, error) {
	b, err := s.find(id)
	if err != nil {
		return nil, err
	}
	if state := b.state(); state != sandbox.StateRunning && state != sandbox.StatePaused {
		return nil, fmt.Errorf("cannot %s %q, which is %s: %w", verb, id, state, sandbox.ErrState)
	}
	return b, nil
}

// used is all memory that the group holds, file pages too.
func (c *cgroups) used(id string) (uint64, error) {
	usage := "memory.usage_in_bytes"
	if c.v2 != "" {
		usage = "memory.current"
	}
	return numberIn(filepath.Join(c.dir(id, "memory"), usage))
}
