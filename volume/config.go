package volume

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/catalog"
	"github.com/perigee-run/perigee/volume/disk"
	"github.com/perigee-run/perigee/volume/snapshot"
)

// Config joins a Store with its neighbours. Dir, Node, Key, Records, Apps and
// Snapshots are required.
type Config struct {
	// Dir is the folder that holds one folder per volume.
	Dir string
	// Node and Region name the node.
	Node, Region string
	// Key seals the volumes' keys, 32 bytes; it never leaves the node.
	Key []byte

	Records Records
	Apps    Apps
	// Snapshots is where snapshots are put.
	Snapshots *snapshot.Repo
	// SnapshotDir is the folder of the node that they are in, "" if they are elsewhere:
	// what they take of the volumes' disk must be there.
	SnapshotDir string

	// Holder tells which machine of this node mounts a volume, "" if none does, by what
	// mount, and whether it runs. It must not block. It is asked by Settle.
	Holder func(volume string) (machine string, mount api.Mount, runs bool)
	// Changed is called after each change of a volume, with its id. It must not
	// block. Default: nobody cares.
	Changed func(id string)
	// Synced says that Apps knows all apps there are, so that one which it does not
	// know is gone. Default: it never does.
	Synced func() bool

	// Listed reports whether a volume of the app, on any node, has the snapshot in its
	// list. Default: none has.
	Listed func(app, snapshot string) bool

	// Every is how often it is looked what is to be done by itself. Default 20 s.
	Every time.Duration
	// Day is how long a day is; tests shorten it. Default 24 hours.
	Day time.Duration
	// Logger defaults to slog.Default().
	Logger *slog.Logger

	// patience is how long what a machine wrote last may take to reach the disk.
	patience time.Duration
	at       func(dir string) files          // tests have others
	free     func(dir string) (int64, error) // likewise
}

// Records keeps the node's records; *catalog.Table[Record] is one. Put and Delete
// are durable when they return.
type Records interface {
	Put(ctx context.Context, key string, r Record) (uint64, error)
	Delete(ctx context.Context, key string) error
	List(prefix string) []catalog.Entry[Record]
}

var _ Records = (*catalog.Table[Record])(nil)

// Owner is whose an app is. ID tells it from others that had, or will have, its name.
type Owner struct {
	ID, Org  string
	Deleting bool
}

// Apps knows which apps there are.
type Apps interface {
	// Owner is an api.CodeNotFound error if there is no such app.
	Owner(app string) (Owner, error)
}

func (c *Config) check() error {
	switch {
	case c.Dir == "" || c.Node == "":
		return errors.New("cannot make volume store: directory and node are needed")
	case len(c.Key) != 32:
		return errors.New("cannot make volume store: the key must have 32 bytes")
	case c.Records == nil || c.Apps == nil || c.Snapshots == nil:
		return errors.New("cannot make volume store: records, apps and snapshots are all needed")
	}
	if c.Holder == nil {
		c.Holder = func(string) (string, api.Mount, bool) { return "", api.Mount{}, false }
	}
	if c.Changed == nil {
		c.Changed = func(string) {}
	}
	if c.Synced == nil {
		c.Synced = func() bool { return false }
	}
	if c.Listed == nil {
		c.Listed = func(string, string) bool { return false }
	}
	if c.Every <= 0 {
		c.Every = 20 * time.Second
	}
	if c.Day <= 0 {
		c.Day = 24 * time.Hour
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.patience <= 0 {
		c.patience = 30 * time.Second
	}
	if c.at == nil {
		c.at = func(dir string) files { return disk.At(dir) }
	}
	if c.free == nil {
		c.free = disk.Free
	}
	var err error
	c.Dir, err = filepath.Abs(c.Dir)
	return err
}
