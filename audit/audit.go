// Package audit keeps who did what: one entry for each call that changes something,
// runs a command or opens a session, and for each that was refused.
//
// Entries are in a JetStream stream of the node that answered the call, synced to
// disk before the call's connection is free again, and kept for [Config.MaxAge]. To
// read those of all nodes, ask each; node does. An entry never holds what a call
// carried. It is not for metrics and not for what machines say (that is logs).
//
// Refused calls come from anybody: they have a smaller stream of their own, so that
// they push nothing else out, and of a flood only some are written down; the next
// entry says how many were not. An org's newest entries are kept, up to
// [Config.PerOrg], and of one app half as many: whoever makes calls in a loop pushes
// out what is the org's own. Only where orgs together have more than
// [Config.MaxBytes] do the oldest of all go.
//
// The place for the next thing to know of a call is [api.AuditEntry].
package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/perigee-run/perigee/api"
)

const (
	nobody   = "_" // in a subject, where there is no org or app
	patience = 5 * time.Second
	// trims is how often, while an org writes as much as is kept of it, the rest goes.
	trims = 10
	// maxOrgs bounds what is remembered of who has written; names that are no org's
	// are among them.
	maxOrgs = 10_000
	// burst of refused calls, and how many a second after it, are written down.
	burst, perSecond = 100, 10
	defaultLimit     = 100
	// MaxLimit is the most entries of one reading.
	MaxLimit = 10_000
)

// Config says how much is kept. JetStream and Node are required.
type Config struct {
	JetStream jetstream.JetStream
	Node      string
	// MaxBytes on this node. Default 256 MiB.
	MaxBytes int64
	// PerOrg is how many entries of one org are kept, and a tenth more for a while; of
	// refused calls a tenth of it. Default 100,000.
	PerOrg int
	// MaxAge of an entry. Default 90 days.
	MaxAge time.Duration
	// Room returns an error while the disk is almost full. Default: there is room.
	Room func() error
	// Logger receives what could not be written. Default: slog.Default().
	Logger *slog.Logger
}

// Log is this node's entries. Its methods may be called from any goroutine.
type Log struct {
	cfg Config

	done, refused shelf

	mu      sync.Mutex // guards what follows
	unknown bucket     // refused calls of nobody
	known   bucket     // and of those whose token does not reach so far
	skipped int
}

// shelf is a stream of entries.
type shelf struct {
	name, subject string
	bytes         int64
	perOrg        int

	mu      sync.Mutex // guards what follows
	stream  jetstream.Stream
	written map[string]int // entries of each org since older ones were dropped
}

// due counts an entry and reports whether it is time to look how many its org has.
func (s *shelf) due(org string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n, ok := s.written[org]; ok && n < s.perOrg/trims {
		s.written[org]++
		return false
	}
	if len(s.written) >= maxOrgs || s.written == nil {
		s.written = map[string]int{}
	}
	s.written[org] = 1
	return true
}

// bucket admits a burst, and then so many a second.
type bucket struct {
	left   float64
	filled time.Time
}

func (b *bucket) take(now time.Time) bool {
	if b.filled.IsZero() {
		b.left, b.filled = burst, now
	}
	b.left = min(burst, b.left+now.Sub(b.filled).Seconds()*perSecond)
	b.filled = now
	if b.left < 1 {
		return false
	}
	b.left--
	return true
}

// New opens the stream, or makes it. When that fails each use tries again: a full
// disk must not keep a node from starting.
func New(ctx context.Context, cfg Config) (*Log, error) {
	if cfg.JetStream == nil || cfg.Node == "" {
		return nil, errors.New("cannot open the audit log: JetStream and the node's name are both needed")
	}
	if cfg.MaxBytes == 0 {
		cfg.MaxBytes = 256 << 20
	}
	if cfg.PerOrg == 0 {
		cfg.PerOrg = 100_000
	}
	if cfg.MaxAge == 0 {
		cfg.MaxAge = 90 * 24 * time.Hour
	}
	if cfg.Room == nil {
		cfg.Room = func() error { return nil }
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	l := &Log{cfg: cfg}
	l.done.name, l.done.subject, l.done.bytes, l.done.perOrg = "AUDIT", "audit", cfg.MaxBytes, cfg.PerOrg
	l.refused.name, l.refused.subject, l.refused.bytes, l.refused.perOrg = "AUDIT_REFUSED", "refused", cfg.MaxBytes/8, max(1, cfg.PerOrg/10)
	for _, s := range []*shelf{&l.done, &l.refused} {
		if _, err := l.open(ctx, s); err != nil {
			cfg.Logger.Error("the audit log is off for now", "error", err)
		}
	}
	return l, nil
}

func (l *Log) open(ctx context.Context, s *shelf) (jetstream.Stream, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stream != nil {
		return s.stream, nil
	}
	if err := l.cfg.Room(); err != nil {
		return nil, err
	}
	stream, err := l.cfg.JetStream.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name: s.name, Description: "who did what", Subjects: []string{s.subject + ".*.*"}, Storage: jetstream.FileStorage,
		Retention: jetstream.LimitsPolicy, Discard: jetstream.DiscardOld, MaxBytes: s.bytes, MaxMsgsPerSubject: max(1, int64(s.perOrg/2)), MaxAge: l.cfg.MaxAge, AllowDirect: true,
	})
	if err == nil {
		s.stream = stream
	}
	return stream, err
}

// Record writes an entry down and returns when it is on disk. What cannot be
// written is in the daemon's own log instead.
func (l *Log) Record(e api.AuditEntry) {
	e.Node = l.cfg.Node
	if e.Time.IsZero() {
		e.Time = time.Now().UTC()
	}
	shelf := &l.done
	if e.Status == 401 || e.Status == 403 {
		if shelf = &l.refused; !l.admit(e.Who != "") {
			return
		}
	}
	e.Skipped = l.takeSkipped()
	e.Org, e.App, e.Machine = api.Clip(e.Org), api.Clip(e.App), api.Clip(e.Machine)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := l.write(ctx, shelf, e); err != nil {
		l.cfg.Logger.Error("cannot write the audit log", "error", err, "operation", e.Operation, "who", e.Who, "app", e.App, "status", e.Status, "request", e.Request)
	}
}

func (l *Log) write(ctx context.Context, s *shelf, e api.AuditEntry) error {
	stream, err := l.open(ctx, s)
	if err != nil {
		return err
	}
	if err := l.cfg.Room(); err != nil {
		return err
	}
	b, err := json.Marshal(e)
	if err != nil {
		return err
	}
	org := part(e.Org)
	if _, err = l.cfg.JetStream.PublishMsg(ctx, &nats.Msg{Subject: s.subject + "." + org + "." + part(e.App), Data: b}); err != nil || !s.due(org) {
		return err
	}
	if err := stream.Purge(ctx, jetstream.WithPurgeSubject(s.subject+"."+org+".*"), jetstream.WithPurgeKeep(uint64(s.perOrg))); err != nil {
		l.cfg.Logger.Warn("cannot drop an org's oldest entries from the audit log", "org", org, "error", err)
	}
	return nil
}

// admit reports whether one more refused call is written down. Who has a token is not
// hidden by the noise of those who have none.
func (l *Log) admit(known bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := &l.unknown
	if known {
		b = &l.known
	}
	if b.take(time.Now()) {
		return true
	}
	l.skipped++
	return false
}

func (l *Log) takeSkipped() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.skipped
	l.skipped = 0
	return n
}

var name = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

// part is a name as a token of a subject; what is no name is nobody's.
func part(s string) string {
	if name.MatchString(s) {
		return s
	}
	return nobody
}

// Read returns this node's entries of an org, "" being all, newest first.
func (l *Log) Read(ctx context.Context, org string, q api.AuditQuery) ([]api.AuditEntry, error) {
	var entries []api.AuditEntry
	for _, s := range []*shelf{&l.done, &l.refused} {
		some, err := l.read(ctx, s, org, q)
		if err != nil {
			return nil, fmt.Errorf("cannot read the audit log: %w", err)
		}
		entries = append(entries, some...)
	}
	slices.SortStableFunc(entries, func(a, b api.AuditEntry) int { return b.Time.Compare(a.Time) })
	return entries[:min(len(entries), Limit(q))], nil
}

// Limit is how many entries a query asks for.
func Limit(q api.AuditQuery) int {
	if q.Limit <= 0 {
		return defaultLimit
	}
	return min(q.Limit, MaxLimit)
}

func (l *Log) read(ctx context.Context, s *shelf, org string, q api.AuditQuery) ([]api.AuditEntry, error) {
	stream, err := l.open(ctx, s)
	if err != nil {
		return nil, err
	}
	cfg := jetstream.OrderedConsumerConfig{FilterSubjects: []string{s.subject + "." + anyOr(org) + "." + anyOr(q.App)}, DeliverPolicy: jetstream.DeliverAllPolicy}
	if !q.Since.IsZero() {
		cfg.DeliverPolicy, cfg.OptStartTime = jetstream.DeliverByStartTimePolicy, &q.Since
	}
	cons, err := stream.OrderedConsumer(ctx, cfg)
	if err != nil {
		return nil, err
	}
	it, err := cons.Messages()
	if err != nil {
		return nil, err
	}
	defer it.Stop()
	entries := []api.AuditEntry{}
	for left := cons.CachedInfo().NumPending; left > 0; left-- {
		msg, err := it.Next(jetstream.NextMaxWait(patience))
		if err != nil {
			return nil, err
		}
		var e api.AuditEntry
		if json.Unmarshal(msg.Data(), &e) == nil && !e.Time.Before(q.Since) {
			entries = append(entries, e)
		}
		if most := Limit(q); len(entries) >= 2*most { // only the newest are wanted
			entries = append(entries[:0], entries[len(entries)-most:]...)
		}
	}
	return entries, nil
}

// anyOr is a name as a token of a filter: all where none is named.
func anyOr(s string) string {
	if s == "" {
		return "*"
	}
	return part(s)
}
