package logs

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	defaultLines = 100
	maxLines     = 100_000          // that may be asked for by their number: they are held until the last is read
	pastWait     = 5 * time.Second  // for a message that is stored: it is there, or gone
	readerIdle   = 30 * time.Second // after which the server forgets a reader that is gone
)

// Query selects lines. Empty names match all.
type Query struct {
	App, Region, Machine string
	// Since leaves out what was stored earlier.
	Since time.Time
	// Lines is the most past lines to give, the latest ones, and 100,000 at most.
	// 0 means 100, or all when Since is set; negative means none.
	Lines int
	// Follow goes on with new lines until the context ends.
	Follow bool
	// Mark gives one line of the source SourceMark, and nothing else in it, where
	// the past lines end.
	Mark bool
}

// Tail gives the selected past lines and, with Follow, the live ones, in the
// order they were stored. A slow reader holds nobody up. It ends without an error
// when the context of a Follow ends; an error is the last thing given.
func (s *Store) Tail(ctx context.Context, q Query) iter.Seq2[Line, error] {
	return func(yield func(Line, error) bool) {
		err := s.tail(ctx, q, func(l Line) bool { return yield(l, nil) })
		if err != nil && !(q.Follow && ctx.Err() != nil) {
			yield(Line{}, fmt.Errorf("cannot read logs: %w", err))
		}
	}
}

func (s *Store) tail(ctx context.Context, q Query, yield func(Line) bool) error {
	filter, err := q.filter()
	if err != nil {
		return err
	}
	stream, err := s.open(ctx)
	if err != nil {
		return err
	}
	from, err := startAt(ctx, stream, q, filter)
	if err != nil {
		return err
	}
	cons, err := stream.OrderedConsumer(ctx, from)
	if err != nil {
		return err
	}
	it, err := cons.Messages(jetstream.PullMaxBytes(2 << 20))
	if err != nil {
		return err
	}
	defer it.Stop()
	more, err := history(ctx, it, cons.CachedInfo().NumPending, q.lines(), yield)
	if err != nil || !more {
		return err
	}
	if q.Mark && !yield(Line{Source: SourceMark}) || !q.Follow {
		return nil
	}
	return live(ctx, it, yield)
}

func (q Query) filter() (string, error) {
	f := "logs"
	for _, part := range []string{q.App, q.Region, q.Machine} {
		if part == "" {
			f += ".*"
			continue
		}
		if err := checkToken(part); err != nil {
			return "", fmt.Errorf("name %q: %w", part, err)
		}
		f += "." + part
	}
	return f, nil
}

// lines is the most past lines, -1 for all.
func (q Query) lines() int {
	switch {
	case q.Lines < 0:
		return 0
	case q.Lines == 0 && !q.Since.IsZero():
		return -1
	case q.Lines == 0:
		return defaultLines
	}
	return min(q.Lines, maxLines)
}

// history reads pending messages and gives the last n lines of them; with -1 all,
// each as it is read. It reports whether the reader wants more.
func history(ctx context.Context, it jetstream.MessagesContext, pending uint64, n int, yield func(Line) bool) (more bool, err error) {
	var past []Line
	for pending > 0 {
		m, err := nextPast(ctx, it)
		if err != nil {
			return false, err
		}
		if m == nil {
			break
		}
		past = append(past, readBatch(m)...)
		if n < 0 {
			if !give(past, yield) {
				return false, nil
			}
			past = past[:0]
		} else if len(past) > 2*n+1024 {
			past = append(past[:0], past[len(past)-n:]...)
		}
		meta, err := m.Metadata()
		if err != nil {
			return false, err
		}
		// Old messages may have been discarded meanwhile: believe the latest count.
		pending = min(pending-1, meta.NumPending)
	}
	if n >= 0 && len(past) > n {
		past = past[len(past)-n:]
	}
	return give(past, yield), nil
}

func give(lines []Line, yield func(Line) bool) (more bool) {
	for _, l := range lines {
		if !yield(l) {
			return false
		}
	}
	return true
}

// nextPast is the next message that was there when reading began; nil when it and
// the rest were removed meanwhile.
func nextPast(ctx context.Context, it jetstream.MessagesContext) (jetstream.Msg, error) {
	soon, cancel := context.WithTimeout(ctx, pastWait)
	defer cancel()
	m, err := it.Next(jetstream.NextContext(soon))
	if err != nil && soon.Err() != nil && ctx.Err() == nil {
		return nil, nil
	}
	return m, err
}

func live(ctx context.Context, it jetstream.MessagesContext, yield func(Line) bool) error {
	for {
		m, err := it.Next(jetstream.NextContext(ctx))
		if errors.Is(err, jetstream.ErrMsgIteratorClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		if !give(readBatch(m), yield) {
			return nil
		}
	}
}

// startAt is where to begin reading so that the last q.Lines lines are seen
// without reading all that is kept.
func startAt(ctx context.Context, stream jetstream.Stream, q Query, filter string) (jetstream.OrderedConsumerConfig, error) {
	c := jetstream.OrderedConsumerConfig{FilterSubjects: []string{filter}, InactiveThreshold: readerIdle}
	switch {
	case q.lines() == 0:
		c.DeliverPolicy = jetstream.DeliverNewPolicy
	case !q.Since.IsZero():
		c.DeliverPolicy, c.OptStartTime = jetstream.DeliverByStartTimePolicy, &q.Since
	default:
		seq, err := lastMessages(ctx, stream, filter, uint64(q.lines()))
		if err != nil {
			return c, err
		}
		c.DeliverPolicy, c.OptStartSeq = jetstream.DeliverByStartSequencePolicy, seq
	}
	return c, nil
}

// lastMessages finds a sequence number after which there are at least n messages
// on filter (each has one line or more), and not many times n.
func lastMessages(ctx context.Context, stream jetstream.Stream, filter string, n uint64) (uint64, error) {
	info, err := stream.Info(ctx)
	if err != nil {
		return 0, err
	}
	first, end := max(info.State.FirstSeq, 1), info.State.LastSeq+1
	low, high := end, end // enough messages after low, too few after high
	for window := 4 * n; ; window *= 8 {
		if first+window >= end {
			low = first
			break
		}
		low = end - window
		got, err := count(ctx, stream, filter, low)
		if err != nil {
			return 0, err
		}
		if got >= n {
			break
		}
		high = low
	}
	return narrow(ctx, stream, filter, n, low, high)
}

func narrow(ctx context.Context, stream jetstream.Stream, filter string, n, low, high uint64) (uint64, error) {
	for high-low > 8*n+1000 {
		mid := low + (high-low)/2
		got, err := count(ctx, stream, filter, mid)
		if err != nil {
			return 0, err
		}
		if got >= n {
			low = mid
		} else {
			high = mid
		}
		if got >= n && got <= 8*n {
			break
		}
	}
	return low, nil
}

// count is how many messages there are on filter from seq on.
func count(ctx context.Context, stream jetstream.Stream, filter string, seq uint64) (uint64, error) {
	cons, err := stream.CreateConsumer(ctx, jetstream.ConsumerConfig{
		FilterSubject: filter, DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: seq,
		AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true, InactiveThreshold: readerIdle,
	})
	if err != nil {
		return 0, err
	}
	info := cons.CachedInfo()
	return info.NumPending, stream.DeleteConsumer(ctx, info.Name)
}
