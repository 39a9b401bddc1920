package cli

import (
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"testing"
)

// TestRunning: a node is who holds the lock, whatever the pid file says.
func TestRunning(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("nodes run on Linux")
	}
	dir := t.TempDir()
	if _, ok := running(dir); ok {
		t.Error("a node runs in an empty folder")
	}
	path := filepath.Join(dir, "perigeed.pid")
	if err := os.WriteFile(path, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if pid, ok := running(dir); ok {
		t.Errorf("process %d is a node by a file that nobody locks", pid)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if pid, ok := running(dir); !ok || pid != os.Getpid() {
		t.Errorf("process %d, %v; want this one", pid, ok)
	}
}

// TestSameNode: another process's socket is not taken for the node's.
func TestSameNode(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("nodes run on Linux")
	}
	socket := filepath.Join(t.TempDir(), "s")
	if err := sameNode(socket, os.Getpid()); err == nil {
		t.Error("nobody listens, and it is the node")
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := sameNode(socket, os.Getpid()); err != nil {
		t.Error(err)
	}
	if err := sameNode(socket, os.Getppid()); err == nil {
		t.Error("this process is taken for another")
	}
}
