package catalog

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// fullDisk is a store that takes nothing for a while.
type fullDisk struct {
	jetstream.JetStream
	refuse atomic.Int32 // so many writes
}

func (d *fullDisk) Publish(ctx context.Context, subject string, data []byte, opts ...jetstream.PublishOpt) (*jetstream.PubAck, error) {
	if d.refuse.Add(-1) >= 0 {
		return nil, errors.New("no space left")
	}
	return d.JetStream.Publish(ctx, subject, data, opts...)
}

// TestCopyIsFinishedAfterAFault: nothing but the first reading comes, and the
// copy is whole all the same.
func TestCopyIsFinishedAfterAFault(t *testing.T) {
	js := &fullDisk{JetStream: open(t, Config{}).JetStream()}
	js.refuse.Store(1)
	c, err := openCopy(t.Context(), js, "copied", time.Millisecond, quiet)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); c.run(ctx) }()
	defer func() { stop(); <-done }()
	c.load(map[string]map[string]record{"t": {"a": {table: "t", key: "a", rev: 7, data: []byte("x")}}}, 7)
	for end := time.Now().Add(30 * time.Second); !c.isWhole(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the copy is not whole")
		}
	}
	again, err := openCopy(t.Context(), js, "copied", time.Millisecond, quiet)
	if err != nil || !again.isWhole() || again.at() != 7 {
		t.Fatalf("on disk: whole %v, at %d, %v", again.isWhole(), again.at(), err)
	}
}

// TestCopyForgetsWhatWentMeanwhile: a record that goes while it is being written.
func TestCopyForgetsWhatWentMeanwhile(t *testing.T) {
	js := open(t, Config{}).JetStream()
	c, err := openCopy(t.Context(), js, "copied", time.Millisecond, quiet)
	if err != nil {
		t.Fatal(err)
	}
	c.load(map[string]map[string]record{"t": {"a": {table: "t", key: "a", rev: 7, data: []byte("x")}}}, 7)
	todo, _ := c.take()
	c.change(record{table: "t", key: "a", rev: 8, deleted: true})
	if err := c.write(t.Context(), "t.a", todo["t.a"]); err != nil {
		t.Fatal(err)
	}
	if !c.flush(t.Context()) {
		t.Fatal("not written")
	}
	again, err := openCopy(t.Context(), js, "copied", time.Millisecond, quiet)
	if err != nil || len(again.table("t")) != 0 {
		t.Fatalf("on disk: %v, %v", again.table("t"), err)
	}
}

func TestSameMembers(t *testing.T) {
	a, b, moved := Member{"a", "1", "2"}, Member{"b", "3", "4"}, Member{"b", "5", "4"}
	if !sameMembers([]Member{a, b}, []Member{b, a}) || sameMembers([]Member{a, b}, []Member{moved, a}) || sameMembers([]Member{a, b}, []Member{a}) {
		t.Error("only the order may differ")
	}
}
