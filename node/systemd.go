package node

import (
	"net"
	"os"
	"strconv"
)

// supervised reports whether systemd started this process as a service's main
// one.
func supervised() bool { return os.Getenv("SYSTEMD_EXEC_PID") == strconv.Itoa(os.Getpid()) }

// canNotify reports whether systemd listens to us.
func canNotify() bool { return os.Getenv("NOTIFY_SOCKET") != "" }

// notify tells systemd of a change, where it wants to know.
func notify(state string) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	if path[0] == '@' {
		path = "\x00" + path[1:]
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return // it is about to notice by itself
	}
	defer c.Close()
	_, _ = c.Write([]byte(state))
}
