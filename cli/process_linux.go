package cli

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"syscall"
)

// startDetached starts a program in a session of its own, with its output
// appended to the log.
func startDetached(prog string, args []string, log string) (string, *exec.Cmd, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return log, nil, err
	}
	defer out.Close()
	cmd := exec.Command(prog, args...)
	cmd.Stdout, cmd.Stderr, cmd.Dir = out, out, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return log, cmd, cmd.Start()
}

func replaceProcess(prog string, argv []string) error {
	return syscall.Exec(prog, argv, os.Environ())
}

func signalPid(pid int, sig syscall.Signal) error { return syscall.Kill(pid, sig) }

// locked reports whether a process holds the lock on a file.
func locked(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	return syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB) != nil
}

// listener returns the process that listens on a unix socket.
func listener(socket string) (int, error) {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return 0, fmt.Errorf("cannot reach the node: %w", err)
	}
	defer conn.Close()
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var peer *syscall.Ucred
	var failed error
	if err := raw.Control(func(fd uintptr) {
		peer, failed = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	}); err != nil {
		return 0, err
	}
	if failed != nil {
		return 0, fmt.Errorf("cannot tell who listens on %s: %w", socket, failed)
	}
	return int(peer.Pid), nil
}
