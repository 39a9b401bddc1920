package main

import (
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func sumFile(f *os.File) (snapshotFile, error) {
	h := crc32.New(castagnoli)
	n, err := io.CopyBuffer(struct{ io.Writer }{h}, struct{ io.Reader }{f}, make([]byte, 1<<20))
	return snapshotFile{Size: n, CRC: h.Sum32()}, err
}

// sums checks the sums of snapshots' files, each once: a file that has not
// changed since is as good as it was.
type sums struct {
	mu   sync.Mutex // guards good
	good map[string]fileState
}

// fileState is what changes when a file does.
type fileState struct {
	inode   uint64
	changed unix.Timespec
	file    snapshotFile
}

func stateOf(f *os.File, want snapshotFile) (fileState, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return fileState{}, fmt.Errorf("cannot look at %q: %w", f.Name(), err)
	}
	return fileState{inode: st.Ino, changed: st.Ctim, file: want}, nil
}

// trust takes the files of dir, just written, as good.
func (s *sums) trust(dir string, files map[string]snapshotFile) {
	for name, want := range files {
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			continue
		}
		if state, err := stateOf(f, want); err == nil {
			s.remember(f.Name(), state)
		}
		f.Close()
	}
}

// maxGood bounds what is remembered; beyond it sums are made anew.
const maxGood = 10_000

func (s *sums) remember(path string, state fileState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.good == nil || len(s.good) >= maxGood {
		s.good = map[string]fileState{}
	}
	s.good[path] = state
}

func (s *sums) knows(path string, state fileState) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.good[path] == state
}

// check compares the sums of dir's files with what they shall be.
func (s *sums) check(dir string, files map[string]snapshotFile) error {
	var g errgroup.Group
	for name, want := range files {
		g.Go(func() error { return s.checkFile(filepath.Join(dir, name), want) })
	}
	return g.Wait()
}

func (s *sums) checkFile(path string, want snapshotFile) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	state, err := stateOf(f, want)
	if err != nil || s.knows(path, state) {
		return err
	}
	got, err := sumFile(f)
	if err != nil {
		return fmt.Errorf("cannot read %q: %w", path, err)
	}
	if got != want {
		return fmt.Errorf("file %q is damaged", filepath.Base(path))
	}
	s.remember(path, state)
	return nil
}
