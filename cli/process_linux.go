package cli

import (
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
