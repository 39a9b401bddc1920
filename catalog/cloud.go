package catalog

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// ErrNoQuorum is returned by writes that too few members answered.
var ErrNoQuorum = errors.New("the cloud's state has no quorum")

// NoQuorumError is [ErrNoQuorum] with who is missing.
type NoQuorumError struct {
	Words string // for people, without the cause
	Cause error
}

// Error implements error.
func (e *NoQuorumError) Error() string { return e.Words + ": " + e.Cause.Error() }

// Unwrap gives ErrNoQuorum and the cause.
func (e *NoQuorumError) Unwrap() []error { return []error{ErrNoQuorum, e.Cause} }

func noQuorum(cause error, words string, a ...any) error {
	return &NoQuorumError{ErrNoQuorum.Error() + ": " + fmt.Sprintf(words, a...), cause}
}

const (
	publishedName = "published"
	healthEvery   = 4 * time.Second // that the state is asked how it is
	healthSoon    = time.Second     // while it is not well
	// strangerFor is how long a peer that nobody named as a member may stay: the
	// list may be on its way.
	strangerFor = time.Minute
)

// cloud is the replicated state as this node has it: its connection, and its
// own part if it is a member.
type cloud struct {
	c     *Catalog
	cfg   Config
	link  *link
	began bool // this node began the cloud

	changing sync.Mutex // one change of members at a time; before mu

	mu      sync.Mutex // guards what follows
	members []Member
	server  *stateServer         // nil unless this node is a member
	gone    map[string]former    // members that were, and may be peers still
	strange map[string]time.Time // ids of peers that nobody named, and since when
	status  StateStatus
}

// former is a member that is one no more.
type former struct {
	Member
	since time.Time
}

// openCloud remembers or begins the cloud and makes the connection to it.
func openCloud(ctx context.Context, c *Catalog, cfg Config) (*cloud, error) {
	if cfg.TLS == nil || cfg.ClientListen == "" || cfg.RouteListen == "" {
		return nil, errors.New("cannot open catalog: ClientListen, RouteListen and TLS belong together")
	}
	if err := CheckKey(cfg.Node); err != nil || strings.Contains(cfg.Node, ".") {
		return nil, fmt.Errorf("cannot open catalog: %q cannot be the name of a node; use letters, digits, '-' and '_'", cfg.Node)
	}
	r, err := firstMembers(cfg)
	if err != nil {
		return nil, err
	}
	cl := &cloud{c: c, cfg: cfg, began: r.Began, members: r.Members, gone: map[string]former{}, strange: map[string]time.Time{}}
	cl.link = newLink(cfg.Node, r.Members)
	cl.link.dial, cl.link.own = peers{cfg.TLS, cfg.Allow}.dial, cl.inProcess
	cl.link.inTouch = cl.inTouch
	if err := cl.follow(ctx); err != nil {
		return nil, err
	}
	cl.link.prepare(ctx, cl.link.candidates())
	return cl, nil
}

func (cl *cloud) list() []Member {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	return slices.Clone(cl.members)
}

// former are those that are members no more and were not let go yet, as far as
// this node has seen it. They may not have heard of it.
func (cl *cloud) former() (out []Member) {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	for _, m := range cl.gone {
		out = append(out, m.Member)
	}
	return out
}

func (cl *cloud) part() *stateServer {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	return cl.server
}

// inProcess connects to this node's own part.
func (cl *cloud) inProcess() (net.Conn, error) {
	s := cl.part()
	if s == nil {
		return nil, errors.New("this node keeps no part of the state")
	}
	return s.InProcessConn()
}

// inTouch reports whether this node's own part reaches most members.
func (cl *cloud) inTouch() bool {
	s := cl.part()
	return s != nil && 2*(1+len(s.routesUp())) > len(cl.list())
}

// follow starts or ends this node's part, as the list of members says. A part
// that exists goes on until the others have let it go.
func (cl *cloud) follow(ctx context.Context) error {
	s := cl.part()
	want := isMember(cl.list(), cl.cfg.Node)
	switch {
	case s == nil && (want || exists(peersFile(cl.stateDir()))):
		return cl.begin(ctx)
	case s != nil:
		return s.reroute()
	}
	return nil
}

func (cl *cloud) stateDir() string { return filepath.Join(cl.cfg.Dir, "state") }

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func (cl *cloud) begin(ctx context.Context) error {
	s, err := startState(ctx, cl.cfg, cl.list, cl.former)
	if err != nil {
		return err
	}
	cl.mu.Lock()
	defer cl.mu.Unlock()
	cl.server = s
	return nil
}

// setMembers is [Catalog.SetMembers].
func (cl *cloud) setMembers(members []Member) error {
	if err := checkMembers(members); err != nil {
		return fmt.Errorf("cannot change the state's members: %w", err)
	}
	cl.changing.Lock()
	defer cl.changing.Unlock()
	if err := cl.remember(members); err != nil {
		return err
	}
	cl.link.set(members)
	if s := cl.part(); s != nil {
		s.recheck()
	}
	return cl.follow(cl.c.ctx)
}

func (cl *cloud) remember(members []Member) error {
	old := cl.list()
	if !sameMembers(old, members) { // in whatever order: that of their distances changes all the time
		if err := (remembered{cl.began, members}).write(cl.cfg.Dir); err != nil {
			return err
		}
	}
	cl.mu.Lock()
	defer cl.mu.Unlock()
	cl.members = slices.Clone(members)
	for _, m := range old {
		if !isMember(members, m.Name) {
			cl.gone[m.Name] = former{m, time.Now()}
		}
	}
	for _, m := range members {
		delete(cl.gone, m.Name)
	}
	return nil
}

// close ends this node's part.
func (cl *cloud) close() error {
	cl.changing.Lock()
	defer cl.changing.Unlock()
	cl.mu.Lock()
	s := cl.server
	cl.server = nil
	cl.mu.Unlock()
	if s == nil {
		return nil
	}
	return s.close()
}

// run looks after the cloud until ctx ends.
func (cl *cloud) run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { cl.link.run(ctx) })
	wg.Go(func() { cl.c.watchState(ctx, cl) })
	wg.Go(func() { cl.tend(ctx) })
	wg.Wait()
}

// disk is where this node's part of the state is, nil if it has none.
func (cl *cloud) disk() *disk {
	if s := cl.part(); s != nil {
		return s.disk
	}
	return nil
}

// make creates the bucket of what nodes say of themselves if it is lost, since
// nothing is lost with it. The catalog's is made once, when the cloud begins.
func (cl *cloud) make(cfg jetstream.KeyValueConfig) func(ctx context.Context) (jetstream.KeyValue, error) {
	return func(ctx context.Context) (jetstream.KeyValue, error) {
		if cfg.Bucket == bucketName {
			return nil, errNotYet
		}
		return cl.c.stateJS.CreateKeyValue(ctx, cfg)
	}
}

// unreachable says who is missing.
func (cl *cloud) unreachable(cause error) error {
	var away []string
	st := cl.snapshot()
	for _, m := range st.Members {
		if !m.Reachable {
			away = append(away, m.Name)
		}
	}
	words := "its members choose a leader"
	switch to := cl.link.goesTo(); {
	case len(away) > 0:
		words = fmt.Sprintf("%s of its %d members cannot be reached", strings.Join(away, " and "), len(st.Members))
	case to == "":
		words = fmt.Sprintf("none of %s can be reached", cl.link)
	}
	return noQuorum(cause, "%s; reads go on, and writes will when most members are back", words)
}

// snapshot is how the state stands.
func (cl *cloud) snapshot() StateStatus {
	cl.mu.Lock()
	st := cl.status
	members, s := cl.members, cl.server
	cl.mu.Unlock()
	st.To = cl.link.goesTo()
	st.Connected = st.To != ""
	st.Member = s != nil && isMember(members, cl.cfg.Node)
	faults := cl.link.faults()
	routes := map[string]bool{}
	if s != nil {
		routes = s.routesUp()
	}
	for _, m := range members {
		ms := MemberStatus{Member: m, Reachable: m.Name == cl.cfg.Node && s != nil || routes[m.Name] || s == nil && faults[m.Name] == nil}
		if !ms.Reachable {
			ms.Error = "no connection between the members"
			if err := faults[m.Name]; err != nil {
				ms.Error = err.Error()
			}
		}
		st.Members = append(st.Members, ms)
	}
	return st
}
