package sandbox

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// Config says where the supervisor is. Socket, StateDir and Program must be set.
type Config struct {
	// Socket is the unix socket the supervisor serves on; at most 107 bytes.
	Socket string
	// StateDir is the supervisor's own directory.
	StateDir string
	// Program is the path of perigee-sandbox.
	Program string
	// Cgroup is the control group above all machines; default "perigee".
	Cgroup string
	// Logger receives what the client does; default slog.Default().
	Logger *slog.Logger
}

// Client asks the supervisor. It is safe for use by many goroutines at once;
// all of its methods are bounded by their context. A Client whose supervisor
// has died starts a new one, which finds the sandboxes again.
type Client struct {
	conf Config
	http *http.Client
	log  *slog.Logger
	// startMu is held while a supervisor is being started.
	startMu sync.Mutex
}

// New checks conf; it does not start anything (see Ensure).
func New(conf Config) (*Client, error) {
	switch {
	case conf.Socket == "" || conf.StateDir == "" || conf.Program == "":
		return nil, errors.New("cannot use the sandbox: socket, state directory and program must be set")
	case len(conf.Socket) > 107:
		return nil, fmt.Errorf("cannot use socket %q: the path is longer than 107 bytes; choose a shorter data directory", conf.Socket)
	}
	if conf.Cgroup == "" {
		conf.Cgroup = "perigee"
	}
	if conf.Logger == nil {
		conf.Logger = slog.Default()
	}
	c := &Client{conf: conf, log: conf.Logger}
	c.http = &http.Client{Transport: &http.Transport{
		DialContext:         func(ctx context.Context, _, _ string) (net.Conn, error) { return c.dial(ctx) },
		MaxIdleConnsPerHost: 64,
		IdleConnTimeout:     time.Minute,
		DisableCompression:  true,
	}}
	return c, nil
}

// Close lets go of idle connections; the supervisor and its sandboxes stay.
func (c *Client) Close() { c.http.CloseIdleConnections() }

func (c *Client) dial(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "unix", c.conf.Socket)
}

// Prepare makes a sandbox ahead of need, in the network namespace that its
// machine will have ("" for none). A later Start or Restore names it as from.
// Prepared sandboxes do not survive the supervisor.
func (c *Client) Prepare(ctx context.Context, id, netns string) error {
	return c.call(ctx, "prepare", Call{ID: id, Netns: netns}, nil)
}

// Start runs a machine from the beginning, in the prepared sandbox from (whose
// id is gone then) or, if from is "", in a new one. When it returns the main
// process has begun. After an error nothing is left of the sandbox; a prepared
// one is used up unless the error is ErrInvalid or ErrState.
func (c *Client) Start(ctx context.Context, spec Spec, from string) error {
	return c.call(ctx, "start", Call{Spec: &spec, From: from}, nil)
}

// Restore runs a machine on from the snapshot in dir. A snapshot that cannot
// be used is an ErrSnapshot; if that shows beforehand (the usual case: another
// build, image or command) the prepared sandbox from is still there for Start.
//
// The machine gets the addresses of its network namespace, the present time
// and fresh random numbers; connections of the time of saving are gone, as
// are commands run with Exec. Spec.Files are not applied: the snapshot has
// those it was saved with.
func (c *Client) Restore(ctx context.Context, spec Spec, from, dir string) error {
	return c.call(ctx, "restore", Call{Spec: &spec, From: from, Dir: dir}, nil)
}

// Pause stops a running machine's processor time; its memory stays.
func (c *Client) Pause(ctx context.Context, id string) error {
	return c.call(ctx, "pause", Call{ID: id}, nil)
}

// Resume lets a paused machine run on.
func (c *Client) Resume(ctx context.Context, id string) error {
	return c.call(ctx, "resume", Call{ID: id}, nil)
}

// Checkpoint pauses a machine, if it is not, and saves it uncompressed into
// the directory dir, which it makes or replaces in one step once all is on
// disk. The machine is left paused, after an error too: Resume it if it is
// wanted again, Destroy it if not. Programs of ours that Exec runs in it are
// ended: a snapshot cannot hold them. Machines with a WritableDir cannot be saved
// (ErrState).
//
// A machine with Mounts goes on from its snapshot once, as its files are on the
// host by then: Resume and Restore make the snapshot useless. Nobody else may
// change the files meanwhile; if they lack what the machine had open, Restore
// says ErrSnapshot.
func (c *Client) Checkpoint(ctx context.Context, id, dir string) error {
	return c.call(ctx, "checkpoint", Call{ID: id, Dir: dir}, nil)
}

// Signal sends a signal to the main process.
func (c *Client) Signal(ctx context.Context, id string, sig int) error {
	return c.call(ctx, "signal", Call{ID: id, Signal: sig}, nil)
}

// Wait returns how the machine's main process ended, at once if it has. It may
// be asked until Destroy, by any number of callers, and it outlasts a restart
// of the supervisor.
func (c *Client) Wait(ctx context.Context, id string) (Exit, error) {
	for {
		var exit Exit
		err := c.call(ctx, "wait", Call{ID: id}, &exit)
		if err == nil || ctx.Err() != nil || !errors.Is(err, errLost) {
			return exit, err
		}
		c.log.Info("the supervisor went away during a wait; asking again", "id", id)
	}
}

// Stats tells what a machine uses.
func (c *Client) Stats(ctx context.Context, id string) (Stats, error) {
	var s Stats
	return s, c.call(ctx, "stats", Call{ID: id}, &s)
}

// Limit changes the bound of a machine's memory until its end. It cannot go below what
// the machine holds and cannot do without (ErrState).
func (c *Client) Limit(ctx context.Context, id string, memoryMiB int) error {
	return c.call(ctx, "limit", Call{ID: id, MemoryMiB: memoryMiB}, nil)
}

// Reclaim asks the kernel to take back so much memory of a machine that it can do
// without, and returns how many bytes that were.
func (c *Client) Reclaim(ctx context.Context, id string, memoryMiB int) (uint64, error) {
	var freed uint64
	return freed, c.call(ctx, "reclaim", Call{ID: id, MemoryMiB: memoryMiB}, &freed)
}

// Processes lists what runs in a machine.
func (c *Client) Processes(ctx context.Context, id string) ([]Process, error) {
	var p []Process
	return p, c.call(ctx, "processes", Call{ID: id}, &p)
}

// List describes all sandboxes, by id, the ended ones too.
func (c *Client) List(ctx context.Context) ([]Info, error) {
	var l []Info
	return l, c.call(ctx, "list", Call{}, &l)
}

// Destroy ends a sandbox and removes its processes, mounts, control group and
// files, the exit record too. One that is not there is no error.
func (c *Client) Destroy(ctx context.Context, id string) error {
	return c.call(ctx, "destroy", Call{ID: id}, nil)
}

// errLost: the supervisor went away with the call under way.
var errLost = errors.New("the supervisor went away")

// call asks the supervisor, starting it if there is none. A call that was sent
// is not sent again: nobody knows how far it came.
func (c *Client) call(ctx context.Context, operation string, body Call, answer any) error {
	err := c.send(ctx, operation, body, answer)
	if !isNoSupervisor(err) {
		return err
	}
	if err := c.Ensure(ctx); err != nil {
		return err
	}
	return c.send(ctx, operation, body, answer)
}

// isNoSupervisor says that a call was not sent.
func isNoSupervisor(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

func (c *Client) send(ctx context.Context, operation string, body Call, answer any) error {
	b, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("cannot %s: %w", operation, err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://sandbox"+CallPath+operation, bytes.NewReader(b))
	if err != nil {
		return fmt.Errorf("cannot %s: %w", operation, err)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return lost(ctx, operation, err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return failureIn(operation, res)
	}
	if answer == nil {
		_, err = io.Copy(io.Discard, res.Body)
	} else {
		err = json.NewDecoder(res.Body).Decode(answer)
	}
	if err != nil {
		return lost(ctx, operation, err)
	}
	return nil
}

func lost(ctx context.Context, operation string, err error) error {
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("cannot %s: %w", operation, ctx.Err())
	case isNoSupervisor(err):
		return fmt.Errorf("cannot %s: %w", operation, err)
	default:
		return fmt.Errorf("cannot %s: %w: %w", operation, errLost, err)
	}
}

func failureIn(operation string, res *http.Response) error {
	var f Failure
	if err := json.NewDecoder(res.Body).Decode(&f); err != nil || f.Message == "" {
		return unexpected(operation, res.StatusCode)
	}
	return f.Err()
}
