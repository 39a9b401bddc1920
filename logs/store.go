package logs

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const streamName = "LOGS"

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
}

// Store is the log. Its methods may be called from any goroutine.
type Store struct {
	js     jetstream.JetStream
	stream jetstream.Stream
}

// New opens the stream, or makes it, or changes its limits.
func New(ctx context.Context, cfg Config) (*Store, error) {
	s, err := cfg.JetStream.CreateOrUpdateStream(ctx, cfg.streamConfig())
	if err != nil {
		return nil, fmt.Errorf("cannot open the log stream: %w", err)
	}
	return &Store{js: cfg.JetStream, stream: s}, nil
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
	if _, err := s.js.PublishMsg(ctx, newBatch(subj, l.Source, l.Time, lines)); err != nil {
		return fmt.Errorf("cannot log for machine %q: %w", l.Machine, err)
	}
	return nil
}

// Forget removes all lines of an app, for when the app is destroyed.
func (s *Store) Forget(ctx context.Context, app string) error {
	if err := checkToken(app); err != nil {
		return fmt.Errorf("cannot remove the logs of app %q: %w", app, err)
	}
	if err := s.stream.Purge(ctx, jetstream.WithPurgeSubject("logs."+app+".*.*")); err != nil {
		return fmt.Errorf("cannot remove the logs of app %q: %w", app, err)
	}
	return nil
}
