package logs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	streamName = "LOGS"
	openAgain  = time.Second // after the stream could not be opened

	// Reserve is how many bytes of the disk logs leave free: what else the node
	// keeps there is worth more.
	Reserve = 64 << 20
)

// Config says how much is kept.
type Config struct {
	// JetStream is the catalog's. Required.
	JetStream jetstream.JetStream
	// MaxBytes of all logs on disk. Default 1 GiB.
	MaxBytes int64
	// MaxAge of a line. Default 7 days.
	MaxAge time.Duration
	// Replicas of the stream in an outside cluster. Default 1.
	Replicas int
	// Room returns an error while nothing more is to be stored, because the disk
	// is almost full; see Reserve. Default: there is always room.
	Room func() error
	// Logger defaults to slog.Default().
	Logger *slog.Logger
}

// Store is the log. Its methods may be called from any goroutine.
type Store struct {
	cfg Config
	js  jetstream.JetStream
	log *slog.Logger

	mu     sync.Mutex       // guards what follows; held while the stream is opened
	stream jetstream.Stream // nil until it could be opened
	tried  time.Time
	fault  error // of the last try
	full   error // of the last look for room
}

// New opens the stream, or makes it, or changes its limits. When that fails the
// log is off for now: a full disk must not keep a node from starting. Every use
// tries again, and Problem says why it is off.
func New(ctx context.Context, cfg Config) *Store {
	if cfg.Room == nil {
		cfg.Room = func() error { return nil }
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	s := &Store{cfg: cfg, js: cfg.JetStream, log: cfg.Logger}
	if _, err := s.open(ctx); err != nil {
		s.log.Error("logs are off for now", "error", err)
	}
	return s
}

// open returns the stream, and opens it first if that has not been done.
func (s *Store) open(ctx context.Context) (jetstream.Stream, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stream != nil {
		return s.stream, nil
	}
	if s.fault != nil && time.Since(s.tried) < openAgain {
		return nil, s.fault
	}
	stream, err := s.findOrMake(ctx)
	s.tried, s.fault = time.Now(), nil
	if err != nil {
		s.fault = fmt.Errorf("cannot open the log stream: %w", err)
		return nil, s.fault
	}
	s.stream = stream
	return stream, nil
}

// findOrMake writes nothing when there is no room, if the stream is there.
func (s *Store) findOrMake(ctx context.Context) (jetstream.Stream, error) {
	full := s.cfg.Room()
	if full != nil {
		stream, err := s.js.Stream(ctx, streamName)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			err = full
		}
		return stream, err
	}
	return s.js.CreateOrUpdateStream(ctx, s.cfg.streamConfig())
}

// room returns the error of Config.Room, and logs when that has changed.
func (s *Store) room() error {
	err := s.cfg.Room()
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err != nil && s.full == nil:
		s.log.Error("logs are not stored for now; machines' output waits in their console files", "error", err)
	case err == nil && s.full != nil:
		s.log.Info("logs are stored again")
	}
	s.full = err
	return err
}

// Problem returns why lines cannot be stored now, or nil.
func (s *Store) Problem(ctx context.Context) error {
	if err := s.room(); err != nil {
		return err
	}
	_, err := s.open(ctx)
	return err
}

func (cfg Config) streamConfig() jetstream.StreamConfig {
	sc := jetstream.StreamConfig{
		Name: streamName, Description: "what machines say", Subjects: []string{"logs.*.*.*"},
		Storage: jetstream.FileStorage, Retention: jetstream.LimitsPolicy, Discard: jetstream.DiscardOld,
		MaxBytes: cfg.MaxBytes, MaxAge: cfg.MaxAge, Replicas: max(cfg.Replicas, 1),
		Duplicates: 2 * time.Minute, AllowDirect: true,
	}
	if sc.MaxBytes == 0 {
		sc.MaxBytes = 1 << 30
	}
	if sc.MaxAge == 0 {
		sc.MaxAge = 7 * 24 * time.Hour
	}
	sc.Duplicates = min(sc.Duplicates, sc.MaxAge)
	if sc.Replicas == 1 {
		sc.PersistMode = jetstream.AsyncPersistMode // the package comment says what makes this safe
	}
	return sc
}

// Append adds the platform's own words about a machine ("machine started").
// Time defaults to now, Source to SourcePlatform. Text of several lines becomes
// several lines.
func (s *Store) Append(ctx context.Context, l Line) error {
	subj, err := subject(l.App, l.Region, l.Machine)
	if err != nil {
		return err
	}
	if l.Time.IsZero() {
		l.Time = time.Now()
	}
	if l.Source == "" {
		l.Source = SourcePlatform
	}
	text := []byte(strings.TrimRight(l.Text, "\n"))
	lines, _ := new(cutter).cut(text[:min(len(text), readSize)], true)
	err = s.Problem(ctx)
	if err == nil {
		_, err = s.js.PublishMsg(ctx, newBatch(subj, l.Source, l.Time, lines))
	}
	if err != nil {
		return fmt.Errorf("cannot log for machine %q: %w", l.Machine, err)
	}
	return nil
}

// Forget removes all lines of an app, for when the app is destroyed.
func (s *Store) Forget(ctx context.Context, app string) error {
	if err := checkToken(app); err != nil {
		return fmt.Errorf("cannot remove the logs of app %q: %w", app, err)
	}
	stream, err := s.open(ctx)
	if err == nil {
		err = stream.Purge(ctx, jetstream.WithPurgeSubject("logs."+app+".*.*"))
	}
	if err != nil {
		return fmt.Errorf("cannot remove the logs of app %q: %w", app, err)
	}
	return nil
}
