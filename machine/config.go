package machine

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"time"

	"github.com/perigee-run/perigee/catalog"
	"github.com/perigee-run/perigee/image"
	"github.com/perigee-run/perigee/mesh"
	"github.com/perigee-run/perigee/sandbox"
)

// Config joins a Host with its neighbours. The interfaces are required but for
// Secrets, Console and Volumes; everything else has a default.
type Config struct {
	// Dir is the folder that holds one folder per machine.
	Dir string
	// Node and Region name the node; they go into records and environments.
	Node, Region string

	Sandbox  Sandbox
	Images   Images
	Networks Networks
	Records  Records
	Apps     Apps
	Secrets  Secrets // default: no app has any
	Console  Console // default: nobody listens
	Volumes  Volumes // default: the node has none
	Layers   Layers  // default: folders in Dir, of any size

	// Named finds a machine of the app on another node by its name; "" if there
	// is none. It must not block and not call the host. Default: there are no
	// other nodes.
	Named func(app, name string) string
	// MayRun is asked before a machine that should run and was lost with its
	// node's memory is started again; others may have taken its place meanwhile.
	// It may wait for a while. Default: yes.
	MayRun func(ctx context.Context, id string) bool
	// Fallen reports whether a machine of the app is lost with its node, and nothing
	// stands for it: then those of the app start that stand by for it. It must not
	// block. Default: none ever is.
	Fallen func(app, id string) bool
	// Room refuses a machine so many MiB more than it has, where the node has promised
	// its memory already. It must not block. Default: there is room.
	Room func(moreMB int) error
	// MaySleep is asked, after the sleeping state is shown to readers, whether
	// no request to the machine is in progress. It must not block. Default: yes.
	MaySleep func(id string) bool
	// Nameservers and Searches become /etc/resolv.conf of machines whose
	// configuration names none. Empty: the image's own file stays.
	Nameservers, Searches []string
	// PublicIP is the address at which clients reach the node, for environments.
	// Default: none is known.
	PublicIP string
	// Door is the path of the sandbox.Door that the machines' API sockets lead to.
	// Each visit has the machine's id for a name. Default: machines have no socket.
	Door string
	// Pool is how many prepared sandboxes wait for a start. Default 2; -1 none.
	Pool int
	// PoolDelay is how long after the latest start the pool is filled up, so
	// that an app that begins has the processors. Default 300 ms.
	PoolDelay time.Duration
	// SinkAfter is how long a machine may be paused before its memory goes to
	// disk. Default 5 minutes; -1 never. One whose services say autostop "stop"
	// is left for placement to stop, unless memory is short.
	SinkAfter time.Duration
	// MinFreeMB is the memory that pausing machines must leave available; below
	// it those that sleep longest are suspended. Default: a tenth of the node's.
	MinFreeMB int
	// CPUs and MemoryMB bound one machine. Default: what the node has.
	CPUs, MemoryMB int
	// Dial reaches a machine for its checks. Default: net.Dialer.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Logger defaults to slog.Default().
	Logger *slog.Logger

	backoff   time.Duration      // the first restart delay; tests shorten it
	every     time.Duration      // between two looks at the timetable
	clock     func() time.Time   // of the timetable
	removeAll func(string) error // os.RemoveAll; tests lose it with the node
}

// Sandbox is what a machine runs in; *sandbox.Client is one.
type Sandbox interface {
	Runner
	Sleeper
	Inspector
}

// Runner begins and ends sandboxes.
type Runner interface {
	// Prepare makes a sandbox ahead of need in the network namespace.
	Prepare(ctx context.Context, id, netns string) error
	// Start runs spec in a new sandbox, made from the prepared one named from
	// unless that is "".
	Start(ctx context.Context, spec sandbox.Spec, from string) error
	// Wait returns when the main process has ended.
	Wait(ctx context.Context, id string) (sandbox.Exit, error)
	Signal(ctx context.Context, id string, sig int) error
	List(ctx context.Context) ([]sandbox.Info, error)
	// Destroy ends and removes a sandbox; one that is not there is no error.
	Destroy(ctx context.Context, id string) error
}

// Sleeper freezes sandboxes and keeps their memory.
type Sleeper interface {
	Pause(ctx context.Context, id string) error
	Resume(ctx context.Context, id string) error
	// Checkpoint writes the sandbox to dir, all or nothing and on disk, and
	// leaves it paused.
	Checkpoint(ctx context.Context, id, dir string) error
	// Restore is Start from a checkpoint; sandbox.ErrSnapshot says to start cold.
	Restore(ctx context.Context, spec sandbox.Spec, from, dir string) error
}

// Inspector looks and reaches into running sandboxes.
type Inspector interface {
	Exec(ctx context.Context, id string, spec sandbox.ExecSpec, streams sandbox.Streams) (int, error)
	Stats(ctx context.Context, id string) (sandbox.Stats, error)
	// Limit bounds its memory anew until its end; Reclaim takes back what it can do
	// without, and says how many bytes those were.
	Limit(ctx context.Context, id string, memoryMiB int) error
	Reclaim(ctx context.Context, id string, memoryMiB int) (uint64, error)
	Processes(ctx context.Context, id string) ([]sandbox.Process, error)
}

// Images is the node's image store; *image.Store is one.
type Images interface {
	Pull(ctx context.Context, ref string, progress func(image.Progress)) (image.Image, error)
	Get(digestOrRef string) (image.Image, bool)
	LookupUser(img, spec string) (uid, gid uint32, groups []uint32, home string, err error)
}

// Networks gives machines their network namespaces; *mesh.Network is one. It is
// set up already when it is handed over.
type Networks interface {
	// PrivateIPv6 is the machine's address, the same for its whole life.
	PrivateIPv6(mesh.Identity) netip.Addr
	// Acquire makes a slot that belongs to nobody yet.
	Acquire(ctx context.Context) (*mesh.Slot, error)
	// Assign gives the slot to a machine that has no other.
	Assign(ctx context.Context, slot *mesh.Slot, to mesh.Identity) error
	// Release ends a slot; one that is not there is no error.
	Release(ctx context.Context, slot *mesh.Slot) error
	// Slots lists what exists, also from before the daemon was restarted.
	Slots() []mesh.Slot
}

// Records keeps the node's records; *catalog.Table[Record] is one. Put and
// Delete are durable when they return.
type Records interface {
	Put(ctx context.Context, key string, r Record) (uint64, error)
	Delete(ctx context.Context, key string) error
	List(prefix string) []catalog.Entry[Record]
}

// Apps knows which apps there are.
type Apps interface {
	// Org returns the app's owner; an api.CodeNotFound error if there is no such app.
	Org(ctx context.Context, app string) (string, error)
}

// Secrets knows the apps' secrets.
type Secrets interface {
	// Secrets returns the values and the version of the app's whole set.
	Secrets(ctx context.Context, app string) (map[string]string, uint64, error)
	// SecretsAt returns the values of a former version.
	SecretsAt(ctx context.Context, app string, version uint64) (map[string]string, error)
}

// Console takes what machines say. No operation waits for it, but a destroyed
// machine's folder stays until its console has been read, at most five seconds.
type Console interface {
	// Follow begins to read the machine's console file; again for one that is
	// followed already is no error.
	Follow(app, machine, path string)
	// Unfollow reads the file to its end and leaves it.
	Unfollow(machine string)
	// Say adds a line of the platform's own.
	Say(app, machine, text string)
}

func (c Config) check() (Config, error) {
	switch {
	case c.Dir == "":
		return c, errors.New("cannot make machine host: no directory is given")
	case c.Node == "":
		return c, errors.New("cannot make machine host: the node has no name")
	case c.Sandbox == nil || c.Images == nil || c.Networks == nil || c.Records == nil || c.Apps == nil:
		return c, errors.New("cannot make machine host: sandbox, images, networks, records and apps are all needed")
	}
	c.defaults()
	return c, nil
}

func (c *Config) defaults() {
	if c.Secrets == nil {
		c.Secrets = noSecrets{}
	}
	if c.Console == nil {
		c.Console = noConsole{}
	}
	if c.Volumes == nil {
		c.Volumes = noVolumes{}
	}
	if c.Layers == nil {
		c.Layers = folders{c.Dir}
	}
	if c.MayRun == nil {
		c.MayRun = func(context.Context, string) bool { return true }
	}
	if c.Room == nil {
		c.Room = func(int) error { return nil }
	}
	if c.MaySleep == nil {
		c.MaySleep = func(string) bool { return true }
	}
	if c.Named == nil {
		c.Named = func(string, string) string { return "" }
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Dial == nil {
		c.Dial = new(net.Dialer).DialContext
	}
	orElse(&c.Region, "local")
	orElse(&c.Pool, 2)
	orElse(&c.PoolDelay, 300*time.Millisecond)
	orElse(&c.SinkAfter, 5*time.Minute)
	orElse(&c.CPUs, runtime.NumCPU())
	orElse(&c.MemoryMB, memoryMB("MemTotal"))
	orElse(&c.MinFreeMB, c.MemoryMB/10)
	orElse(&c.backoff, time.Second)
	orElse(&c.every, 5*time.Second)
	if c.clock == nil {
		c.clock = time.Now
	}
	if c.Fallen == nil {
		c.Fallen = func(string, string) bool { return false }
	}
	if c.removeAll == nil {
		c.removeAll = os.RemoveAll
	}
}

// orElse gives p the default if it has the zero value.
func orElse[T comparable](p *T, def T) {
	var zero T
	if *p == zero {
		*p = def
	}
}

type noSecrets struct{}

func (noSecrets) Secrets(context.Context, string) (map[string]string, uint64, error) {
	return nil, 0, nil
}

func (noSecrets) SecretsAt(context.Context, string, uint64) (map[string]string, error) {
	return nil, nil
}

type noConsole struct{}

func (noConsole) Follow(_, _, _ string) {}
func (noConsole) Unfollow(string)       {}
func (noConsole) Say(_, _, _ string)    {}
