//go:build linux

package fabric

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// headerSize is that of the virtio header before each packet. The switch hands
// it on unread: it lets the kernel pass a burst of TCP in one piece and leave
// checksums undone, since the receiver is the same kernel.
const headerSize = 10

const (
	udpSegments4 = 0x20 // TUN_F_USO4
	udpSegments6 = 0x40 // TUN_F_USO6
)

// OpenTUN makes a TUN device in the network namespace of the calling thread and
// returns its other end.
func OpenTUN(name string) (int, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("cannot open /dev/net/tun: %w: run as root, on a kernel with TUN devices", err)
	}
	if err := setupTUN(fd, name); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func setupTUN(fd int, name string) error {
	req, err := unix.NewIfreq(name)
	if err != nil {
		return fmt.Errorf("cannot name device %q: %w", name, err)
	}
	req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		return fmt.Errorf("cannot make TUN device %q: %w", name, err)
	}
	tcp := unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6
	if unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, tcp|udpSegments4|udpSegments6) == nil {
		return nil
	}
	if err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, tcp); err != nil {
		return fmt.Errorf("cannot set up TUN device %q: %w", name, err)
	}
	return nil
}

func closeFD(fd int) {
	if fd >= 0 {
		unix.Close(fd)
	}
}
