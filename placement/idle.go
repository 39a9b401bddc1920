package placement

import (
	"context"
	"log/slog"
	"time"
)

// Door is a machine's door held shut: no request gets in until one of Commit
// (it sleeps now) and Cancel.
type Door interface {
	// Wanted is closed when a request waits at the door.
	Wanted() <-chan struct{}
	Commit()
	Cancel()
}

// Host is what the idle loop needs of the node.
type Host interface {
	// Machines returns the machines as they are now.
	Machines() []Machine
	// Close shuts the machine's door, unless a request is in progress.
	Close(machine string) (Door, bool)
	Pause(ctx context.Context, machine string) error
	Stop(ctx context.Context, machine string) error
}

// Config of an Idle loop.
type Config struct {
	Host Host
	// PauseAfter is how long without a request until a machine is paused.
	// Default one minute.
	PauseAfter time.Duration
	// StopAfter is how long a machine whose configuration says "stop" stays
	// paused, or suspended, until it is stopped. Default 5 minutes.
	StopAfter time.Duration
	// Every is how often to look. Default a tenth of PauseAfter, between 100 ms
	// and 5 s.
	Every time.Duration
	// Logger defaults to slog.Default().
	Logger *slog.Logger
}

// Idle puts idle machines to sleep.
type Idle struct{ cfg Config }

// New returns an Idle loop; Run makes it work.
func New(cfg Config) *Idle {
	if cfg.PauseAfter == 0 {
		cfg.PauseAfter = time.Minute
	}
	if cfg.StopAfter == 0 {
		cfg.StopAfter = 5 * time.Minute
	}
	if cfg.Every == 0 {
		cfg.Every = min(max(cfg.PauseAfter/10, 100*time.Millisecond), 5*time.Second)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	return &Idle{cfg}
}

// Run looks for idle machines until ctx ends.
func (i *Idle) Run(ctx context.Context) error {
	tick := time.NewTicker(i.cfg.Every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			for _, a := range Decide(i.cfg.Host.Machines(), now, i.cfg.PauseAfter, i.cfg.StopAfter) {
				i.act(ctx, a)
			}
		}
	}
}

// act holds the machine's door shut while it goes to sleep, so that a request
// that arrives meanwhile waits and then wakes it, and is never refused.
func (i *Idle) act(ctx context.Context, a Action) {
	door, ok := i.cfg.Host.Close(a.Machine)
	if !ok {
		return
	}
	defer door.Cancel()
	select {
	case <-door.Wanted():
		return
	default:
	}
	do := i.cfg.Host.Pause
	if a.Do == Stop {
		do = i.cfg.Host.Stop
	}
	if err := do(ctx, a.Machine); err != nil {
		i.cfg.Logger.Warn("cannot put machine to sleep", "machine", a.Machine, "verb", a.Do, "err", err)
		return
	}
	door.Commit()
}
