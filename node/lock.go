package node

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// lockPatience is how long a node that was just killed may take to be gone.
const lockPatience = 2 * time.Second

func flock(f *os.File) error {
	for end := time.Now().Add(lockPatience); ; time.Sleep(10 * time.Millisecond) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil || time.Now().After(end) {
			return err
		}
	}
}

// lock makes this process the only node of the data directory and says in
// perigeed.pid which it is. The kernel lets go of it however the process ends.
// A successor has the lock with its predecessor, whose name stays there for now.
func (n *Node) takeLock() (*os.File, error) {
	if f := n.cfg.heritage.Take(lockName, n.path(lockFile)); f != nil {
		return f, nil
	}
	f, err := lock(n.cfg.Data)
	if err != nil {
		return nil, err
	}
	return f, signLock(f)
}

const lockFile = "perigeed.pid"

func lock(data string) (*os.File, error) {
	if err := os.MkdirAll(data, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the data directory: %w", err)
	}
	path := filepath.Join(data, lockFile)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("cannot open the data directory: %w", err)
	}
	if err := flock(f); err != nil {
		b, _ := os.ReadFile(path)
		f.Close()
		return nil, fmt.Errorf("cannot use %s: another node (pid %s) runs in it; stop it with perigee down, or choose another --data", data, strings.TrimSpace(string(b)))
	}
	return f, nil
}

// signLock says which process the node is. What is longer is overwritten first,
// so that a reader never finds nothing.
func signLock(f *os.File) error {
	b := []byte(strconv.Itoa(os.Getpid()) + "\n")
	if _, err := f.WriteAt(b, 0); err != nil {
		return fmt.Errorf("cannot write %s: %w", f.Name(), err)
	}
	return f.Truncate(int64(len(b)))
}
