//go:build linux

package build

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/moby/buildkit/client"
)

// Config is the daemon's side of the builder.
type Config struct {
	// Dir holds the build cache, which outlives builders and daemons. Required. Keep the path under 90 characters: a
	// socket lies in it.
	Dir string
	// Command runs the builder process; the path of its configuration file is added as the last argument. The program
	// hands that file to LoadServeConfig and Serve. Required.
	Command []string
	// Runtime is the OCI runtime for RUN steps, see ServeConfig. Required.
	Runtime string
	// IdleTimeout ends a builder that nobody uses. Default: 10 minutes.
	IdleTimeout time.Duration
	// CacheBytes limits the cache, see ServeConfig.
	CacheBytes int64
	// PlainHTTP lists registries, as host:port, that are spoken to without TLS. Registries on localhost always are.
	PlainHTTP []string
	// Networks makes the namespaces of ServeConfig. It is asked before a builder is looked for or started, always for the
	// same ones. Nil: steps have the node's network.
	Networks func(context.Context) ([]string, error)
	// Nameservers are what RUN steps resolve names with, see ServeConfig.
	Nameservers []string
	// Auth gives the user and secret for a registry host ("docker.io" for Docker's own). Empty values mean: look into
	// Docker's configuration file. Nil means always.
	Auth func(host string) (user, secret string)
	// DockerConfig is the folder of Docker's config.json. Default: Docker's own default, DOCKER_CONFIG or ~/.docker.
	DockerConfig string
	// Log is where the engine's messages go. Default: slog.Default().
	Log *slog.Logger
}

func (c *Config) complete() error {
	if c.Dir == "" || c.Runtime == "" || len(c.Command) == 0 {
		return errors.New("cannot set up builds: a folder, a command and a runtime must all be given")
	}
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return fmt.Errorf("cannot set up builds in %q: %w", c.Dir, err)
	}
	c.Dir = dir
	if c.IdleTimeout <= 0 {
		c.IdleTimeout = defaultIdle
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return nil
}

// Engine builds images in a builder process that it starts when it is needed. Safe for concurrent use.
type Engine struct {
	cfg Config

	mu     sync.Mutex // guards what follows; held while a builder is looked for or started
	serve  ServeConfig
	link   *link // the builder in use; nil before the first build
	closed bool
	reaped sync.WaitGroup // one for every child that has not been waited for
}

// link is one builder process and the connection to it.
type link struct {
	client *client.Client
	pid    int
}

// New checks the configuration and makes the cache's folder; it starts nothing. When no builder lives, what a killed
// one left behind is cleaned up.
func New(c Config) (*Engine, error) {
	if err := c.complete(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot set up builds: %w", err)
	}
	serve := ServeConfig{Dir: c.Dir, Socket: socketPath(c.Dir), Runtime: c.Runtime, IdleTimeout: c.IdleTimeout,
		CacheBytes: c.CacheBytes, PlainHTTP: c.PlainHTTP, Nameservers: c.Nameservers}
	if err := os.RemoveAll(outPath(c.Dir)); err != nil { // of builds that died with the last daemon
		return nil, fmt.Errorf("cannot set up builds: %w", err)
	}
	e := &Engine{cfg: c, serve: serve}
	e.cleanIfDead(context.Background())
	return e, nil
}

// Close ends the builder, ours or one found again, and with it every running build. The cache stays.
func (e *Engine) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true
	err := e.retire(e.link)
	e.link = nil
	e.reaped.Wait()
	return err
}

// connect gives a builder that has just answered: the one in use, one that an earlier daemon left, or a new one.
func (e *Engine) connect(ctx context.Context) (*client.Client, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, errors.New("cannot build: the node is shutting down")
	}
	if e.link != nil && e.link.answers(ctx) == nil {
		return e.link.client, nil
	}
	if e.link != nil {
		e.link.client.Close()
		e.link = nil
	}
	if err := e.prepare(ctx); err != nil {
		return nil, err
	}
	l, err := e.find(ctx)
	if err == nil && l == nil {
		l, err = e.start(ctx)
	}
	if err != nil {
		return nil, err
	}
	e.link = l
	return l.client, nil
}

// prepare completes what the builder is to be.
func (e *Engine) prepare(ctx context.Context) (err error) {
	if e.cfg.Networks != nil {
		if e.serve.Networks, err = e.cfg.Networks(ctx); err != nil {
			return fmt.Errorf("cannot give the builder networks: %w", err)
		}
		if len(e.serve.Networks) == 0 {
			return errors.New("cannot start the builder: there is no network for its steps")
		}
	}
	e.serve.Mark = mark(e.serve, e.cfg.Command[0])
	return nil
}

// Usage tells what the cache holds. It starts the builder when none runs, because only it can read the cache.
func (e *Engine) Usage(ctx context.Context) (Usage, error) {
	var u Usage
	c, err := e.connect(ctx)
	if err != nil {
		return u, err
	}
	records, err := c.DiskUsage(ctx)
	if err != nil {
		return u, fmt.Errorf("cannot read the build cache's usage: %w", err)
	}
	for _, r := range records {
		u.Records++
		u.Bytes += r.Size
		if r.InUse {
			u.InUse += r.Size
		}
	}
	return u, nil
}

// Prune removes everything from the cache that no running build holds and returns the number of bytes freed.
func (e *Engine) Prune(ctx context.Context) (int64, error) {
	c, err := e.connect(ctx)
	if err != nil {
		return 0, err
	}
	ch := make(chan client.UsageInfo)
	freed := make(chan int64, 1)
	go func() {
		var sum int64
		for u := range ch {
			sum += u.Size
		}
		freed <- sum
	}()
	err = c.Prune(ctx, ch, client.PruneAll)
	close(ch)
	sum := <-freed
	if err != nil {
		return sum, fmt.Errorf("cannot prune the build cache: %w", err)
	}
	return sum, nil
}
