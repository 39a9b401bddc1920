package fleet

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/perigee-run/perigee/api"
)

// LinesConfig joins Lines with its neighbours. All but Patience, Memory, Retry
// and Logger are required.
type LinesConfig struct {
	Self  string
	Local LogReader
	Peers Peers
	Nodes Nodes
	// Patience is how long the past lines of a node are waited for. Default 3 s.
	Patience time.Duration
	// Memory is how many bytes of past lines are held while they are put in order,
	// about; of more, the latest are given. Default 64 MiB.
	Memory int
	// Retry is how soon a node whose lines broke off is asked again. Default 2 s.
	Retry time.Duration
	// Logger defaults to slog.Default().
	Logger *slog.Logger
}

// LogReader reads what the machines of one node said. With q.Mark it gives one
// line of the source api.SourceMark where the past lines end.
type LogReader interface {
	Logs(ctx context.Context, app string, q api.LogQuery) iter.Seq2[api.LogLine, error]
}

// Lines reads what the machines of all nodes said.
type Lines struct{ cfg LinesConfig }

// NewLines checks the configuration.
func NewLines(cfg LinesConfig) (*Lines, error) {
	if cfg.Self == "" || cfg.Local == nil || cfg.Peers == nil || cfg.Nodes == nil {
		return nil, errors.New("cannot read the lines of all nodes: self, local, peers and nodes are all needed")
	}
	if cfg.Patience <= 0 {
		cfg.Patience = 3 * time.Second
	}
	if cfg.Memory <= 0 {
		cfg.Memory = 64 << 20
	}
	if cfg.Retry <= 0 {
		cfg.Retry = 2 * time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	return &Lines{cfg}, nil
}

// Logs gives the selected past lines of all nodes by their time, and with Follow
// the new ones as they come. A node whose lines cannot be had is a line of the
// platform's that says so; with Follow it is asked again. Each line is told by
// the clock of its machine's node. To another node it gives this node's lines
// only. The nodes are those that there are when it begins.
func (l *Lines) Logs(ctx context.Context, app string, q api.LogQuery) iter.Seq2[api.LogLine, error] {
	if forwarded(ctx) {
		return l.cfg.Local.Logs(ctx, app, q)
	}
	return func(yield func(api.LogLine, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		g := l.gather(ctx, app, q)
		defer g.readers.Wait()
		defer cancel()
		if err := g.past(ctx, yield); err != nil || !q.Follow {
			return
		}
		g.live(ctx, yield)
	}
}

// said is one thing that a node's reader has to tell.
type said struct {
	node int
	line api.LogLine
	past bool  // the past lines of the node end here
	err  error // this node's own log cannot be read
	note bool  // line is the platform's, about the node
}

// gathering is one reading of all nodes.
type gathering struct {
	l       *Lines
	app     string
	q       api.LogQuery
	in      chan said
	readers sync.WaitGroup
	nodes   []Node
}

// gather begins to read all nodes that there are now.
func (l *Lines) gather(ctx context.Context, app string, q api.LogQuery) *gathering {
	q.Mark = true
	g := &gathering{l: l, app: app, q: q, in: make(chan said, 64)}
	for _, n := range l.cfg.Nodes.Nodes() {
		if q.Region == "" || n.Region == q.Region || n.Name == l.cfg.Self {
			g.nodes = append(g.nodes, n)
		}
	}
	for i, n := range g.nodes {
		g.readers.Go(func() { g.read(ctx, i, n) })
	}
	return g
}

var errNotHeard = errors.New("it was not heard of lately")

var errLeft = errors.New("the reader has left")

// past gives the past lines of all nodes in the order of their times: the last
// of them, if their number is limited. Lines that are new already wait.
func (g *gathering) past(ctx context.Context, yield func(api.LogLine, error) bool) error {
	lines, notes, early, waiting := held{most: g.l.cfg.Memory}, []api.LogLine(nil), []api.LogLine(nil), map[int]bool{}
	for i := range g.nodes {
		waiting[i] = true
	}
	limit := time.NewTimer(g.l.cfg.Patience)
	defer limit.Stop()
	for len(waiting) > 0 {
		select {
		case s := <-g.in:
			switch {
			case s.err != nil:
				yield(api.LogLine{}, s.err)
				return s.err
			case s.past:
				delete(waiting, s.node)
			case s.note:
				notes = append(notes, s.line)
			case waiting[s.node]:
				lines.add(s.line)
			default:
				early = append(early, s.line)
			}
		case <-limit.C:
			for i := range waiting {
				notes = append(notes, g.note("node %q takes long to tell its past lines", g.nodes[i].Name))
			}
			clear(waiting)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	last := g.latest(lines.all)
	if lines.cut && (g.q.Lines == 0 || len(last) < g.q.Lines) {
		first := g.note("there is more than can be put in order; these are the latest %d lines: ask for a shorter time, or for one machine's", len(last))
		last = slices.Insert(last, 0, first)
	}
	return give(slices.Concat(last, notes, early), yield)
}

// held are past lines, the latest of them when they are too many.
type held struct {
	all        []api.LogLine
	size, most int
	cut        bool
}

func (h *held) add(l api.LogLine) {
	h.all = append(h.all, l)
	h.size += weight(l)
	if h.size <= h.most {
		return
	}
	h.cut = true
	byTime(h.all)
	drop := 0
	for ; h.size > h.most/2; drop++ {
		h.size -= weight(h.all[drop])
	}
	h.all = slices.Delete(h.all, 0, drop)
}

// weight is about what a line takes in memory.
func weight(l api.LogLine) int { return len(l.Text) + 200 }

func byTime(lines []api.LogLine) {
	slices.SortStableFunc(lines, func(a, b api.LogLine) int { return a.Time.Compare(b.Time) })
}

func give(lines []api.LogLine, yield func(api.LogLine, error) bool) error {
	for _, l := range lines {
		if !yield(l, nil) {
			return errLeft
		}
	}
	return nil
}

// latest sorts lines and keeps as many as are asked for.
func (g *gathering) latest(lines []api.LogLine) []api.LogLine {
	byTime(lines)
	n := g.q.Lines
	if n == 0 && g.q.Since.IsZero() {
		n = 100
	}
	if n > 0 && len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return lines
}

// live gives lines as they come, until ctx ends.
func (g *gathering) live(ctx context.Context, yield func(api.LogLine, error) bool) {
	for {
		select {
		case s := <-g.in:
			if s.err != nil {
				yield(api.LogLine{}, s.err)
				return
			}
			if !s.past && !yield(s.line, nil) {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

func (g *gathering) note(format string, a ...any) api.LogLine {
	return api.LogLine{Time: time.Now().UTC(), App: g.app, Source: "platform", Text: fmt.Sprintf(format, a...)}
}

func (g *gathering) send(ctx context.Context, s said) bool {
	select {
	case g.in <- s:
		return true
	case <-ctx.Done():
		return false
	}
}

// read tells what a node's machines said. With Follow it begins again where it
// broke off, and says once that it did.
func (g *gathering) read(ctx context.Context, i int, n Node) {
	if n.Name == g.l.cfg.Self {
		g.readHere(ctx, i)
		return
	}
	q, seen, silent, first := g.q, latest{}, false, true
	for ctx.Err() == nil {
		back := func() {
			if silent {
				silent = false
				g.send(ctx, said{node: i, note: true, line: g.note("node %q answers again", n.Name)})
			}
		}
		err := errNotHeard
		if n.Up || !first {
			err = g.readThere(ctx, i, n.Name, q, seen, back)
		}
		first = false
		if api.IsCode(err, api.CodeNotFound) {
			err = nil // it has not heard of the app yet, and so has no lines
		}
		if err != nil && ctx.Err() == nil && !silent {
			silent = true
			g.send(ctx, said{node: i, note: true, line: g.note("node %q does not answer; its machines' lines are missing: %v", n.Name, err)})
		}
		g.send(ctx, said{node: i, past: true})
		if !q.Follow {
			return
		}
		q = seen.from(g.q)
		select {
		case <-time.After(g.l.cfg.Retry):
		case <-ctx.Done():
		}
	}
}

func (g *gathering) readHere(ctx context.Context, i int) {
	for line, err := range g.l.cfg.Local.Logs(ctx, g.app, g.q) {
		s := said{node: i, line: line, err: err, past: err == nil && line.Source == api.SourceMark}
		if !g.send(ctx, s) || err != nil {
			return
		}
	}
	g.send(ctx, said{node: i, past: true})
}

// readThere reads one connection to its end. back is called when it turns out to
// work.
func (g *gathering) readThere(ctx context.Context, i int, node string, q api.LogQuery, seen latest, back func()) error {
	c, err := g.l.cfg.Peers.Client(node)
	if err != nil {
		return err
	}
	told := maps.Clone(seen)
	return watched(ctx, c, g.l.cfg.Patience, func(ctx context.Context) error {
		for line, err := range c.Logs(ctx, g.app, q) {
			if err != nil {
				return err
			}
			back()
			s := said{node: i, line: line, past: line.Source == api.SourceMark}
			if !s.past && told.has(line) {
				continue
			}
			seen.take(line)
			if !g.send(ctx, s) {
				return nil
			}
		}
		if q.Follow {
			return errors.New("the connection ended")
		}
		return nil
	})
}

// latest is the time of the latest line of each machine of a node.
type latest map[string]time.Time

// has reports whether a line was told already. Lines of one time come in one
// piece, so those of the latest time were.
func (l latest) has(line api.LogLine) bool {
	t, ok := l[line.Machine]
	return ok && !line.Time.After(t)
}

func (l latest) take(line api.LogLine) {
	if line.Source != api.SourceMark && line.Time.After(l[line.Machine]) {
		l[line.Machine] = line.Time
	}
}

// from is the query that goes on after what was told.
func (l latest) from(q api.LogQuery) api.LogQuery {
	if len(l) == 0 {
		return q
	}
	q.Lines, q.Since = 0, time.Time{}
	for _, t := range l {
		if t.After(q.Since) {
			q.Since = t
		}
	}
	// What a node stores is a little younger than what it read.
	q.Since = q.Since.Add(-5 * time.Second)
	return q
}

// Forget drops what this node and all others keep of an app. A node that does not
// answer finds out for itself when it is back.
func (f *Fleet) Forget(ctx context.Context, app string) error {
	if err := f.cfg.Forget(ctx, app); err != nil || forwarded(ctx) {
		return err
	}
	var all sync.WaitGroup
	for _, n := range f.cfg.Nodes.Nodes() {
		if n.Name == f.cfg.Self || !n.Up {
			continue
		}
		all.Go(func() { f.forgetThere(ctx, n.Name, app) })
	}
	all.Wait()
	return nil
}
