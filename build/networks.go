//go:build linux

package build

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"sync"

	"github.com/containerd/containerd/v2/pkg/oci"
	resourcestypes "github.com/moby/buildkit/executor/resources/types"
	"github.com/moby/buildkit/util/network"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// networks lends the network namespaces that the node made for steps: one to each
// step, so that two never meet. When all are lent out a step waits.
type networks struct{ free chan string }

func newNetworks(paths []string) *networks {
	n := &networks{free: make(chan string, len(paths))}
	for _, p := range paths {
		n.free <- p
	}
	return n
}

// New implements network.Provider.
func (n *networks) New(ctx context.Context, _ string, _ network.NamespaceOptions) (network.Namespace, error) {
	select {
	case p := <-n.free:
		return &lent{path: p, giveBack: sync.OnceFunc(func() { n.free <- p })}, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Close implements network.Provider. The namespaces are the node's.
func (n *networks) Close() error { return nil }

// lent is the namespace of one step.
type lent struct {
	path     string
	giveBack func()
}

// Set implements network.Namespace.
func (l *lent) Set(s *specs.Spec) error {
	return oci.WithLinuxNamespace(specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: l.path})(nil, nil, nil, s)
}

// Sample implements network.Namespace.
func (l *lent) Sample() (*resourcestypes.NetworkSample, error) { return nil, nil }

// Close implements network.Namespace.
func (l *lent) Close() error { l.giveBack(); return nil }

// downloadFrom has what ADD downloads over HTTP come by the namespace, so that ADD
// reaches what RUN does and no more. BuildKit takes the default transport for that;
// registries have another, for they may be the node's own.
func downloadFrom(path string) error {
	t, ok := http.DefaultTransport.(*http.Transport)
	if !ok {
		return errors.New("cannot lead downloads through a network namespace: the default HTTP transport is not Go's")
	}
	t.Proxy = nil // it would be the node's
	t.DialContext = func(ctx context.Context, kind, addr string) (net.Conn, error) {
		return dialFrom(ctx, path, kind, addr)
	}
	return nil
}

// dialFrom resolves the name here and connects there, to one address after the other.
func dialFrom(ctx context.Context, path, kind, addr string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, ip := range ips {
		c, err := dialIn(ctx, path, kind, net.JoinHostPort(ip.Unmap().String(), port))
		if err == nil {
			return c, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// dialIn connects to one literal address, for which Go stays on the thread. The
// thread ends with the goroutine, so that nothing else ever runs in the namespace.
func dialIn(ctx context.Context, path, kind, addr string) (c net.Conn, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if err = enter(path); err == nil {
			c, err = new(net.Dialer).DialContext(ctx, kind, addr)
		}
	}()
	<-done
	return c, err
}

func enter(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot open network namespace %q: %w", path, err)
	}
	defer unix.Close(fd)
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("cannot enter network namespace %q: %w", path, err)
	}
	return nil
}
