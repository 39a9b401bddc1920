package wire

import (
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

const (
	kindKernel    = "kernel"
	kindUserspace = "wireguard-go"
)

// openBackend takes the kernel's WireGuard where there is one.
func openBackend(cfg Config) (backend, error) {
	if cfg.TUN != nil {
		return openUserspace(cfg)
	}
	old, err := leftover(cfg.Device)
	if err != nil {
		return nil, err
	}
	if cfg.Userspace {
		if old != nil {
			if err := netlink.LinkDel(old); err != nil {
				return nil, fmt.Errorf("cannot remove the kernel's device of an earlier run: %w", err)
			}
		}
		return openUserspace(cfg)
	}
	if old == nil {
		err = addKernelDevice(cfg)
	}
	if errors.Is(err, syscall.EOPNOTSUPP) {
		cfg.Logger.Info("kernel has no WireGuard; using wireguard-go", "device", cfg.Device)
		return openUserspace(cfg)
	}
	if err != nil {
		return nil, err
	}
	c, err := wgctrl.New()
	if err != nil {
		return nil, fmt.Errorf("cannot speak to the kernel's WireGuard: %w", err)
	}
	return &kernel{cfg.Device, c}, nil
}

// leftover finds the kernel's WireGuard device of an earlier run.
func leftover(name string) (netlink.Link, error) {
	l, err := netlink.LinkByName(name)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot look for an earlier device: %w", err)
	}
	switch l.Type() {
	case "wireguard":
		return l, nil
	case "tun", "tuntap":
		return nil, nil // it goes with its process; openUserspace waits for that
	}
	return nil, fmt.Errorf("there is a device of that name, of type %q: choose another name or remove it", l.Type())
}

func addKernelDevice(cfg Config) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = cfg.Device, cfg.MTU
	err := netlink.LinkAdd(&netlink.Wireguard{LinkAttrs: attrs})
	if errors.Is(err, syscall.EEXIST) {
		return syscall.EOPNOTSUPP // a TUN of that name, which openUserspace knows about
	}
	if errors.Is(err, syscall.EPERM) {
		return fmt.Errorf("%w: run as root", err)
	}
	return err
}

// kernel is WireGuard in the kernel.
type kernel struct {
	name   string
	client *wgctrl.Client
}

func (k *kernel) kind() string                 { return kindKernel }
func (k *kernel) set(cfg wgtypes.Config) error { return k.client.ConfigureDevice(k.name, cfg) }
func (k *kernel) close() error                 { return k.client.Close() }

func (k *kernel) peers() (map[Key]wgtypes.Peer, error) {
	d, err := k.client.Device(k.name)
	if err != nil {
		return nil, err
	}
	all := make(map[Key]wgtypes.Peer, len(d.Peers))
	for _, p := range d.Peers {
		all[Key(p.PublicKey)] = p
	}
	return all, nil
}

func (k *kernel) remove() error {
	err := k.close()
	l, lerr := netlink.LinkByName(k.name)
	if lerr != nil {
		return err
	}
	return errors.Join(err, netlink.LinkDel(l))
}

// userspace is wireguard-go.
type userspace struct {
	dev *device.Device
	tun tun.Device
}

// staleWait is how long the TUN device of a process that was just killed may
// take to go.
const staleWait = 3 * time.Second

func openUserspace(cfg Config) (backend, error) {
	t, err := createTUN(cfg)
	if err != nil {
		return nil, err
	}
	debug := func(format string, args ...any) { cfg.Logger.Debug(fmt.Sprintf(format, args...), "device", cfg.Device) }
	dev := device.NewDevice(t, conn.NewDefaultBind(), &device.Logger{Verbosef: device.DiscardLogf, Errorf: debug})
	return &userspace{dev, t}, nil
}

func createTUN(cfg Config) (tun.Device, error) {
	if cfg.TUN != nil {
		return tun.CreateTUNFromFile(cfg.TUN, cfg.MTU)
	}
	for end := time.Now().Add(staleWait); ; time.Sleep(20 * time.Millisecond) {
		t, err := tun.CreateTUN(cfg.Device, cfg.MTU)
		if err == nil {
			return t, nil
		}
		if !errors.Is(err, syscall.EBUSY) {
			return nil, fmt.Errorf("cannot make a TUN device: %w: the kernel needs WireGuard or TUN, and this process root", err)
		}
		if time.Now().After(end) {
			return nil, fmt.Errorf("cannot make a TUN device: %w: another process has one of that name", err)
		}
	}
}

func (u *userspace) kind() string { return kindUserspace }

func (u *userspace) set(cfg wgtypes.Config) error {
	if err := u.dev.IpcSet(uapi(cfg)); err != nil {
		return err
	}
	return u.dev.Up() // with the port known; it does nothing the second time
}

func (u *userspace) peers() (map[Key]wgtypes.Peer, error) {
	text, err := u.dev.IpcGet()
	if err != nil {
		return nil, err
	}
	return parsePeers(text)
}

func (u *userspace) close() error {
	u.dev.Close()
	return nil
}

func (u *userspace) remove() error { return u.close() }
