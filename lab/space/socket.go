//go:build linux

package space

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A socket belongs for good to the network that its thread is in when it is
// made. Listen and Dial make it on the host's thread; connecting, which may
// take long, is done elsewhere.

// Listen accepts connections at an address of the host.
func (s *Space) Listen(network, addr string) (l net.Listener, err error) {
	err = s.Do(func() error {
		l, err = net.Listen(network, addr)
		return err
	})
	return l, err
}

// ListenPacket receives datagrams at an address of the host.
func (s *Space) ListenPacket(network, addr string) (c net.PacketConn, err error) {
	err = s.Do(func() error {
		c, err = net.ListenPacket(network, addr)
		return err
	})
	return c, err
}

// Dial connects from the host over tcp or udp, to an address and a port.
func (s *Space) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := s.dial(ctx, network, addr)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: plainAddr(addr), Err: err}
	}
	return c, nil
}

type plainAddr string

func (plainAddr) Network() string  { return "ip" }
func (a plainAddr) String() string { return string(a) }

func (s *Space) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, fmt.Errorf("cannot use %q: want an address and a port", addr)
	}
	f, err := s.socket(network, to)
	if err != nil {
		return nil, err
	}
	defer f.Close() // FileConn keeps a copy
	if err := connected(ctx, f); err != nil {
		return nil, err
	}
	return net.FileConn(f)
}

// socket makes a socket in the host and begins to connect it.
func (s *Space) socket(network string, to netip.AddrPort) (f *os.File, err error) {
	kind := unix.SOCK_STREAM
	if strings.HasPrefix(network, "udp") {
		kind = unix.SOCK_DGRAM
	}
	family, sa := sockaddr(to)
	err = s.Do(func() error {
		fd, err := unix.Socket(family, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return os.NewSyscallError("socket", err)
		}
		if err := unix.Connect(fd, sa); err != nil && !errors.Is(err, unix.EINPROGRESS) {
			unix.Close(fd)
			return os.NewSyscallError("connect", err)
		}
		f = os.NewFile(uintptr(fd), "socket")
		return nil
	})
	return f, err
}

func sockaddr(a netip.AddrPort) (int, unix.Sockaddr) {
	if ip := a.Addr().Unmap(); ip.Is4() {
		return unix.AF_INET, &unix.SockaddrInet4{Port: int(a.Port()), Addr: ip.As4()}
	}
	return unix.AF_INET6, &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// connected waits until a socket is, or cannot be.
func connected(ctx context.Context, f *os.File) error {
	if d, ok := ctx.Deadline(); ok {
		_ = f.SetWriteDeadline(d)
	}
	defer context.AfterFunc(ctx, func() { _ = f.SetWriteDeadline(time.Unix(1, 0)) })()
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var fault error
	err = raw.Write(func(fd uintptr) bool {
		code, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		if fault = err; err == nil && code != 0 {
			fault = os.NewSyscallError("connect", unix.Errno(code))
		}
		_, err = unix.Getpeername(int(fd))
		return fault != nil || err == nil
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return errors.Join(err, fault)
}
