package catalog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	writeLimit = 5 * time.Second       // of a write to the replicated state
	writeRetry = 50 * time.Millisecond // while nobody takes it
	askLimit   = 2 * time.Second       // of a question to the state
)

// bucket is a key-value bucket behind a connection.
type bucket struct {
	name string
	log  *slog.Logger
	conn *nats.Conn
	js   jetstream.JetStream
	feed *feed
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

// write stores one thing. What nobody has taken is tried again until the limit,
// so that a change of leader is not an error; what may have been taken is not.
func (b *bucket) write(ctx context.Context, store storing) (uint64, error) {
	guarded, done := b.guard(ctx)
	defer done()
	for {
		rev, err := b.try(guarded, store)
		switch {
		case err == nil:
			return rev, nil
		case b.unreachable != nil && notTaken(err) && pause(guarded, writeRetry):
			continue
		}
		return 0, b.plainly(ctx, guarded, err)
	}
}

func (b *bucket) try(ctx context.Context, store storing) (uint64, error) {
	kv, err := b.handle(ctx)
	if err != nil {
		return 0, err
	}
	return store(ctx, kv)
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
type storing func(context.Context, jetstream.KeyValue) (uint64, error)

func put(full string, data []byte) storing {
	return func(ctx context.Context, kv jetstream.KeyValue) (uint64, error) { return kv.Put(ctx, full, data) }
}

func create(full string, data []byte) storing {
	return func(ctx context.Context, kv jetstream.KeyValue) (uint64, error) {
		rev, err := kv.Create(ctx, full, data)
		if errors.Is(err, jetstream.ErrKeyExists) {
			return 0, ErrExists
		}
		return rev, err
	}
}

func update(full string, data []byte, rev uint64) storing {
	return func(ctx context.Context, kv jetstream.KeyValue) (uint64, error) {
		rev, err := kv.Update(ctx, full, data, rev)
		if wrongRevision(err) {
			return 0, ErrConflict
		}
		return rev, err
	}
}

// remove leaves a marker for ttl. It is published by hand because the library's
// Delete does not tell the revision.
func (b *bucket) remove(full, ttl string, data []byte) storing {
	return func(ctx context.Context, _ jetstream.KeyValue) (uint64, error) {
		msg := nats.NewMsg("$KV." + b.name + "." + full)
		msg.Data = data
		msg.Header.Set("KV-Operation", "DEL")
		msg.Header.Set(jetstream.MsgTTLHeader, ttl)
		ack, err := b.js.PublishMsg(ctx, msg)
		if err != nil {
			return 0, err
		}
		return ack.Sequence, nil
	}
}

func wrongRevision(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence
}
