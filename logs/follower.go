package logs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sys/unix"

	"github.com/perigee-run/perigee/catalog"
)

const (
	hole       = 4096 // holes are cut in whole blocks
	errorPause = time.Second
)

// follower ships one console file. All but wake, drain and cancel is used by its
// own goroutine alone.
type follower struct {
	c       *Collector
	m       Machine
	subject string
	file    *os.File
	kick    chan struct{}
	ending  chan struct{} // closed by drain
	endOnce sync.Once
	ctx     context.Context
	cancel  context.CancelFunc
	done    chan struct{}

	cutter
	place          // shipped and acknowledged
	safe     place // what is on disk in the offset file
	settling place // acknowledged at settleAt, becomes safe later
	settleAt time.Time
	partial  time.Time // when an unfinished line was first seen; zero if there is none
	unsure   bool      // a batch may be stored though its acknowledgement did not come
}

func newFollower(c *Collector, m Machine) (*follower, error) {
	subj, err := subject(m.App, m.Region, m.ID)
	if err != nil {
		return nil, err
	}
	file, err := os.OpenFile(m.Path, os.O_RDWR|os.O_CREATE, 0o640)
	if err != nil {
		return nil, err
	}
	f := &follower{c: c, m: m, subject: subj, file: file, kick: make(chan struct{}, 1),
		ending: make(chan struct{}), done: make(chan struct{})}
	f.ctx, f.cancel = context.WithCancel(c.ctx)
	return f, nil
}

// wake says that there may be something to read.
func (f *follower) wake() {
	select {
	case f.kick <- struct{}{}:
	default:
	}
}

func (f *follower) drain() { f.endOnce.Do(func() { close(f.ending) }) }

func (f *follower) run() {
	defer close(f.done)
	defer f.c.forget(f)
	defer f.file.Close()
	defer f.cancel()
	for err := f.resume(); err != nil; err = f.resume() {
		f.fault("cannot find where the log of this machine ended, for now", err)
		if !f.pause() {
			return
		}
	}
	for f.turn() {
	}
}

// turn ships what is there and waits for more; false when the follower ends.
func (f *follower) turn() bool {
	final := f.isEnding()
	shipped, err := f.ship(final)
	switch {
	case err != nil:
		f.fault("cannot ship the console of this machine for now", err)
		return f.pause()
	case final:
		return false
	}
	f.settle(time.Now())
	if shipped {
		return f.rest(batchRest)
	}
	return f.await()
}

// pause is after an error. It does not end early for drain: whoever drains says
// how long they wait.
func (f *follower) pause() bool {
	timer := time.NewTimer(errorPause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-f.ctx.Done():
		return false
	}
}

func (f *follower) isEnding() bool {
	select {
	case <-f.ending:
		return true
	default:
		return false
	}
}

func (f *follower) fault(msg string, err error) {
	if f.ctx.Err() == nil && !errors.Is(err, catalog.ErrFull) { // the store says that, once for all machines
		f.c.log.Error(msg, "machine", f.m.ID, "path", f.m.Path, "error", err)
	}
}

// rest lets a busy machine's next lines gather.
func (f *follower) rest(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-f.ending:
	case <-f.ctx.Done():
		return false
	}
	return true
}

// await sleeps until the file changes or something is due.
func (f *follower) await() bool {
	var due <-chan time.Time
	if d, ok := f.due(); ok {
		timer := time.NewTimer(d)
		defer timer.Stop()
		due = timer.C
	}
	select {
	case <-f.kick:
	case <-due:
	case <-f.ending:
	case <-f.ctx.Done():
		return false
	}
	return true
}

func (f *follower) due() (time.Duration, bool) {
	var at time.Time
	if !f.partial.IsZero() {
		at = f.partial.Add(PartialWait)
	}
	if settled := f.settleAt.Add(f.c.cfg.safeAfter); f.settling.Offset != f.safe.Offset && (at.IsZero() || settled.Before(at)) {
		at = settled
	}
	return max(time.Until(at), time.Millisecond), !at.IsZero()
}

// ship sends batches until the file is read to its end.
func (f *follower) ship(final bool) (shipped bool, err error) {
	for {
		size, err := f.look()
		if err != nil || size == f.Offset {
			return shipped, err
		}
		used, err := f.shipBatch(final)
		if err != nil || used == 0 {
			return shipped, err
		}
		shipped = true
		if f.Offset+readSize/2 > size && !final {
			return shipped, nil
		}
	}
}

// look finds the file's size, and deals with a file that was truncated and one
// that is too far ahead.
func (f *follower) look() (size int64, err error) {
	st, err := f.file.Stat()
	if err != nil {
		return 0, err
	}
	size = st.Size()
	if size < f.Offset {
		f.startOver()
	}
	if err = f.makeSure(size); err == nil && f.tooFar(size) {
		err = f.skip(f.keepFrom(size))
	}
	if err != nil && f.tooFar(size) {
		// The disk must be bounded even while the log takes nothing. What is
		// missing is said when that can be said.
		err = errors.Join(err, f.punch(f.keepFrom(size)))
	}
	return size, err
}

// makeSure settles whether the last batch was stored, when that is not known.
func (f *follower) makeSure(size int64) error {
	if !f.unsure {
		return nil
	}
	if err := f.readAhead(size); err != nil {
		return err
	}
	f.unsure = false
	return nil
}

func (f *follower) tooFar(size int64) bool { return size-f.Offset > f.c.cfg.MaxBacklog }

// keepFrom is where the part of a backlog begins that is not dropped.
func (f *follower) keepFrom(size int64) int64 {
	at := size - f.c.cfg.MaxBacklog/2
	return at + f.restOfLine(at)
}

func (f *follower) shipBatch(final bool) (used int, err error) {
	buf, err := f.takeBuffer()
	if err != nil {
		return 0, err
	}
	defer func() { f.c.slots <- buf }()
	n, err := f.file.ReadAt(buf, f.Offset)
	if n == 0 {
		return 0, err
	}
	before := f.cutter
	lines, used := f.cut(buf[:n], final && n < len(buf))
	if used == 0 && !f.partial.IsZero() && time.Since(f.partial) >= PartialWait {
		lines, used = f.cut(buf[:n], true)
	}
	if err := f.send(lines, used); err != nil {
		f.cutter = before
		return 0, err
	}
	f.notePartial(used == n)
	return used, nil
}

func (f *follower) takeBuffer() ([]byte, error) {
	select {
	case buf := <-f.c.slots:
		if buf == nil {
			buf = make([]byte, readSize)
		}
		return buf, nil
	case <-f.ctx.Done():
		return nil, f.ctx.Err()
	}
}

func (f *follower) notePartial(none bool) {
	switch {
	case none:
		f.partial = time.Time{}
	case f.partial.IsZero():
		f.partial = time.Now()
	}
}

// send publishes the lines that took used bytes at the offset, and moves on.
func (f *follower) send(lines []string, used int) error {
	if len(lines) > 0 {
		if err := f.publish(newBatch(f.subject, SourceApp, time.Now(), lines), f.Offset+int64(used)); err != nil {
			return err
		}
		f.partial = time.Time{}
	}
	f.Offset += int64(used)
	return nil
}

// publish stores a message that stands for the file's bytes up to end. One that
// was stored though its acknowledgement got lost is the same message again.
func (f *follower) publish(m *nats.Msg, end int64) error {
	pos := position{f.Generation, f.Offset, end}.String()
	m.Header.Set(headerPosition, pos)
	m.Header.Set(nats.MsgIdHdr, f.m.ID+":"+pos)
	ctx, cancel := context.WithTimeout(f.ctx, 10*time.Second)
	defer cancel()
	if err := f.c.cfg.Store.Problem(ctx); err != nil {
		return err
	}
	ack, err := f.c.cfg.Store.js.PublishMsg(ctx, m)
	if err != nil {
		f.unsure = true
		return err
	}
	f.Sequence = ack.Sequence
	return nil
}

// skip goes on at to, and says in the log itself what was left out.
func (f *follower) skip(to int64) error {
	text := fmt.Sprintf("%d bytes of this machine's output were dropped: it wrote faster than the log could take it", to-f.Offset)
	if err := f.publish(newBatch(f.subject, SourcePlatform, time.Now(), []string{text}), to); err != nil {
		return err
	}
	f.Offset, f.open, f.partial = to, false, time.Time{}
	return nil
}

// restOfLine is how many bytes after at belong to the line that at is in.
func (f *follower) restOfLine(at int64) int64 {
	buf := make([]byte, MaxLine)
	n, _ := f.file.ReadAt(buf, at)
	for i, b := range buf[:n] {
		if b == '\n' {
			return int64(i + 1)
		}
	}
	return 0
}

// settle makes what was acknowledged long enough ago safe: first the place is on
// disk, then the bytes before it are cut out.
func (f *follower) settle(now time.Time) {
	if f.settling.Offset != f.safe.Offset && now.Sub(f.settleAt) >= f.c.cfg.safeAfter {
		if err := f.settling.save(f.m.Path); err != nil {
			f.fault("cannot remember how far the console of this machine is shipped", err)
			f.settleAt = now // try again later
			return
		}
		f.safe = f.settling
		if err := f.punch(f.safe.Offset); err != nil {
			f.fault("cannot free the shipped part of a console file", err)
		}
	}
	if f.settling.Offset == f.safe.Offset && f.Offset != f.safe.Offset {
		f.settling, f.settleAt = f.place, now
	}
}

func (f *follower) punch(to int64) error {
	to -= to % hole
	if to <= 0 {
		return nil
	}
	err := unix.Fallocate(int(f.file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, to)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil // such a file system keeps the bytes until the file goes
	}
	return err
}
