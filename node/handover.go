package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/dns/door"
)

// Names of the descriptors that are handed over.
const (
	lockName   = "lock"
	tunName    = "tun"
	apiName    = "api"
	socketName = "socket"
	peerName   = "peer"
	routerName = "router/"
	udpSuffix  = "/udp"
	tcpSuffix  = "/tcp"
)

const (
	// helloWithin is how long a new program may take to say that it runs.
	helloWithin = 15 * time.Second
	// readyWithin is how long it may take to open all that this node has let go of.
	readyWithin = time.Minute
	// lastGrace is how long connections may go on here when the heir has ended: as
	// long as with any end of a node.
	lastGrace = 10 * time.Second
	// quietAfter is how long after the ports were handed over only what is in flight
	// is left here; see the router's patience.
	quietAfter = 3 * time.Second
)

// errReplaced ends the node's works when another process takes its place.
var errReplaced = errors.New("another process takes over")

// succession is the node's part in handing over.
type succession struct {
	heirs   chan *heir // holds the one that is willing
	leaving chan struct{}
	settled chan struct{} // closed when the heir serves

	mu      sync.Mutex // guards what follows
	busy    bool       // an upgrade is under way
	sockets map[string]syscall.Conn
	line    *line                  // to the heir, once it serves
	wakes   map[string]chan<- word // by machine
}

func newSuccession() *succession {
	return &succession{heirs: make(chan *heir, 1), leaving: make(chan struct{}), settled: make(chan struct{}), sockets: map[string]syscall.Conn{}, wakes: map[string]chan<- word{}}
}

func (s *succession) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.busy
	s.busy = true
	return !was
}

func (s *succession) giveUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy = false
}

func (s *succession) isBusy() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.busy
}

// heir is a process that is to take this one's place.
type heir struct {
	line    *line
	process *os.Process
	version string
	files   map[string]int // what it has got, to begin anew with if it fails
}

// end kills it and waits for its end, so that all it had is free.
func (h *heir) end() string {
	h.line.close()
	_ = h.process.Kill() // it may be gone
	state, err := h.process.Wait()
	if err != nil {
		return err.Error()
	}
	return state.String()
}

// keep notes a socket for a successor.
func (n *Node) keep(name string, s any) {
	c, ok := s.(syscall.Conn)
	if !ok {
		return
	}
	n.next.mu.Lock()
	defer n.next.mu.Unlock()
	n.next.sockets[name] = c
}

// openDoor opens an address for DNS, or takes it over.
func (n *Node) openDoor(at netip.AddrPort) (door.Door, error) {
	name := "dns/" + at.String()
	d, err := n.cfg.heritage.door(name, func() (door.Door, error) { return door.Open(at) })
	if err == nil {
		udp, tcp := d.Sockets()
		n.keep(name+udpSuffix, udp)
		n.keep(name+tcpSuffix, tcp)
	}
	return d, err
}

// estate duplicates all descriptors that a successor gets. They stay as they are
// set: without waiting.
func (n *Node) estate() (files map[string]int, err error) {
	files = map[string]int{}
	defer func() {
		if err != nil {
			closeAll(files)
		}
	}()
	ports, err := n.router.Files()
	if err != nil {
		return files, err
	}
	conns := map[string]syscall.Conn{lockName: n.lock}
	for port, f := range ports {
		defer f.Close()
		conns[routerName+port] = f
	}
	n.next.mu.Lock()
	maps.Copy(conns, n.next.sockets)
	n.next.mu.Unlock()
	for name, c := range conns {
		if files[name], err = duplicate(c); err != nil {
			delete(files, name)
			return files, fmt.Errorf("cannot hand over %q: %w", name, err)
		}
	}
	return files, nil
}

func duplicate(c syscall.Conn) (fd int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	e := raw.Control(func(old uintptr) { fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 3) })
	return fd, errors.Join(e, err)
}

func closeAll(files map[string]int) {
	for _, fd := range files {
		unix.Close(fd)
	}
}

// upgradePath is where a node is asked to upgrade itself.
const upgradePath = "/peer/v1/upgrade"

// Upgrade has a node, this one or another, put the program on its disk in the
// place of the one that runs.
func (n *Node) Upgrade(ctx context.Context, node string) (string, error) {
	if node == n.cfg.Name {
		return n.upgrade(context.WithoutCancel(ctx))
	}
	client, base, err := n.cluster.HTTPClient(node)
	if err != nil {
		return "", err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+upgradePath, nil)
	if err != nil {
		return "", err
	}
	res, err := client.Do(req)
	if err != nil {
		return "", fmt.Errorf("cannot ask node %q to upgrade: %w", node, err)
	}
	defer res.Body.Close()
	var u api.NodeUpgrade
	return u.Version, readPeer(res, &u)
}

// serveUpgrade answers another node that was asked to upgrade this one.
func (n *Node) serveUpgrade(w http.ResponseWriter, r *http.Request) {
	version, err := n.upgrade(context.WithoutCancel(r.Context()))
	answerPeer(w, api.NodeUpgrade{Version: version}, err)
}

// upgrade starts the program that is on disk now, in the place of the one that
// runs. It returns the new one's version when that runs and is willing to take
// over, which it does then while this one serves; or an error, and then nothing
// has changed.
func (n *Node) upgrade(ctx context.Context) (string, error) {
	if why := n.mayNotUpgrade(); why != nil {
		return "", why
	}
	if !n.next.begin() {
		return "", api.Errorf(api.CodeConflict, "an upgrade of node %q is under way", n.cfg.Name)
	}
	h, err := n.spawn(ctx)
	if err != nil {
		n.next.giveUp()
		n.log.Error("cannot upgrade; this program goes on", "program", n.cfg.Program, "err", err)
		return "", api.Errorf(api.CodePrecondition, "cannot upgrade node %q: %v", n.cfg.Name, err).WithHint("nothing has changed; put a program that works at " + n.cfg.Program)
	}
	n.log.Info("a new program takes over", "program", n.cfg.Program, "version", h.version, "pid", h.process.Pid)
	n.unlinkSockets(false)
	close(n.next.leaving)
	n.next.heirs <- h
	return h.version, nil
}

// unlinkSockets says whether the paths of unix sockets go when this process
// closes them.
func (n *Node) unlinkSockets(on bool) {
	n.next.mu.Lock()
	defer n.next.mu.Unlock()
	for _, s := range n.next.sockets {
		if u, ok := s.(*net.UnixListener); ok {
			u.SetUnlinkOnClose(on)
		}
	}
}

// signSocket makes this process the one that the API's socket is of, for those
// who ask the kernel: to listen again changes nothing else.
func (n *Node) signSocket() error {
	n.next.mu.Lock()
	defer n.next.mu.Unlock()
	raw, err := n.next.sockets[socketName].SyscallConn()
	if err != nil {
		return err
	}
	e := raw.Control(func(fd uintptr) { err = unix.Listen(int(fd), unix.SOMAXCONN) })
	return errors.Join(e, err)
}

// mayNotUpgrade is what makes an upgrade end badly.
func (n *Node) mayNotUpgrade() error {
	if n.cfg.Program == "" {
		return api.Errorf(api.CodeUnsupported, "node %q does not know its own program", n.cfg.Name)
	}
	if supervised() && !canNotify() {
		return api.Errorf(api.CodePrecondition, "cannot upgrade node %q: systemd would take the end of this process for the end of the service", n.cfg.Name).
			WithHint("set Type=notify in the unit, as docs/operations.md shows, and restart it once")
	}
	if n.predecessor() {
		return api.Errorf(api.CodeConflict, "cannot upgrade node %q yet: connections of the program before this one are still open", n.cfg.Name).WithHint("try again when they have ended")
	}
	return nil
}

// predecessor reports whether the one before this node still has connections.
func (n *Node) predecessor() bool {
	if n.cfg.heritage == nil {
		return false
	}
	select {
	case <-n.cfg.heritage.gone:
		return false
	default:
		return true
	}
}

// spawn starts the program with the flags of this one and waits until it says
// that it runs.
func (n *Node) spawn(ctx context.Context) (*heir, error) {
	files, err := n.estate()
	if err != nil {
		return nil, err
	}
	h, err := startHeir(n.cfg.Program, files)
	if err == nil {
		err = h.greet(ctx)
	}
	if err != nil {
		closeAll(files)
		return nil, fmt.Errorf("the program %s is of no use: %w", n.cfg.Program, err)
	}
	return h, nil
}

// greet waits until the program says that it runs, and ends one that does not.
func (h *heir) greet(ctx context.Context) error {
	heard := make(chan error, 1)
	go func() {
		w, err := h.line.hear()
		if err == nil && w.Say == sayFailed {
			err = errors.New(w.Err)
		}
		h.version = w.ID
		heard <- err
	}()
	ctx, cancel := context.WithTimeout(ctx, helloWithin)
	defer cancel()
	var err error
	select {
	case err = <-heard:
		if err == nil {
			return nil
		}
	case <-ctx.Done():
		err = fmt.Errorf("it did not say within %s that it runs", helloWithin)
	}
	if state := h.end(); hungUp(err) {
		return fmt.Errorf("it ended at once: %s; the node's log may say why", state)
	}
	return err
}

// startHeir starts the program with descriptors from 3 on, in a session of its
// own as the first one.
func startHeir(program string, files map[string]int) (*heir, error) {
	l, fd, err := linePair()
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	names := slices.Sorted(maps.Keys(files))
	fds := []uintptr{0, 1, 2, uintptr(fd)}
	for _, name := range names {
		fds = append(fds, uintptr(files[name]))
	}
	env := append(os.Environ(), heritageEnv+"="+strings.Join(append([]string{lineName}, names...), ","))
	attr := &syscall.ProcAttr{Env: env, Files: fds, Sys: &syscall.SysProcAttr{Setsid: true}}
	pid, _, err := syscall.StartProcess(program, append([]string{program}, os.Args[1:]...), attr)
	if err != nil {
		l.close()
		return nil, fmt.Errorf("cannot start it: %w", err)
	}
	process, err := os.FindProcess(pid)
	return &heir{line: l, process: process, files: files}, err
}

// awaitHeir ends the node's works when somebody is there to take its place.
func (n *Node) awaitHeir(ctx context.Context) error {
	for {
		select {
		case h := <-n.next.heirs:
			n.heir = h
			n.idle.end() // no machine falls asleep unseen while nobody keeps the table
			return errReplaced
		case <-n.cfg.UpgradeOn:
			if _, err := n.upgrade(ctx); err != nil {
				n.log.Error("cannot upgrade on a signal", "err", err)
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// handOver gives all but the open connections to the heir, and returns when they
// have ended. If the heir fails it returns a takenBack.
func (n *Node) handOver(ctx context.Context) error {
	began := time.Now()
	if err := n.refresh(); err != nil { // the last that this process will know
		n.log.Warn("cannot give the router its last table", "err", err)
	}
	n.letGo()
	err := n.heir.line.say(word{Say: sayGo})
	if err == nil {
		err = n.attend(ctx, n.heir.line)
	}
	if err == nil {
		n.log.Info("the new program serves", "version", n.heir.version, "after", time.Since(began).Round(time.Millisecond))
		notify(fmt.Sprintf("MAINPID=%d", n.heir.process.Pid))
		closeAll(n.heir.files)
		return n.retire(ctx, n.heir.line)
	}
	state := n.heir.end()
	if ctx.Err() != nil { // we were told to end meanwhile
		return n.finish(nil)
	}
	if hungUp(err) {
		err = fmt.Errorf("it ended: %s", state)
	}
	n.log.Error("the new program did not take over; this one goes on", "version", n.heir.version, "err", err)
	return &takenBack{n, n.heir.files, fmt.Sprintf("at %s version %s did not take over: %v", time.Now().UTC().Format(time.RFC3339), n.heir.version, err)}
}

// letGo closes all that one process alone can have, but for what the heir wants
// later. The router serves on, from memory.
func (n *Node) letGo() {
	if n.builds != nil {
		n.warnIf("builds", n.builds.Close())
	}
	n.warnIf("log", n.collector.Close())
	n.sandbox.Close()
	n.network.Close()
	n.warnIf("catalog", n.catalog.Close())
}

func (n *Node) warnIf(what string, err error) {
	if err != nil {
		n.log.Warn("cannot close everything", "what", what, "err", err)
	}
}

// attend gives the heir what it wants until it serves.
func (n *Node) attend(ctx context.Context, l *line) error {
	defer context.AfterFunc(ctx, func() { l.close() })()
	late := time.AfterFunc(readyWithin, func() { l.close() })
	defer late.Stop()
	for {
		w, err := l.hear()
		switch {
		case err != nil && !late.Stop() && ctx.Err() == nil:
			return fmt.Errorf("it was not ready within %s", readyWithin)
		case err != nil:
			return err
		case w.Say == sayFailed:
			return errors.New(w.Err)
		case w.Say == sayReady:
			return nil
		case w.Say == sayWant:
			n.give(w.ID)
			if err := l.say(word{Say: sayGave, ID: w.ID}); err != nil {
				return err
			}
		}
	}
}

// give ends what the heir is about to begin.
func (n *Node) give(what string) {
	switch {
	case what == wantWire && n.wire != nil:
		if n.mesh.end() {
			n.warnIf("mesh", n.wire.Close())
		}
	case what == wantBGP && n.anycast != nil:
		n.anycast.KeepRoutes()
		n.bgp.end()
	}
}

// retire lets the open connections end while the heir serves.
func (n *Node) retire(ctx context.Context, l *line) error {
	n.next.mu.Lock()
	n.next.line = l
	n.next.mu.Unlock()
	close(n.next.settled)
	n.lock.Close() // the heir has it too
	ctx, cancel := context.WithTimeout(ctx, n.cfg.UpgradeGrace)
	defer cancel()
	go func() { // ends with the line
		n.hearHeir(l)
		time.AfterFunc(lastGrace, cancel) // the node has ended, and so do we
	}()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := n.router.Shutdown(ctx); err != nil {
			n.log.Warn("connections of before the upgrade were cut", "err", err)
		}
	}()
	n.tellBusy(l, ended)
	n.door.end()
	n.bgp.end()
	n.mesh.end()
	n.certs.close()
	l.close()
	n.log.Info("the node's former process ends")
	return nil
}

// tellBusy tells the heir what is in flight here, until all has ended.
func (n *Node) tellBusy(l *line, ended <-chan struct{}) {
	next := time.After(quietAfter)
	for {
		select {
		case <-ended:
			return
		case <-next:
		}
		busy := map[string]int{}
		for _, m := range n.machines.Statuses() {
			if in, _ := n.router.Activity(m.ID); in > 0 {
				busy[m.ID] = in
			}
		}
		_ = l.say(word{Say: sayBusy, Busy: busy}) // it may have crashed
		next = time.After(500 * time.Millisecond)
	}
}

// hearHeir takes answers until the line ends.
func (n *Node) hearHeir(l *line) {
	for {
		w, err := l.hear()
		if err != nil {
			return
		}
		switch w.Say {
		case sayWoke:
			n.next.mu.Lock()
			if c := n.next.wakes[w.ID]; c != nil {
				c <- w
				delete(n.next.wakes, w.ID)
			}
			n.next.mu.Unlock()
		case sayWant:
			n.give(w.ID)
			_ = l.say(word{Say: sayGave, ID: w.ID})
		}
	}
}

// wakeByHeir has the process that has the machines now wake one for a request
// that is still here. It waits until there is one.
func (n *Node) wakeByHeir(ctx context.Context, id string) (netip.Addr, error) {
	select {
	case <-n.next.settled:
	case <-ctx.Done():
		return netip.Addr{}, ctx.Err()
	}
	answer := make(chan word, 1)
	n.next.mu.Lock()
	l := n.next.line
	n.next.wakes[id] = answer // the router wakes each machine once at a time
	n.next.mu.Unlock()
	if err := l.say(word{Say: sayWake, ID: id}); err != nil {
		return netip.Addr{}, err
	}
	select {
	case w := <-answer:
		if w.Err != "" {
			return netip.Addr{}, errors.New(w.Err)
		}
		return w.Addr, nil
	case <-ctx.Done():
		return netip.Addr{}, ctx.Err()
	}
}

// isLeaving reports whether somebody else is about to have the machines.
func (n *Node) isLeaving() bool {
	select {
	case <-n.next.leaving:
		return true
	default:
		return false
	}
}

// takenBack says that a successor failed: the node begins anew in this process,
// while the router of this one serves.
type takenBack struct {
	n     *Node
	files map[string]int
	why   string
}

// Error implements error.
func (b *takenBack) Error() string { return b.why }

// heritage is for the next try. ended is closed when the former node has nothing
// left to do, or the next one failed.
func (b *takenBack) heritage(ctx context.Context) (h *heritage, ended <-chan struct{}, err error) {
	files := map[string]int{}
	for name, fd := range b.files {
		if files[name], err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3); err != nil {
			return nil, nil, err
		}
	}
	l, fd, err := linePair()
	if err != nil {
		return nil, nil, err
	}
	other, err := lineOf(fd)
	if err != nil {
		return nil, nil, err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if w, err := l.hear(); err != nil || w.Say != sayHello {
			return
		}
		err := l.say(word{Say: sayGo})
		if err == nil {
			err = b.n.attend(ctx, l)
		}
		if err == nil {
			closeAll(b.files)
			_ = b.n.retire(ctx, l) // it never fails
		}
	}()
	return newHeritage(other, files), done, nil
}

// hungUp reports whether the other end is gone.
func hungUp(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}
