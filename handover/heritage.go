package handover

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// heritageEnv names, in the order of their numbers from 3 on, the descriptors
// that a process gets from the one whose place it takes.
const heritageEnv = "PERIGEE_HERITAGE"

const lineName = "line"

// answerWithin is how long an answer to the predecessor may take.
const answerWithin = time.Minute

// errAlone means that the predecessor ended before it had let go.
var errAlone = errors.New("the process that this one was to take over from has ended")

// Heritage is what a process gets from the one whose place it takes: its open
// sockets, and a line to it. Nil is an ordinary start; every method may be called
// on it. All may be called at the same time.
type Heritage struct {
	line *line
	free chan struct{} // closed when the predecessor has let go
	gave chan string
	gone chan struct{} // closed when the predecessor has ended

	busy   atomic.Pointer[map[string]int] // what is in flight at the predecessor; nil: anything may be
	answer func(context.Context, string) (netip.Addr, error)
	known  chan struct{} // closed when answer is set

	mu    sync.Mutex // guards files
	files map[string]int
}

// Inherit reads what a predecessor left for this process, nil if there is none. It
// is for the start of the process, once: descriptors and environment are its own
// afterwards, and no child's.
func Inherit() (*Heritage, error) {
	names := os.Getenv(heritageEnv)
	if names == "" {
		return nil, nil
	}
	os.Unsetenv(heritageEnv)
	files := map[string]int{}
	for i, name := range strings.Split(names, ",") {
		unix.CloseOnExec(3 + i)
		files[name] = 3 + i
	}
	fd, ok := files[lineName]
	if !ok {
		return nil, fmt.Errorf("cannot take over: %s has no line to the other process", heritageEnv)
	}
	delete(files, lineName)
	l, err := lineOf(fd)
	if err != nil {
		return nil, fmt.Errorf("cannot take over: %w", err)
	}
	return newHeritage(l, files), nil
}

func newHeritage(l *line, files map[string]int) *Heritage {
	h := &Heritage{line: l, files: files, free: make(chan struct{}), gave: make(chan string, 4), gone: make(chan struct{}), known: make(chan struct{})}
	go h.listen()
	return h
}

// listen ends with the predecessor.
func (h *Heritage) listen() {
	defer close(h.gone)
	defer h.line.close()
	free := sync.OnceFunc(func() { close(h.free) })
	for {
		w, err := h.line.hear()
		if err != nil {
			return
		}
		switch w.Say {
		case sayGo:
			free()
		case sayGave:
			select {
			case h.gave <- w.ID:
			default: // nobody waits for so many
			}
		case sayBusy:
			h.busy.Store(&w.Busy)
		case sayWake:
			go h.answerFor(w.ID)
		}
	}
}

// answerFor answers for what the predecessor holds.
func (h *Heritage) answerFor(id string) {
	select {
	case <-h.known:
	case <-h.gone:
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), answerWithin)
	defer cancel()
	addr, err := h.answer(ctx, id)
	w := word{Say: sayWoke, ID: id, Addr: addr}
	if err != nil {
		w.Err = err.Error()
	}
	_ = h.line.say(w) // it may be gone
}

// Begin says that this process runs, and which version, and waits until the
// predecessor has let go of what one process alone can have. It fails if the
// predecessor or ctx ends before.
func (h *Heritage) Begin(ctx context.Context, version string) error {
	if h == nil {
		return nil
	}
	if err := h.line.say(word{Say: sayHello, ID: version}); err != nil {
		return err
	}
	select {
	case <-h.free:
		return nil
	case <-h.gone:
		return errAlone
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Want asks the predecessor to end with something that it goes on with until then,
// and returns when it has, by [Giver.Give]. One that has ended has. One thing is
// wanted at a time.
func (h *Heritage) Want(ctx context.Context, what string) {
	if h == nil || h.line.say(word{Say: sayWant, ID: what}) != nil {
		return
	}
	for {
		select {
		case got := <-h.gave:
			if got == what {
				return
			}
		case <-h.gone:
			return
		case <-ctx.Done():
			return
		}
	}
}

// Answer has this process answer what the predecessor asks for, see
// [Succession.Ask], from now on: what came before waits for it. It is called once.
// An answer has a minute.
func (h *Heritage) Answer(answer func(ctx context.Context, id string) (netip.Addr, error)) {
	if h != nil {
		h.answer = answer
		close(h.known)
	}
}

// Ready tells the predecessor that this process serves, so that it may go, and
// closes what nobody took. It fails if the predecessor is gone.
func (h *Heritage) Ready() error {
	if h == nil {
		return nil
	}
	h.drop()
	return h.line.say(word{Say: sayReady})
}

// Fail tells the predecessor why this process cannot take over, and closes what
// nobody took.
func (h *Heritage) Fail(err error) {
	if h != nil {
		h.drop()
		_ = h.line.say(word{Say: sayFailed, Err: err.Error()}) // it sees our end too
	}
}

func (h *Heritage) drop() {
	h.mu.Lock()
	defer h.mu.Unlock()
	closeAll(h.files)
	clear(h.files)
}

// InFlight is what the predecessor still has in flight of an id. Of one that has
// not said anything yet everything may be: 1.
func (h *Heritage) InFlight(id string) int {
	if h.Gone() {
		return 0
	}
	busy := h.busy.Load()
	if busy == nil {
		return 1
	}
	return (*busy)[id]
}

// Gone reports whether the predecessor has ended, with all that was open there.
// Where there never was one it has.
func (h *Heritage) Gone() bool {
	if h == nil {
		return true
	}
	select {
	case <-h.gone:
		return true
	default:
		return false
	}
}

// AwaitGone waits until the predecessor has ended; its error is ctx's.
func (h *Heritage) AwaitGone(ctx context.Context) error {
	if h == nil {
		return nil
	}
	select {
	case <-h.gone:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Take returns what was kept by the name, once, as a file with the path as its
// name; nil if there is none. The caller closes it.
func (h *Heritage) Take(name, path string) *os.File {
	if h == nil {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	fd, ok := h.files[name]
	if !ok {
		return nil
	}
	delete(h.files, name)
	return os.NewFile(uintptr(fd), path)
}

// Listener takes a socket that is listened on, or opens one if there is none.
func (h *Heritage) Listener(name string, open func() (net.Listener, error)) (net.Listener, error) {
	f := h.Take(name, name)
	if f == nil {
		return open()
	}
	defer f.Close()
	return net.FileListener(f)
}

// Listeners takes all sockets whose names begin with the prefix, by the rest of
// their names.
func (h *Heritage) Listeners(prefix string) (map[string]net.Listener, error) {
	out := map[string]net.Listener{}
	for _, name := range h.names(prefix) {
		l, err := h.Listener(name, nil)
		if err != nil {
			return nil, fmt.Errorf("cannot take over %q: %w", name, err)
		}
		out[strings.TrimPrefix(name, prefix)] = l
	}
	return out, nil
}

func (h *Heritage) names(prefix string) (out []string) {
	if h == nil {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for name := range h.files {
		if strings.HasPrefix(name, prefix) {
			out = append(out, name)
		}
	}
	return out
}
