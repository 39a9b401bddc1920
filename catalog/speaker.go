package catalog

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/perigee-run/perigee/internal/durable"
)

const (
	seqSize = 8 // bytes before an entry's JSON, and all of one that is taken back
	// storeEvery is how often what was said goes to the bucket: of several values
	// of a key meanwhile, the last.
	storeEvery = 200 * time.Millisecond
	storeAgain = time.Second
	storeBatch = 512 // entries under way at once
)

// speaker tells the others what this node says: each change at once, as a
// message that may be lost, and then in the bucket, which is the truth. What
// could not be stored stays due.
type speaker struct {
	cat   *Catalog
	name  string
	heard string        // the subject of its messages, up to the node's name
	kick  chan struct{} // holds a token when there are news
	// kickDue holds one when there is something to store.
	kickDue chan struct{}

	mu      sync.Mutex // guards what follows
	said    map[string]saying
	news    map[string]struct{} // keys whose message was not sent
	due     map[string]struct{} // keys that are not stored
	earlier map[string]struct{} // keys that are stored and were said in an earlier life
	storing bool                // a batch is under way
	whole   bool                // all that is to be said was said: what is earlier goes
}

// saying is the latest value of a key; without data if it was taken back.
type saying struct {
	seq  uint64
	data []byte
}

func newSpeaker(c *Catalog, name string) *speaker {
	return &speaker{cat: c, name: name, heard: "perigee.published." + name + ".", kick: make(chan struct{}, 1), kickDue: make(chan struct{}, 1),
		said: map[string]saying{}, news: map[string]struct{}{}, due: map[string]struct{}{}, earlier: map[string]struct{}{}}
}

// say returns false if that is said already.
func (s *speaker) say(key string, seq uint64, data []byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if bytes.Equal(s.said[key].data, data) {
		return false
	}
	s.put(key, saying{seq, data})
	return true
}

func (s *speaker) takeBack(key string, seq uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, ok := s.said[key]; ok && old.data != nil || has(s.earlier, key) {
		s.put(key, saying{seq: seq})
	}
}

// put notes what is to be told; s.mu is held.
func (s *speaker) put(key string, v saying) {
	s.said[key] = v
	s.news[key], s.due[key] = struct{}{}, struct{}{}
	delete(s.earlier, key)
	s.wake()
}

func (s *speaker) wake() {
	for _, kick := range []chan struct{}{s.kick, s.kickDue} {
		select {
		case kick <- struct{}{}:
		default:
		}
	}
}

// wholeSaid takes back what was said in an earlier life, now and when more of it
// is found.
func (s *speaker) wholeSaid() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.whole = true
	s.dropEarlier()
}

// dropEarlier is called with s.mu held.
func (s *speaker) dropEarlier() {
	for key := range s.earlier {
		s.put(key, saying{seq: s.cat.seq.next()})
	}
}

// compare is given all that the bucket has of this node.
func (s *speaker) compare(stored map[string]record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, r := range stored {
		s.check(key, r)
	}
	for key, v := range s.said {
		if _, ok := stored[key]; !ok && v.data != nil {
			s.due[key] = struct{}{}
		}
	}
	if s.whole {
		s.dropEarlier()
	}
	s.wake()
}

func (s *speaker) compareOne(key string, r record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.check(key, r)
	if s.whole {
		s.dropEarlier()
	}
}

// check compares one entry of the bucket with what is said; s.mu is held.
func (s *speaker) check(key string, r record) {
	if len(r.data) < seqSize {
		return
	}
	seq := seqOf(r.data)
	s.cat.seq.atLeast(seq)
	v, ok := s.said[key]
	switch {
	case !ok && !r.deleted:
		s.earlier[key] = struct{}{}
	case !ok:
	case v.seq > seq:
		s.due[key] = struct{}{}
	case v.seq < seq, v.data != nil && r.deleted: // an earlier life was ahead, or someone forgot this node
		s.put(key, saying{s.cat.seq.next(), v.data})
	case v.data == nil && r.deleted:
		delete(s.said, key)
	}
}

// run tells what is said until ctx ends, and then stores once more.
func (s *speaker) run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { s.keepStored(ctx) })
	defer wg.Wait()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.kick:
			s.sendNews()
		}
	}
}

// keepStored stores what is due, a little after it became so.
func (s *speaker) keepStored(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			s.storeDue(context.Background())
			return
		case <-s.kickDue:
		}
		pause(ctx, storeEvery)
		if !s.storeDue(ctx) && pause(ctx, storeAgain) {
			s.wake()
		}
	}
}

// sendNews sends each change as a message. One that cannot be sent is not kept:
// the bucket will tell it.
func (s *speaker) sendNews() {
	s.mu.Lock()
	news := make(map[string]saying, len(s.news))
	for key := range s.news {
		news[key] = s.said[key]
	}
	clear(s.news)
	s.mu.Unlock()
	for key, v := range news {
		if err := s.cat.conn.Publish(s.heard+s.cat.node+"."+key, v.bytes()); err != nil {
			return
		}
	}
}

func (v saying) bytes() []byte { return append(seqBytes(v.seq), v.data...) }

func seqBytes(seq uint64) []byte { return binary.BigEndian.AppendUint64(nil, seq) }

func seqOf(data []byte) uint64 { return binary.BigEndian.Uint64(data) }

// storeDue stores what is due and reports whether nothing is left.
func (s *speaker) storeDue(ctx context.Context) bool {
	for {
		msgs, as := s.takeDue()
		if len(msgs) == 0 {
			return true
		}
		failed := s.store(ctx, msgs)
		s.stillDue(failed, as)
		if len(failed) > 0 {
			return false
		}
	}
}

// takeDue is a batch of what is due, and the key of each message.
func (s *speaker) takeDue() (msgs []*nats.Msg, as map[*nats.Msg]string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	as = map[*nats.Msg]string{}
	s.storing = len(s.due) > 0
	for key := range s.due {
		if len(msgs) == storeBatch {
			break
		}
		delete(s.due, key)
		v, ok := s.said[key]
		if !ok {
			continue
		}
		m := s.message(s.cat.node+"."+key, v)
		msgs, as[m] = append(msgs, m), key
	}
	return msgs, as
}

func (s *speaker) message(entry string, v saying) *nats.Msg {
	if v.data == nil {
		return s.marker(entry, v.seq)
	}
	return &nats.Msg{Subject: s.cat.said.subject(s.name + "." + entry), Data: v.bytes()}
}

// marker is an entry taken back.
func (s *speaker) marker(entry string, seq uint64) *nats.Msg {
	m := &nats.Msg{Subject: s.cat.said.subject(s.name + "." + entry), Data: seqBytes(seq), Header: nats.Header{}}
	m.Header.Set("KV-Operation", "DEL")
	m.Header.Set(jetstream.MsgTTLHeader, s.cat.ttl)
	return m
}

// isDone reports whether all that was said is stored.
func (s *speaker) isDone() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.due) == 0 && !s.storing
}

func (s *speaker) stillDue(failed []*nats.Msg, as map[*nats.Msg]string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range failed {
		s.due[as[m]] = struct{}{}
	}
}

// store writes the messages to the bucket, all at once, and returns those that
// were not acknowledged.
func (s *speaker) store(ctx context.Context, msgs []*nats.Msg) (failed []*nats.Msg) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	acks := make([]jetstream.PubAckFuture, len(msgs))
	for i, m := range msgs {
		m.Reply = "" // of an attempt before
		acks[i], _ = s.cat.stateJS.PublishMsgAsync(m, jetstream.WithRetryAttempts(0))
	}
	for i, ack := range acks {
		if ack == nil || !acknowledged(ctx, ack) {
			failed = append(failed, msgs[i])
		}
	}
	return failed
}

func acknowledged(ctx context.Context, ack jetstream.PubAckFuture) bool {
	select {
	case <-ack.Ok():
		return true
	case <-ack.Err():
	case <-ctx.Done():
	}
	return false
}

const (
	sequenceFile = "published.seq" // in Dir: no number up to this one is used again
	sequenceStep = 10 * time.Minute
)

// sequence numbers what a node says. It is the time, in nanoseconds, unless the
// clock went back: then it goes on from the largest number that may have been
// used.
type sequence struct {
	path string // "" to keep nothing

	mu   sync.Mutex // guards what follows
	last uint64
}

func openSequence(dir string) (*sequence, error) {
	s := &sequence{}
	if dir == "" {
		return s, nil
	}
	s.path = filepath.Join(dir, sequenceFile)
	data, err := os.ReadFile(s.path)
	if errors.Is(err, os.ErrNotExist) {
		return s, s.reserve()
	}
	if err == nil {
		s.last, err = strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read where this node's numbers stand: %w", err)
	}
	return s, s.reserve()
}

// reserve keeps for the next start what may be used until then.
func (s *sequence) reserve() error {
	s.mu.Lock()
	top := max(s.last, uint64(time.Now().UnixNano())) + uint64(2*sequenceStep)
	s.mu.Unlock()
	return s.write(top)
}

// keep is for an orderly end: nothing above the last number was used.
func (s *sequence) keep() error {
	s.mu.Lock()
	last := s.last
	s.mu.Unlock()
	if s.path == "" {
		return nil
	}
	return s.write(last)
}

func (s *sequence) write(top uint64) error {
	return durable.WriteFile(s.path, 0o600, []byte(strconv.FormatUint(top, 10)+"\n"))
}

// run reserves more as time goes, until ctx ends.
func (s *sequence) run(ctx context.Context, failed func(error)) {
	for s.path != "" && pause(ctx, sequenceStep) {
		if err := s.reserve(); err != nil {
			failed(err)
		}
	}
}

func (s *sequence) next() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = max(s.last+1, uint64(time.Now().UnixNano()))
	return s.last
}

func (s *sequence) atLeast(seq uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = max(s.last, seq)
}
