package catalog

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	writeLimit = 6 * time.Second         // of a write to the replicated state: a new leader is found in less
	writeTry   = 1500 * time.Millisecond // until a write that nobody acknowledged is sent again
	writeRetry = 50 * time.Millisecond   // while nobody takes it
	askLimit   = 2 * time.Second         // of a question to the state

	// stillOnItsWay is the answer to a write sent again before it was decided.
	stillOnItsWay jetstream.ErrorCode = 10158
)

// bucket is a key-value bucket behind a connection.
type bucket struct {
	name string
	log  *slog.Logger
	conn *nats.Conn
	js   jetstream.JetStream
	feed *feed
	late sync.WaitGroup // of what ends with the connection at the latest
	// disk is where the bucket is kept when it is in this process; nil if not.
	disk func() *disk
	// make creates the bucket when there is none yet, or says why not.
	make func(ctx context.Context) (jetstream.KeyValue, error)
	// unreachable puts a write that nobody took into words. Nil: the bucket is in
	// this process, and a write waits as long as its context.
	unreachable func(err error) error

	mu sync.Mutex // guards what follows
	kv jetstream.KeyValue
}

// handle finds the bucket, at the first time it is reached.
func (b *bucket) handle(ctx context.Context) (jetstream.KeyValue, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.kv != nil {
		return b.kv, nil
	}
	kv, err := b.js.KeyValue(ctx, b.name)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		kv, err = b.make(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open bucket %q: %w", b.name, err)
	}
	b.kv = kv
	return kv, nil
}

// room returns ErrFull unless need bytes are free where the bucket is kept.
func (b *bucket) room(need int64) error {
	if d := b.disk(); d != nil {
		return d.room(need)
	}
	return nil
}

// write stores one thing. Until the limit it is sent again when nobody takes or
// acknowledges it, so that a change of leader is not an error: the store knows a
// write that it has already by its id.
func (b *bucket) write(ctx context.Context, store storing) (uint64, error) {
	guarded, done := b.guard(ctx)
	defer done()
	w := attempt{b: b}
	if b.unreachable != nil {
		w.id = rand.Text()
	}
	for {
		rev, again, err := b.try(guarded, w, store)
		switch {
		case err == nil:
			return rev, nil
		case again && pause(guarded, writeRetry):
			continue
		}
		return 0, b.plainly(ctx, guarded, err)
	}
}

// try is one attempt; again says that another one may do better.
func (b *bucket) try(ctx context.Context, w attempt, store storing) (rev uint64, again bool, err error) {
	if b.unreachable == nil {
		rev, err = store(ctx, w)
		return rev, false, err
	}
	limited, cancel := context.WithTimeout(ctx, writeTry)
	defer cancel()
	rev, err = store(limited, w)
	return rev, notTaken(err) || limited.Err() != nil || errors.Is(err, nats.ErrTimeout) || isCode(err, stillOnItsWay), err
}

// guard is ctx, ended with the store's health and, where the store is elsewhere,
// with the limit of a write.
func (b *bucket) guard(ctx context.Context) (context.Context, func()) {
	limited, cancel := ctx, func() {}
	if b.unreachable != nil {
		limited, cancel = context.WithTimeout(ctx, writeLimit)
	}
	d := b.disk()
	if d == nil {
		return limited, cancel
	}
	guarded, done := d.guard(limited)
	return guarded, func() { done(); cancel() }
}

// plainly is why the store did not write: that its disk is full, if it failed;
// that too few members are there, if nobody answered.
func (b *bucket) plainly(ctx, guarded context.Context, err error) error {
	if d := b.disk(); d != nil && ctx.Err() == nil && !d.isWell() {
		return d.full(LastReserve)
	}
	if b.unreachable != nil && (guarded.Err() != nil || notTaken(err) || errors.Is(err, nats.ErrTimeout)) {
		return b.unreachable(errors.Join(ctx.Err(), err))
	}
	return err
}

// notTaken reports whether err says that a request reached nobody.
func notTaken(err error) bool {
	for _, e := range []error{
		jetstream.ErrNoStreamResponse, jetstream.ErrJetStreamNotEnabled, nats.ErrNoResponders, nats.ErrReconnectBufExceeded, nats.ErrDisconnected,
		nats.ErrConnectionReconnecting, errNotYet,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	var api *jetstream.APIError
	return errors.As(err, &api) && api.Code == 503
}

// errNotYet is for a bucket that another member is about to make.
var errNotYet = errors.New("the cloud's state is not made yet")

// pause waits for d; false when ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// storing is one way to write.
type storing func(context.Context, attempt) (uint64, error)

// attempt sends a write to the bucket.
type attempt struct {
	b  *bucket
	id string // the same for each attempt at one write
}

func (w attempt) send(ctx context.Context, msg *nats.Msg, opts ...jetstream.PublishOpt) (uint64, error) {
	if w.id != "" {
		opts = append(opts, jetstream.WithMsgID(w.id), jetstream.WithRetryAttempts(0))
	}
	ack, err := w.b.js.PublishMsg(ctx, msg, opts...)
	if err != nil {
		return 0, err
	}
	return ack.Sequence, nil
}

func (w attempt) msg(full string, data []byte) *nats.Msg {
	return &nats.Msg{Subject: w.b.subject(full), Data: data, Header: nats.Header{}}
}

func (b *bucket) subject(full string) string { return "$KV." + b.name + "." + full }

func put(full string, data []byte) storing {
	return func(ctx context.Context, w attempt) (uint64, error) { return w.send(ctx, w.msg(full, data)) }
}

func update(full string, data []byte, rev uint64) storing {
	return func(ctx context.Context, w attempt) (uint64, error) {
		rev, err := w.send(ctx, w.msg(full, data), jetstream.WithExpectLastSequencePerSubject(rev))
		if wrongRevision(err) {
			return 0, ErrConflict
		}
		return rev, err
	}
}

func create(full string, data []byte) storing {
	return func(ctx context.Context, w attempt) (uint64, error) {
		rev, err := update(full, data, 0)(ctx, w)
		if !errors.Is(err, ErrConflict) {
			return rev, err
		}
		marker, err := w.b.marker(ctx, full)
		if err != nil || marker == 0 {
			return 0, errors.Join(err, ErrExists)
		}
		rev, err = update(full, data, marker)(ctx, w)
		if errors.Is(err, ErrConflict) {
			return 0, ErrExists
		}
		return rev, err
	}
}

// marker is the revision of a deleted record, 0 if the record is there.
func (b *bucket) marker(ctx context.Context, full string) (uint64, error) {
	s, err := b.js.Stream(ctx, "KV_"+b.name)
	if err != nil {
		return 0, err
	}
	last, err := s.GetLastMsgForSubject(ctx, b.subject(full))
	if err != nil {
		return 0, err
	}
	if last.Header.Get("KV-Operation") == "" && last.Header.Get(jetstream.MarkerReasonHeader) == "" {
		return 0, nil
	}
	return last.Sequence, nil
}

// remove leaves a marker for ttl.
func remove(full, ttl string, data []byte, opts ...jetstream.PublishOpt) storing {
	return func(ctx context.Context, w attempt) (uint64, error) {
		msg := w.msg(full, data)
		msg.Header.Set("KV-Operation", "DEL")
		msg.Header.Set(jetstream.MsgTTLHeader, ttl)
		rev, err := w.send(ctx, msg, opts...)
		if wrongRevision(err) {
			return 0, ErrConflict
		}
		return rev, err
	}
}

func wrongRevision(err error) bool {
	return isCode(err, jetstream.JSErrCodeStreamWrongLastSequence) || isCode(err, jetstream.JSErrCodeStreamWrongLastSequenceConstant)
}

func isCode(err error, code jetstream.ErrorCode) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && api.ErrorCode == code
}
