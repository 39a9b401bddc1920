package deploy

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/app"
)

// Deployer carries out releases, one at a time per app. Its methods may be
// called from any goroutine; they wait until Run has taken up what an earlier
// run left.
type Deployer struct {
	cfg Config

	ctx   context.Context // of the work; ends with Run
	stop  context.CancelFunc
	ready chan struct{} // closed when Run has taken up what was left

	mu      sync.Mutex // guards what follows
	works   map[string]*work
	closing bool
	wg      sync.WaitGroup // of the works
}

// work is one thing being done to an app.
type work struct {
	app  string
	done chan struct{}

	// Valid once done is closed.
	release api.Release
	err     error

	kick chan struct{} // holds one token when lines may have something

	last  *api.Progress // told when the app is free for the next work
	mu    sync.Mutex    // guards what follows
	what  string        // is being done, for those who come second
	heard bool          // somebody listens
	lines []api.Progress
}

// maxLines bounds what a listener who does not keep up is owed.
const maxLines = 4096

// New checks the configuration. It starts nothing.
func New(cfg Config) (*Deployer, error) {
	cfg, err := cfg.check()
	if err != nil {
		return nil, err
	}
	d := &Deployer{cfg: cfg, ready: make(chan struct{}), works: map[string]*work{}}
	d.ctx, d.stop = context.WithCancel(context.Background())
	return d, nil
}

// Run takes up the releases and the destructions that an earlier run left, and
// those of nodes that are gone, and returns when ctx has ended and all work has
// come to rest. What is not finished then is taken up by the next Run. It is
// called once.
func (d *Deployer) Run(ctx context.Context) error {
	defer d.close()
	defer context.AfterFunc(ctx, d.stop)()
	select {
	case <-d.cfg.Machines.Ready():
	case <-ctx.Done():
		return nil
	}
	d.takeUpLeft()
	close(d.ready)
	tick := time.NewTicker(d.cfg.ClaimEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			d.takeUpLeft()
		case <-ctx.Done():
			return nil
		}
	}
}

func (d *Deployer) close() {
	d.mu.Lock()
	d.closing = true
	d.mu.Unlock()
	d.stop()
	d.wg.Wait()
}

// begin starts work on an app; api.CodeConflict if there is some already.
func (d *Deployer) begin(app, what string, heard bool, do func(context.Context, *work) (api.Release, error)) (*work, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closing {
		return nil, errClosing()
	}
	if other := d.works[app]; other != nil {
		return nil, api.Errorf(api.CodeConflict, "app %q is %s", app, other.doing()).WithHint("wait until that has ended, then try again")
	}
	w := &work{app: app, what: what, heard: heard, done: make(chan struct{}), kick: make(chan struct{}, 1)}
	d.works[app] = w
	d.wg.Go(func() {
		w.release, w.err = d.alone(w, do)
		d.mu.Lock()
		delete(d.works, app)
		d.mu.Unlock()
		if w.last != nil {
			w.tell(*w.last)
		}
		close(w.done)
	})
	return w, nil
}

// run is begin for a caller who listens until the end. The work goes on when
// the caller leaves.
func (d *Deployer) run(ctx context.Context, app, what string, progress func(api.Progress), do func(context.Context, *work) (api.Release, error)) (api.Release, error) {
	select {
	case <-d.ready:
	case <-d.ctx.Done():
		return api.Release{}, errClosing()
	case <-ctx.Done():
		return api.Release{}, ctx.Err()
	}
	w, err := d.begin(app, what, progress != nil, do)
	if err != nil {
		return api.Release{}, err
	}
	for {
		select {
		case <-w.kick:
			w.flush(progress)
		case <-w.done:
			w.flush(progress)
			return w.release, w.err
		case <-ctx.Done():
			w.mute()
			return api.Release{}, ctx.Err()
		}
	}
}

// Busy says in words what is being done to the app; "" if nothing is.
func (d *Deployer) Busy(app string) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if w := d.works[app]; w != nil {
		return w.doing()
	}
	return ""
}

func errClosing() error {
	return api.Errorf(api.CodeInternal, "the node is stopping").WithHint("try again in a moment; a release that is under way goes on then")
}

// closing reports whether err says that the machine room is going down, which
// may be a moment before we are told.
func closing(err error) bool {
	return err != nil && strings.Contains(err.Error(), "the node is stopping")
}

func words(r app.Release) string { return "deploying release " + version(r.Version) }

func (w *work) doing() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.what
}

// call changes the words for what is being done.
func (w *work) call(what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.what = what
}

// mute ends the listening.
func (w *work) mute() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.heard, w.lines = false, nil
}

// tell keeps a line of progress for who listens; a listener who is slow does not
// hold up the work.
func (w *work) tell(p api.Progress) {
	p.Time = time.Now().UTC()
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.heard || len(w.lines) >= maxLines {
		return
	}
	w.lines = append(w.lines, p)
	select {
	case w.kick <- struct{}{}:
	default:
	}
}

// flush gives the listener the lines it is owed.
func (w *work) flush(progress func(api.Progress)) {
	w.mu.Lock()
	lines := w.lines
	w.lines = nil
	w.mu.Unlock()
	for _, p := range lines {
		progress(p)
	}
}

func (w *work) step(format string, a ...any) {
	w.tell(api.Progress{Kind: "step", Message: sprintf(format, a...)})
}

func (w *work) machine(id, format string, a ...any) {
	w.tell(api.Progress{Kind: "machine", ID: id, Message: sprintf(format, a...)})
}

func (w *work) warn(format string, a ...any) {
	w.tell(api.Progress{Kind: "warning", Message: sprintf(format, a...)})
}
