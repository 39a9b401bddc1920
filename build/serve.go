//go:build linux

package build

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/defaults"
	"github.com/moby/buildkit/util/grpcerrors"
	"github.com/sirupsen/logrus"
	fscopy "github.com/tonistiigi/fsutil/copy"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
)

const (
	defaultIdle   = 10 * time.Minute
	handlersGrace = 5 * time.Second
	// readyEnv names the descriptor on which Serve says that it is ready, or why it cannot be.
	readyEnv = "PERIGEE_BUILDER_READY"
	readyOK  = "ready"
	// runDirEnv is where gVisor keeps what it knows of running containers; runc has a place of its own.
	runDirEnv = "XDG_RUNTIME_DIR"
	// readyAgain is said when the cache was damaged and is now empty: the next start will work.
	readyAgain = "again"
)

// ServeConfig is what the builder process needs. Engine writes it to a file for its child; LoadServeConfig reads it.
type ServeConfig struct {
	// Dir holds the cache and everything the builder makes. Only one builder runs in it at a time. Required.
	Dir string `json:"dir"`
	// Socket is the unix socket to serve on, mode 0600. Default: Dir/builder.sock.
	Socket string `json:"socket"`
	// Runtime is the path of the OCI runtime that RUN steps run in: runc, or the sandbox under its perigee-oci name.
	// Required.
	Runtime string `json:"runtime"`
	// IdleTimeout ends the builder when nobody has asked it for anything for so long. Default: 10 minutes.
	IdleTimeout time.Duration `json:"idle_timeout"`
	// CacheBytes is the size above which the oldest cached results go. Default: 10 GiB or a tenth of the disk,
	// whichever is less.
	CacheBytes int64 `json:"cache_bytes"`
	// PlainHTTP lists registries, as host:port, that are spoken to without TLS. Registries on localhost always are.
	PlainHTTP []string `json:"plain_http,omitempty"`
	// Networks are paths of network namespaces, at least one: each RUN step has one of them to itself, and waits for it.
	// What ADD downloads comes by the first. Default: both have the network of this process.
	Networks []string `json:"networks,omitempty"`
	// Nameservers are the addresses at which RUN steps resolve names. Default: as this process does.
	Nameservers []string `json:"nameservers,omitempty"`
	// Mark tells builders of different configurations or programs apart. Opaque; set by Engine.
	Mark string `json:"mark,omitempty"`
	// Log is where the builder's own messages go. Default: slog.Default().
	Log *slog.Logger `json:"-"`
}

// LoadServeConfig reads the file that Engine names as the last argument of its Command.
func LoadServeConfig(path string) (ServeConfig, error) {
	var c ServeConfig
	data, err := os.ReadFile(path)
	if err != nil {
		return c, fmt.Errorf("cannot read the builder's configuration: %w", err)
	}
	if err := json.Unmarshal(data, &c); err != nil {
		return c, fmt.Errorf("cannot read the builder's configuration %q: %w", path, err)
	}
	return c, nil
}

func (c *ServeConfig) complete() error {
	if c.Dir == "" || c.Runtime == "" {
		return errors.New("cannot start the builder: its folder and its runtime must both be given")
	}
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return fmt.Errorf("cannot start the builder in %q: %w", c.Dir, err)
	}
	c.Dir = dir
	if c.Socket == "" {
		c.Socket = socketPath(dir)
	}
	if c.IdleTimeout <= 0 {
		c.IdleTimeout = defaultIdle
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if os.Geteuid() != 0 {
		return errors.New("cannot start the builder: it mounts file systems and must run as root")
	}
	if _, err := exec.LookPath(c.Runtime); err != nil {
		return fmt.Errorf("cannot start the builder: its runtime %q cannot be run: %w", c.Runtime, err)
	}
	return nil
}

func socketPath(dir string) string { return filepath.Join(dir, "builder.sock") }
func tmpPath(dir string) string    { return filepath.Join(dir, "tmp") }
func runPath(dir string) string    { return filepath.Join(dir, "run") }
func statePath(dir string) string  { return filepath.Join(dir, "state") }

// Serve is the builder process: BuildKit with its Dockerfile frontend on a unix socket, until ctx ends or nobody has
// asked for anything for IdleTimeout; both end it without an error. It takes the process over (umask, TMPDIR, the
// OOM killer's preference), so nothing else may run in it. What a builder that was killed left behind in Dir is
// cleaned first; a damaged cache is emptied rather than served.
func Serve(ctx context.Context, c ServeConfig) error {
	ready := readyPipe()
	defer ready.Close()
	err := serve(ctx, c, ready)
	switch {
	case errors.Is(err, errCacheReset):
		fmt.Fprintln(ready, readyAgain)
	case err != nil:
		fmt.Fprintln(ready, err)
	}
	return err
}

func serve(ctx context.Context, c ServeConfig, ready io.Writer) error {
	if err := c.complete(); err != nil {
		return err
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return fmt.Errorf("cannot start the builder: %w", err)
	}
	lock, err := lockDir(ctx, c.Dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := clean(ctx, c.Dir, c.Runtime, c.Log); err != nil {
		return err
	}
	if err := takeProcess(c.Dir); err != nil {
		return err
	}
	return listenAndServe(ctx, c, ready)
}

func listenAndServe(ctx context.Context, c ServeConfig, ready io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ctl, err := openController(ctx, c)
	if err != nil {
		return err
	}
	defer func() {
		if err := ctl.Close(); err != nil {
			c.Log.Warn("cannot close the build cache cleanly", "error", err)
		}
	}()
	l, err := listen(c.Socket)
	if err != nil {
		return err
	}
	idle := newIdle(c.IdleTimeout, cancel)
	defer idle.stop()
	srv := newServer(idle)
	ctl.Register(srv)
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		<-ctx.Done()
		stopServer(srv)
	}()
	fmt.Fprintln(ready, readyOK)
	c.Log.Info("the builder is ready", "socket", c.Socket)
	err = srv.Serve(l)
	cancel()
	<-stopped
	if err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("cannot serve builds on %q: %w", c.Socket, err)
	}
	return nil
}

func newServer(idle *idle) *grpc.Server {
	return grpc.NewServer(
		grpc.MaxRecvMsgSize(defaults.DefaultMaxRecvMsgSize),
		grpc.MaxSendMsgSize(defaults.DefaultMaxSendMsgSize),
		grpc.WaitForHandlers(true),
		grpc.ChainUnaryInterceptor(idle.unary, grpcerrors.UnaryServerInterceptor),
		grpc.ChainStreamInterceptor(idle.stream, grpcerrors.StreamServerInterceptor),
	)
}

// stopServer calls every running build off and waits for their steps to be gone, but not for ever: what is left is
// cleaned at the next start.
func stopServer(srv *grpc.Server) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		srv.Stop()
	}()
	select {
	case <-done:
	case <-time.After(handlersGrace):
	}
}

// listen binds the socket in a folder that only root may enter, so nobody can connect before the mode is set.
func listen(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("cannot serve builds: %w", err)
	}
	l, err := net.Listen("unix", path)
	if errors.Is(err, unix.EINVAL) {
		return nil, fmt.Errorf("cannot serve builds on %q: the path is too long for a socket, choose a shorter data folder", path)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot serve builds on %q: %w", path, err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("cannot serve builds on %q: %w", path, err)
	}
	return l, nil
}

// takeProcess sets what only a process of its own can set. BuildKit copies modes exactly only with umask 0. Temporary
// mounts and the sandbox's records go under dir, where clean finds them. When memory runs out, a build dies before the daemon.
func takeProcess(dir string) error {
	unix.Umask(0)
	fscopy.UmaskIsZero = true
	logrus.SetLevel(logrus.WarnLevel)
	for _, d := range []string{tmpPath(dir), runPath(dir)} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return fmt.Errorf("cannot start the builder: %w", err)
		}
	}
	mount.SetTempMountLocation(tmpPath(dir))
	// A kernel that forbids it only loses us the preference.
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("500"), 0)
	return errors.Join(os.Setenv("TMPDIR", tmpPath(dir)), os.Setenv(runDirEnv, runPath(dir)))
}

// readyPipe is the descriptor the daemon waits on, or a sink when the builder was started by hand.
func readyPipe() io.WriteCloser {
	if os.Getenv(readyEnv) != "3" {
		return nopCloser{io.Discard}
	}
	os.Unsetenv(readyEnv)
	unix.CloseOnExec(3)
	return os.NewFile(3, "ready")
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }
