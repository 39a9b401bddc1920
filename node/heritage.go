package node

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

	"github.com/perigee-run/perigee/dns/door"
	"github.com/perigee-run/perigee/internal/version"
)

// heritageEnv names, in the order of their numbers from 3 on, the descriptors
// that a process gets from the node whose place it takes.
const heritageEnv = "PERIGEE_HERITAGE"

const lineName = "line"

// errAlone means that the predecessor ended before it had let go.
var errAlone = errors.New("the node that this process was to take over from has ended")

// heritage is what a node gets from the one whose place it takes: its open
// sockets, and a line to it. Nil is an ordinary start; every method may be
// called on it.
type heritage struct {
	line *line
	free chan struct{} // closed when the predecessor has let go
	gave chan string
	gone chan struct{} // closed when the predecessor has ended

	busy  atomic.Pointer[map[string]int] // requests at the predecessor; nil: any machine may have some
	wake  func(context.Context, string) (netip.Addr, error)
	known chan struct{} // closed when wake is set

	mu    sync.Mutex // guards files
	files map[string]int
}

// inherit reads what a predecessor left for this process, nil if there is none.
func inherit() (*heritage, error) {
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
		return nil, fmt.Errorf("cannot take over: %s has no line to the node", heritageEnv)
	}
	delete(files, lineName)
	l, err := lineOf(fd)
	if err != nil {
		return nil, fmt.Errorf("cannot take over: %w", err)
	}
	return newHeritage(l, files), nil
}

func newHeritage(l *line, files map[string]int) *heritage {
	h := &heritage{line: l, files: files, free: make(chan struct{}), gave: make(chan string, 4), gone: make(chan struct{}), known: make(chan struct{})}
	go h.listen()
	return h
}

// listen ends with the predecessor.
func (h *heritage) listen() {
	defer close(h.gone)
	defer h.line.close()
	for {
		w, err := h.line.hear()
		if err != nil {
			return
		}
		switch w.Say {
		case sayGo:
			close(h.free)
		case sayGave:
			h.gave <- w.ID
		case sayBusy:
			h.busy.Store(&w.Busy)
		case sayWake:
			go h.wakeFor(w.ID)
		}
	}
}

// wakeFor wakes a machine for a request that the predecessor holds.
func (h *heritage) wakeFor(id string) {
	select {
	case <-h.known:
	case <-h.gone:
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	addr, err := h.wake(ctx, id)
	w := word{Say: sayWoke, ID: id, Addr: addr}
	if err != nil {
		w.Err = err.Error()
	}
	_ = h.line.say(w) // it may be gone
}

// begin says that this process runs, and waits until the predecessor has let go.
func (h *heritage) begin(ctx context.Context) error {
	if h == nil {
		return nil
	}
	if err := h.line.say(word{Say: sayHello, ID: version.Version}); err != nil {
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

// want asks the predecessor to end with something. One that has ended has.
func (h *heritage) want(ctx context.Context, what string) {
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

// serve has the predecessor's requests wake machines by wake.
func (h *heritage) serve(wake func(context.Context, string) (netip.Addr, error)) {
	if h != nil {
		h.wake = wake
		close(h.known)
	}
}

// ready tells the predecessor that it may go, and lets go of what nobody took.
func (h *heritage) ready() error {
	if h == nil {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for name, fd := range h.files {
		unix.Close(fd)
		delete(h.files, name)
	}
	return h.line.say(word{Say: sayReady})
}

// fail tells the predecessor why this process cannot take over.
func (h *heritage) fail(err error) {
	if h != nil {
		_ = h.line.say(word{Say: sayFailed, Err: err.Error()}) // it sees our end too
	}
}

// inFlight is what the predecessor still has in flight to a machine. Of one that
// has not said anything yet every machine may have something.
func (h *heritage) inFlight(id string) int {
	if h == nil {
		return 0
	}
	select {
	case <-h.gone:
		return 0
	default:
	}
	busy := h.busy.Load()
	if busy == nil {
		return 1
	}
	return (*busy)[id]
}

// ended waits until the predecessor has nothing in flight any more.
func (h *heritage) ended(ctx context.Context) error {
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

// take returns a descriptor once, as a file with the path as its name; nil if
// there is none.
func (h *heritage) take(name, path string) *os.File {
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

// listener takes a socket that is listened on, or opens one.
func (h *heritage) listener(name string, open func() (net.Listener, error)) (net.Listener, error) {
	f := h.take(name, name)
	if f == nil {
		return open()
	}
	defer f.Close()
	return net.FileListener(f)
}

// routerListeners are those of the router, by its own names for them.
func (h *heritage) routerListeners() (map[string]net.Listener, error) {
	out := map[string]net.Listener{}
	for _, name := range h.names(routerName) {
		l, err := h.listener(name, nil)
		if err != nil {
			return nil, fmt.Errorf("cannot take over port %q: %w", name, err)
		}
		out[strings.TrimPrefix(name, routerName)] = l
	}
	return out, nil
}

// routerSockets are those that the router begins with: the predecessor's, and
// those for the addresses of apps, which are named after their own.
func (n *Node) routerSockets(ctx context.Context) (ports map[string]net.Listener, own []net.Listener, err error) {
	if ports, err = n.cfg.heritage.routerListeners(); err != nil {
		return nil, nil, err
	}
	for name, l := range ports {
		if _, err := netip.ParseAddrPort(name); err == nil {
			own = append(own, l)
			delete(ports, name)
		}
	}
	if len(own) == 0 {
		own, err = n.network.ListenServices(ctx)
	}
	return ports, own, err
}

func (h *heritage) names(prefix string) (out []string) {
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

// door takes an address for DNS over, or opens it.
func (h *heritage) door(name string, open func() (door.Door, error)) (door.Door, error) {
	u, t := h.take(name+udpSuffix, name), h.take(name+tcpSuffix, name)
	if u == nil || t == nil {
		return open()
	}
	defer u.Close()
	defer t.Close()
	udp, err := net.FilePacketConn(u)
	if err != nil {
		return door.Door{}, err
	}
	tcp, err := net.FileListener(t)
	if err != nil {
		udp.Close()
	}
	return door.Of(udp, tcp), err
}
