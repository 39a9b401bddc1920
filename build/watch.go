//go:build linux

package build

import (
	"bytes"
	"strings"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/opencontainers/go-digest"
	"github.com/perigee-run/perigee/build/progress"
)

const (
	keptLines = 20       // lines of a step's output that an error shows
	maxLine   = 64 << 10 // a longer line is cut in pieces
)

// watcher turns BuildKit's status reports into events and remembers the last lines of every step for errors. Its
// methods but wait run on one goroutine.
type watcher struct {
	tell  ProgressFunc
	steps map[digest.Digest]*step
	done  chan struct{}
}

type step struct {
	number    int
	name      string
	started   time.Time
	completed time.Time
	partial   map[int]*bytes.Buffer // output after the last line end, by stream
	tail      []string
	items     map[string]int64 // what was last told of a transfer
}

func newWatcher(tell ProgressFunc) *watcher {
	if tell == nil {
		tell = func(progress.Event) {}
	}
	return &watcher{tell: tell, steps: make(map[digest.Digest]*step), done: make(chan struct{})}
}

// statuses starts the watcher; closing the channel, which Solve does, ends it.
func (w *watcher) statuses() chan *client.SolveStatus {
	ch := make(chan *client.SolveStatus)
	go func() {
		defer close(w.done)
		for s := range ch {
			w.status(s)
		}
		for _, st := range w.steps {
			w.flush(st, time.Now())
		}
	}()
	return ch
}

func (w *watcher) wait() { <-w.done }

// status keeps the order in which things happen within a step: it starts, it says things, it ends.
func (w *watcher) status(s *client.SolveStatus) {
	for _, v := range s.Vertexes {
		w.start(v)
	}
	for _, t := range s.Statuses {
		w.transfer(t)
	}
	for _, l := range s.Logs {
		w.log(l)
	}
	for _, x := range s.Warnings {
		st := w.step(x.Vertex)
		w.tell(progress.Event{Time: time.Now(), Kind: progress.Warning, Step: st.number, Name: st.name, Text: string(x.Short)})
	}
	for _, v := range s.Vertexes {
		w.end(v)
	}
}

func (w *watcher) step(d digest.Digest) *step {
	st := w.steps[d]
	if st == nil {
		st = &step{number: len(w.steps) + 1, partial: make(map[int]*bytes.Buffer), items: make(map[string]int64)}
		w.steps[d] = st
	}
	return st
}

// start tells a step's start. A step may start again: a base image is first looked up and later fetched.
func (w *watcher) start(v *client.Vertex) {
	if v.Started == nil {
		return
	}
	st := w.step(v.Digest)
	st.name = v.Name
	if v.Cached || !v.Started.After(st.started) {
		return
	}
	st.started = *v.Started
	w.tell(progress.Event{Time: st.started, Kind: progress.Started, Step: st.number, Name: st.name})
}

func (w *watcher) end(v *client.Vertex) {
	if v.Completed == nil {
		return
	}
	st := w.step(v.Digest)
	st.name = v.Name
	if !v.Completed.After(st.completed) {
		return
	}
	w.flush(st, *v.Completed)
	st.completed = *v.Completed
	e := progress.Event{Time: *v.Completed, Kind: progress.Done, Step: st.number, Name: v.Name, Text: v.Error}
	if v.Started != nil {
		e.Seconds = v.Completed.Sub(*v.Started).Seconds()
	}
	switch {
	case strings.HasSuffix(v.Error, "context canceled"):
		e.Kind = progress.Canceled
	case v.Error != "":
		e.Kind = progress.Failed
	case v.Cached:
		e.Kind = progress.Cached
	}
	w.tell(e)
}

func (w *watcher) transfer(t *client.VertexStatus) {
	st := w.step(t.Vertex)
	last, known := st.items[t.ID]
	if t.Total == 0 && t.Current == 0 || known && last == t.Current {
		return
	}
	st.items[t.ID] = t.Current
	w.tell(progress.Event{Time: t.Timestamp, Kind: progress.Transfer, Step: st.number, Name: st.name, Item: t.ID,
		Current: t.Current, Total: t.Total})
}

func (w *watcher) log(l *client.VertexLog) {
	st := w.step(l.Vertex)
	buf := st.partial[l.Stream]
	if buf == nil {
		buf = new(bytes.Buffer)
		st.partial[l.Stream] = buf
	}
	buf.Write(l.Data)
	for {
		i := bytes.IndexByte(buf.Bytes(), '\n')
		if i < 0 && buf.Len() < maxLine {
			return
		}
		if i < 0 || i > maxLine {
			w.line(st, l.Stream, l.Timestamp, buf.Next(maxLine))
			continue
		}
		w.line(st, l.Stream, l.Timestamp, buf.Next(i + 1)[:i])
	}
}

// flush tells what came without a line end.
func (w *watcher) flush(st *step, at time.Time) {
	for stream, buf := range st.partial {
		if buf.Len() > 0 {
			w.line(st, stream, at, buf.Next(buf.Len()))
		}
	}
}

// line keeps what a terminal would show of a line that a progress bar rewrote.
func (w *watcher) line(st *step, stream int, at time.Time, data []byte) {
	data = bytes.TrimRight(data, "\r")
	text := strings.ToValidUTF8(string(data[bytes.LastIndexByte(data, '\r')+1:]), "\uFFFD")
	if st.tail = append(st.tail, text); len(st.tail) > keptLines {
		st.tail = st.tail[1:]
	}
	e := progress.Event{Time: at, Kind: progress.Log, Step: st.number, Stream: "stdout", Text: text}
	if stream == 2 {
		e.Stream = "stderr"
	}
	if !st.started.IsZero() {
		e.Seconds = max(at.Sub(st.started), 0).Seconds()
	}
	w.tell(e)
}

// tail gives the last lines of a step, after wait.
func (w *watcher) tail(d digest.Digest) []string {
	if st := w.steps[d]; st != nil {
		return st.tail
	}
	return nil
}
