package catalog

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	dialLimit = 2 * time.Second
	// dialNext is how long a member has to answer before the next one is tried
	// beside it.
	dialNext = 300 * time.Millisecond
	// dialAgain is the pause when no member answered.
	dialAgain = 500 * time.Millisecond
	// shunned is how long a member that had no quorum is tried last.
	shunned = 30 * time.Second
	// nearerEvery is how often a connection to a farther member looks for a nearer.
	nearerEvery = 5 * time.Second
)

// link keeps one connection to a member: the nearest that answers. The NATS
// client asks it for connections and never waits for one being made.
type link struct {
	node string
	log  interface{ Info(string, ...any) }
	dial func(ctx context.Context, m Member) (net.Conn, error)
	own  func() (net.Conn, error) // to this node's server; an error if there is none
	// inTouch reports whether this node's server reaches most members.
	inTouch func() bool
	conn    *nats.Conn
	kick    chan struct{} // holds a token when a connection is wanted

	mu      sync.Mutex // guards what follows
	members []Member   // nearest first
	ready   net.Conn
	readyTo string
	to      string               // who the connection in use goes to
	errs    map[string]error     // of the latest dial, by member
	bad     map[string]time.Time // members without a quorum, and since when
	changed bool                 // dial even though there is a connection
}

func newLink(node string, members []Member) *link {
	return &link{node: node, members: members, kick: make(chan struct{}, 1), errs: map[string]error{}, bad: map[string]time.Time{}}
}

// InProcessConn implements nats.InProcessConnProvider.
func (l *link) InProcessConn() (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ready == nil {
		l.to = ""
		l.wake()
		return nil, errors.New("no member of the state can be reached")
	}
	c := l.ready
	l.ready, l.to = nil, l.readyTo
	return c, nil
}

func (l *link) wake() {
	select {
	case l.kick <- struct{}{}:
	default:
	}
}

// run makes connections as they are wanted, until ctx ends.
func (l *link) run(ctx context.Context) {
	defer l.drop()
	nearer := time.NewTicker(nearerEvery)
	defer nearer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.kick:
			l.provide(ctx)
		case <-nearer.C:
			l.lookNearer(ctx)
		}
	}
}

func (l *link) drop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ready != nil {
		l.ready.Close()
		l.ready = nil
	}
}

// provide makes a connection and has the client take it, unless it has one.
func (l *link) provide(ctx context.Context) {
	if l.conn != nil && l.conn.IsConnected() && !l.takeChanged() {
		return
	}
	if !l.prepare(ctx, l.candidates()) {
		pause(ctx, dialAgain)
		l.wake()
		return
	}
	if l.conn != nil {
		_ = l.conn.ForceReconnect()
	}
}

func (l *link) takeChanged() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	was := l.changed
	l.changed = false
	return was
}

// prepare dials the members and keeps the first connection for the client.
func (l *link) prepare(ctx context.Context, members []Member) bool {
	to, conn := l.first(ctx, members)
	if conn == nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ready != nil {
		l.ready.Close()
	}
	l.ready, l.readyTo = conn, to
	return true
}

type dialed struct {
	to   string
	conn net.Conn
	err  error
}

// first dials the members in their order, each a little after the one before,
// and returns the first connection.
func (l *link) first(ctx context.Context, members []Member) (string, net.Conn) {
	ctx, cancel := context.WithTimeout(ctx, dialLimit)
	defer cancel()
	results := make(chan dialed, len(members))
	next, waiting := 0, 0
	timer := time.NewTimer(0)
	defer timer.Stop()
	for next < len(members) || waiting > 0 {
		select {
		case <-timer.C:
			if next < len(members) {
				go l.dialTo(ctx, members[next], results)
				next, waiting = next+1, waiting+1
				timer.Reset(dialNext)
			}
		case r := <-results:
			waiting--
			l.note(r.to, r.err)
			if r.err == nil {
				go closeRest(results, waiting)
				return r.to, r.conn
			}
			timer.Reset(0)
		}
	}
	return "", nil
}

func (l *link) dialTo(ctx context.Context, m Member, results chan<- dialed) {
	if m.Name == l.node {
		conn, err := l.own()
		results <- dialed{m.Name, conn, err}
		return
	}
	conn, err := l.dial(ctx, m)
	results <- dialed{m.Name, conn, err}
}

func closeRest(results <-chan dialed, n int) {
	for range n {
		if r := <-results; r.conn != nil {
			r.conn.Close()
		}
	}
}

func (l *link) note(to string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		delete(l.errs, to)
		return
	}
	l.errs[to] = err
}

// candidates are the members, this node first, those without a quorum last; so
// is this node while its own server does not reach most of them.
func (l *link) candidates() []Member {
	touch := l.inTouch()
	l.mu.Lock()
	defer l.mu.Unlock()
	out := slices.Clone(l.members)
	slices.SortStableFunc(out, func(a, b Member) int { return l.rank(a, touch) - l.rank(b, touch) })
	return out
}

func (l *link) rank(m Member, touch bool) int {
	switch {
	case time.Since(l.bad[m.Name]) < shunned, m.Name == l.node && !touch:
		return 2
	case m.Name == l.node:
		return 0
	}
	return 1
}

// shun leaves the member that the connection goes to: it knows no leader.
func (l *link) shun() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.to == "" || len(l.members) < 2 {
		return
	}
	l.bad[l.to] = time.Now()
	l.changed = true
	l.wake()
}

// lookNearer changes to a nearer member when one answers.
func (l *link) lookNearer(ctx context.Context) {
	better := l.nearer()
	if len(better) > 0 && l.conn.IsConnected() && l.prepare(ctx, better) {
		_ = l.conn.ForceReconnect()
	}
}

func (l *link) nearer() []Member {
	all := l.candidates()
	l.mu.Lock()
	defer l.mu.Unlock()
	at := slices.IndexFunc(all, func(m Member) bool { return m.Name == l.to })
	if at < 0 {
		return nil
	}
	return slices.DeleteFunc(all[:at], func(m Member) bool { return time.Since(l.bad[m.Name]) < 2*shunned })
}

// set replaces the members.
func (l *link) set(members []Member) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.members = slices.Clone(members)
	known := func(name string) bool {
		return slices.ContainsFunc(members, func(m Member) bool { return m.Name == name })
	}
	for name := range l.errs {
		if !known(name) {
			delete(l.errs, name)
		}
	}
	l.changed = l.to != "" && !known(l.to) || l.changed
	l.wake()
}

func (l *link) goesTo() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.to
}

// faults are the members that could not be reached lately.
func (l *link) faults() map[string]error {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := map[string]error{}
	for name, err := range l.errs {
		out[name] = err
	}
	return out
}

func (l *link) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	names := make([]string, len(l.members))
	for i, m := range l.members {
		names[i] = m.Name
	}
	return fmt.Sprintf("the members %s", strings.Join(names, ", "))
}
