package logs

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/oklog/ulid/v2"
	"golang.org/x/sys/unix"

	"github.com/perigee-run/perigee/internal/durable"
)

// place is how far a console file is shipped.
type place struct {
	Generation string `json:"generation"` // of the file: a new one after a truncation
	Inode      uint64 `json:"inode"`
	Offset     int64  `json:"offset"`
	Sequence   uint64 `json:"sequence"` // of the stream message that ends at Offset
}

func placePath(console string) string { return console + ".offset" }

// save replaces the offset file; after a crash it is the old or the new one.
func (p place) save(console string) error {
	data, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return durable.WriteFile(placePath(console), 0o640, data)
}

// loadPlace reads it; a missing or unreadable one is a start at 0, from where
// the stream's own record and the file's holes still lead to the right place.
func loadPlace(console string) place {
	var p place
	data, err := os.ReadFile(placePath(console))
	if err == nil && json.Unmarshal(data, &p) != nil {
		p = place{}
	}
	return p
}

// resume finds where shipping ended: the place that was saved, then what the
// stream holds beyond it, then past the hole if there is one.
func (f *follower) resume() error {
	st, err := f.file.Stat()
	if err != nil {
		return err
	}
	p, inode := loadPlace(f.m.Path), st.Sys().(*syscall.Stat_t).Ino
	known := p.Generation != "" && p.Inode == inode && p.Offset <= st.Size()
	if !known {
		p = place{Generation: ulid.Make().String(), Inode: inode}
		p.Offset = pastHole(f.file, 0, st.Size()) // shipped once, though nobody remembers
		if err := p.save(f.m.Path); err != nil {
			return err
		}
	}
	f.place, f.safe, f.settling, f.settleAt = p, p, p, time.Now()
	if known {
		return f.catchUp(st.Size())
	}
	return nil
}

func (f *follower) catchUp(size int64) error {
	if err := f.readAhead(size); err != nil {
		return err
	}
	f.settling = f.place
	if to := pastHole(f.file, f.Offset, size); to > f.Offset {
		return f.skip(to) // dropped by one who could not say so any more
	}
	return nil
}

// readAhead goes past what was stored after the place in hand.
func (f *follower) readAhead(size int64) error {
	stream, err := f.c.cfg.Store.open(f.ctx)
	if err != nil {
		return err
	}
	for next := f.Sequence + 1; ; {
		m, err := stream.GetMsg(f.ctx, next, jetstream.WithGetMsgSubject(f.subject))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		if pos, ok := parsePosition(m.Header.Get(headerPosition)); ok && pos.generation == f.Generation &&
			pos.end > f.Offset && pos.end <= size {
			f.Offset, f.Sequence, f.open = pos.end, m.Sequence, f.midLine(pos.end)
		}
		next = m.Sequence + 1
	}
}

// midLine tells whether the byte before offset ends a line. One in a hole did:
// unfinished lines are rarely at the end of a block.
func (f *follower) midLine(offset int64) bool {
	var last [1]byte
	n, _ := f.file.ReadAt(last[:], offset-1)
	return n == 1 && last[0] != '\n' && last[0] != 0
}

// pastHole is the first byte at or after offset that is not in a hole.
func pastHole(file *os.File, offset, size int64) int64 {
	at, err := unix.Seek(int(file.Fd()), offset, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return size
	}
	if err != nil {
		return offset
	}
	return min(max(at, offset), size)
}

// startOver is for a file that is shorter than what was shipped of it.
func (f *follower) startOver() {
	f.place = place{Generation: ulid.Make().String(), Inode: f.Inode, Sequence: f.Sequence}
	f.open, f.partial = false, time.Time{}
	if err := f.save(f.m.Path); err != nil {
		f.fault("cannot remember that a console file was truncated", err)
	}
	f.safe, f.settling = f.place, f.place
}

// position is which bytes of a console file a message stands for.
type position struct {
	generation string
	start, end int64
}

func (p position) String() string { return fmt.Sprintf("%s:%d:%d", p.generation, p.start, p.end) }

func parsePosition(s string) (p position, ok bool) {
	parts := strings.Split(s, ":")
	if len(parts) != 3 {
		return p, false
	}
	start, err1 := strconv.ParseInt(parts[1], 10, 64)
	end, err2 := strconv.ParseInt(parts[2], 10, 64)
	return position{parts[0], start, end}, err1 == nil && err2 == nil && 0 <= start && start <= end
}
