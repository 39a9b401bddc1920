//go:build !linux

package cli

import (
	"errors"
	"os/exec"
	"syscall"
)

var errLinuxOnly = errors.New("a node runs on Linux only; use --addr to reach one")

func startDetached(string, []string, string) (string, *exec.Cmd, error) { return "", nil, errLinuxOnly }

func replaceProcess(string, []string) error { return errLinuxOnly }

func signalPid(int, syscall.Signal) error { return errLinuxOnly }

func locked(string) bool { return false }

func listener(string) (int, error) { return 0, errLinuxOnly }
