package router

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/perigee-run/perigee/router/http1"
)

// upload is the body of an HTTP/2 client's request on its way to a machine or to another router, as HTTP/1. One goroutine
// reads it from the client, one for each try sends it. As long as it is not longer than maxReplayBody, and the router may
// keep so much, all of it is kept, so that another try can send it again.
type upload struct {
	x       *web
	chunked bool
	read    chan struct{} // closed when nothing is read any more

	mu    sync.Mutex // guards what follows
	moved *sync.Cond // something did
	kept  []byte     // as sent on the wire
	pos   int        // how far it is sent in this try
	whole bool       // kept has all there was so far
	taken bool       // the request has its place: what is too long to be kept may go
	ended bool       // the client has sent all
	err   error      // the client broke off
	dead  bool       // nobody wants it any more
	try   *uploadTry
}

// uploadTry is one try to send it.
type uploadTry struct {
	up      net.Conn
	done    chan struct{}
	stopped bool  // guarded by upload.mu
	err     error // set before done is closed
}

const uploadAhead = 64 << 10 // read from the client before it is sent

func (x *web) newUpload() *upload {
	u := &upload{x: x, chunked: x.req.ContentLength <= 0, whole: true, read: make(chan struct{})}
	u.moved = sync.NewCond(&u.mu)
	if !u.chunked {
		x.keep.whole(x.req.ContentLength)
	}
	x.r.goes.Go(u.fill)
	return u
}

// fill reads the body. The client may be silent for BodyTimeout each time, which does not count while we make it wait.
func (u *upload) fill() {
	defer close(u.read)
	buf := bigBuffers.Get().(*[64 << 10]byte)
	defer bigBuffers.Put(buf)
	for {
		u.awaitClient(time.Now().Add(u.x.r.cfg.BodyTimeout))
		n, err := u.x.req.Body.Read(buf[:])
		u.x.in.Add(int64(n))
		if !u.add(buf[:n], err) {
			return
		}
	}
}

// awaitClient limits how long is waited for the client. Zero is no limit.
func (u *upload) awaitClient(until time.Time) {
	_ = http.NewResponseController(u.x.w).SetReadDeadline(until)
}

// hold waits for something to move while the client is kept waiting; u.mu is held.
func (u *upload) hold() {
	u.awaitClient(time.Time{})
	u.moved.Wait()
}

// silent reports whether the client sent nothing more in time.
func (u *upload) silent() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return errors.Is(u.err, os.ErrDeadlineExceeded)
}

// add takes a piece and says whether to read on.
func (u *upload) add(b []byte, err error) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	fits := u.whole && u.x.keep.more(len(b))
	for u.whole && !fits && !u.taken && !u.dead {
		u.hold()
	}
	if u.whole && !fits {
		u.whole = false
		u.x.keep.release()
		u.kept, u.pos = append([]byte(nil), u.kept[u.pos:]...), 0
	}
	for !u.whole && len(u.kept) > uploadAhead && !u.dead {
		u.hold()
	}
	defer u.moved.Broadcast()
	if u.dead {
		return false
	}
	if u.chunked {
		u.kept = http1.AppendChunk(u.kept, b)
	} else {
		u.kept = append(u.kept, b...)
	}
	switch {
	case err == nil:
		return true
	case errors.Is(err, io.EOF):
		if u.chunked {
			u.kept = lastChunk(u.kept, u.x.req.Trailer)
		}
		u.ended = true
	default:
		u.err = err
	}
	return false
}

// sendTo begins a try. taken says that the request has its place there already.
func (u *upload) sendTo(up net.Conn, taken bool) {
	t := &uploadTry{up: up, done: make(chan struct{})}
	u.mu.Lock()
	u.try, u.taken = t, taken
	if u.whole {
		u.pos = 0
	}
	u.moved.Broadcast()
	u.mu.Unlock()
	u.x.r.goes.Go(func() { u.send(t) })
}

func (u *upload) send(t *uploadTry) {
	defer close(t.done)
	for {
		out, err := u.next(t)
		if len(out) > 0 {
			_, t.err = t.up.Write(out)
		}
		if t.err != nil || err != nil {
			t.err = errors.Join(t.err, err)
			if errors.Is(t.err, io.EOF) {
				t.err = nil
			}
			return
		}
	}
}

// next waits for the next piece. io.EOF says that all is sent.
func (u *upload) next(t *uploadTry) ([]byte, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for u.pos == len(u.kept) && !t.stopped && !u.ended && u.err == nil && !u.dead {
		u.moved.Wait()
	}
	switch {
	case t.stopped || u.dead:
		return nil, errNotTaken
	case u.err != nil: // the machine must not take what it has for the whole
		_ = t.up.Close()
		return nil, u.err
	case u.pos == len(u.kept):
		return nil, io.EOF
	}
	out := u.kept[u.pos:]
	if u.pos = len(u.kept); !u.whole {
		u.kept, u.pos = nil, 0
		u.moved.Broadcast()
	}
	return out, nil
}

// accept says that the request has its place.
func (u *upload) accept() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.taken = true
	u.moved.Broadcast()
}

// stop ends the try and says whether the body went out whole, and whether it could be sent again.
func (u *upload) stop(patience time.Duration) (sent, again bool) {
	t := u.try
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-t.done:
	case <-timer.C:
		_ = t.up.SetWriteDeadline(time.Unix(1, 0))
		u.mu.Lock()
		t.stopped = true
		u.moved.Broadcast()
		u.mu.Unlock()
		<-t.done
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	return t.err == nil, u.whole && u.err == nil
}

// close ends the reading.
func (u *upload) close() {
	u.mu.Lock()
	u.dead = true
	u.moved.Broadcast()
	u.mu.Unlock()
	_ = u.x.req.Body.Close()
	<-u.read
	if u.try != nil {
		<-u.try.done
	}
}
