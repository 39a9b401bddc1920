//go:build linux

package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/plugins/snapshots/native"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay/overlayutils"
	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/cmd/buildkitd/config"
	"github.com/moby/buildkit/control"
	"github.com/moby/buildkit/executor/oci"
	"github.com/moby/buildkit/frontend"
	dockerfile "github.com/moby/buildkit/frontend/dockerfile/builder"
	"github.com/moby/buildkit/frontend/gateway/forwarder"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/solver/bboltcachestorage"
	"github.com/moby/buildkit/solver/llbsolver/cdidevices"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/db/boltutil"
	"github.com/moby/buildkit/util/entitlements"
	_ "github.com/moby/buildkit/util/grpcutil/encoding/proto" // the faster codec for the session's messages
	"github.com/moby/buildkit/util/network/netproviders"
	"github.com/moby/buildkit/util/resolver"
	resolverconfig "github.com/moby/buildkit/util/resolver/config"
	"github.com/moby/buildkit/worker"
	"github.com/moby/buildkit/worker/base"
	"github.com/moby/buildkit/worker/runc"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"
	"tags.cncf.io/container-device-interface/pkg/cdi"
)

const (
	frontendName = "dockerfile.v0"
	markLabel    = "run.perigee.builder.mark"
	maxCache     = 10 << 30
	// keepContexts is how long a copy of a build context is kept for the next build's comparison.
	keepContexts = 48 * time.Hour
)

// errCacheReset says that the cache on disk was damaged and has been removed; a fresh process can start.
var errCacheReset = errors.New("cannot read the build cache: it was damaged and has been emptied, start the builder again")

// openController opens the cache and puts BuildKit's parts around it. A cache that a crash of the machine damaged is
// worth less than a builder that starts: it is removed.
func openController(ctx context.Context, c ServeConfig) (ctl *control.Controller, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", bolterrors.ErrInvalid, r)
		}
		if damaged(err) {
			c.Log.Error("the build cache is damaged and is emptied", "dir", c.Dir, "error", err)
			err = errors.Join(errCacheReset, os.RemoveAll(statePath(c.Dir)))
		}
	}()
	root := statePath(c.Dir)
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, fmt.Errorf("cannot start the builder: %w", err)
	}
	w, err := newWorker(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("cannot open the build cache in %q: %w", c.Dir, err)
	}
	return newController(ctx, root, w)
}

// damaged reports whether a database said that its file is not what it wrote.
func damaged(err error) bool {
	return errors.Is(err, bolterrors.ErrInvalid) || errors.Is(err, bolterrors.ErrChecksum) ||
		errors.Is(err, bolterrors.ErrVersionMismatch) || (err != nil && strings.Contains(err.Error(), "file size too small"))
}

func newController(ctx context.Context, root string, w *base.Worker) (*control.Controller, error) {
	workers := &worker.Controller{}
	if err := workers.Add(w); err != nil {
		return nil, fmt.Errorf("cannot start the builder: %w", err)
	}
	sessions, err := session.NewManager()
	if err != nil {
		return nil, fmt.Errorf("cannot start the builder: %w", err)
	}
	results, err := bboltcachestorage.NewStore(filepath.Join(root, "cache.db"))
	if err != nil {
		return nil, fmt.Errorf("cannot open the build cache in %q: %w", root, err)
	}
	history, err := boltutil.SafeOpen(filepath.Join(root, "history.db"), 0o600, &bolt.Options{NoSync: true})
	if err != nil {
		return nil, fmt.Errorf("cannot open the build history in %q: %w", root, err)
	}
	entries := int64(1)
	return control.NewController(control.Opt{
		SessionManager:   sessions,
		WorkerController: workers,
		Frontends: map[string]frontend.Frontend{
			frontendName: forwarder.NewGatewayForwarder(workers.Infos(), dockerfile.Build),
		},
		CacheManager:   solver.NewCacheManager(ctx, "local", results, worker.NewCacheResultStorage(workers)),
		Entitlements:   []string{string(entitlements.EntitlementNetworkHost)},
		HistoryDB:      history,
		HistoryConfig:  &config.HistoryConfig{MaxEntries: &entries, MaxAge: config.Duration{Duration: time.Hour}},
		CacheStore:     results,
		LeaseManager:   w.LeaseManager(),
		ContentStore:   w.ContentStore(),
		GarbageCollect: w.GarbageCollect,
		GracefulStop:   ctx.Done(),
	})
}

// newWorker makes the part that runs steps. What contains a step is the runtime, and the namespace that it has the
// network of. To BuildKit that is always the host's, so that a Dockerfile cannot choose another.
func newWorker(ctx context.Context, c ServeConfig) (*base.Worker, error) {
	root := statePath(c.Dir)
	noDevices, err := cdi.NewCache(cdi.WithSpecDirs(), cdi.WithAutoRefresh(false))
	if err != nil {
		return nil, err
	}
	opt, err := runc.NewWorkerOpt(root, snapshotter(root), false, oci.ProcessSandbox,
		map[string]string{markLabel: c.Mark}, nil, netproviders.Opt{Mode: "host"}, c.dns(), c.Runtime, "", false, nil, "",
		"perigee-build", cdidevices.NewManager(noDevices, nil))
	if err != nil {
		return nil, err
	}
	if err := c.isolate(opt); err != nil {
		return nil, err
	}
	if opt.GCPolicy, err = gcPolicy(root, c.CacheBytes); err != nil {
		return nil, err
	}
	opt.RegistryHosts = resolver.NewRegistryConfig(plainHTTP(c.PlainHTTP))
	return base.NewWorker(ctx, opt)
}

func (c ServeConfig) dns() *oci.DNSConfig {
	if len(c.Nameservers) == 0 {
		return nil
	}
	return &oci.DNSConfig{Nameservers: c.Nameservers}
}

// isolate puts steps and downloads into the given namespaces. The executor reads the same map.
func (c ServeConfig) isolate(opt base.WorkerOpt) error {
	if len(c.Networks) == 0 {
		return nil
	}
	n := newNetworks(c.Networks)
	opt.NetworkProviders[pb.NetMode_HOST], opt.NetworkProviders[pb.NetMode_UNSET] = n, n
	return downloadFrom(c.Networks[0])
}

// snapshotter takes overlayfs, and plain copies where the data folder lies on a file system that cannot carry it.
func snapshotter(root string) runc.SnapshotterFactory {
	if err := overlayutils.Supported(root); err != nil {
		return runc.SnapshotterFactory{Name: "native", New: native.NewSnapshotter}
	}
	return runc.SnapshotterFactory{Name: "overlayfs", New: func(root string) (snapshots.Snapshotter, error) {
		s, err := overlay.NewSnapshotter(root, overlay.AsynchronousRemove)
		if err != nil {
			return nil, err
		}
		return s, sweep(s, filepath.Join(root, "snapshots"))
	}}
}

// sweep removes the snapshots' folders that no record knows. One that was renamed just before a kill would be in the
// way of every later snapshot.
func sweep(s snapshots.Snapshotter, folders string) error {
	c, ok := s.(snapshots.Cleaner)
	if !ok {
		return nil
	}
	err := c.Cleanup(context.Background())
	if !errdefs.IsNotFound(err) {
		return err
	}
	// There are no records at all yet.
	left, err := filepath.Glob(filepath.Join(folders, "*"))
	for _, dir := range left {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	return err
}

func plainHTTP(hosts []string) map[string]resolverconfig.RegistryConfig {
	yes := true
	m := make(map[string]resolverconfig.RegistryConfig)
	for _, h := range hosts {
		m[h] = resolverconfig.RegistryConfig{PlainHTTP: &yes}
	}
	return m
}

// gcPolicy keeps the cache under limit bytes: first old copies of contexts go, then the least used results, then
// what BuildKit keeps for itself.
func gcPolicy(dir string, limit int64) ([]client.PruneInfo, error) {
	if limit <= 0 {
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err != nil {
			return nil, fmt.Errorf("cannot see the size of the disk of %q: %w", dir, err)
		}
		limit = min(maxCache, int64(st.Blocks)*st.Bsize/10)
	}
	return []client.PruneInfo{
		{Filter: []string{"type==source.local"}, KeepDuration: keepContexts},
		{MaxUsedSpace: limit},
		{All: true, MaxUsedSpace: limit},
	}, nil
}
