package progress

import (
	"fmt"
	"io"
	"strings"
)

// Renderer writes events as plain lines, each with the number of its step, so that steps that run side by side stay
// apart. It is not safe for concurrent use.
type Renderer struct {
	w       io.Writer
	err     error
	current int // the step whose lines stand last
	named   map[int]bool
	moved   map[transfer]int64 // tenths of a transfer that were written
}

type transfer struct {
	step int
	item string
}

// NewRenderer writes to w. The first error of w ends the output and is what Err returns.
func NewRenderer(w io.Writer) *Renderer {
	return &Renderer{w: w, named: make(map[int]bool), moved: make(map[transfer]int64)}
}

// Render writes the lines of one event; an event that changes nothing to see writes none.
func (r *Renderer) Render(e Event) {
	switch e.Kind {
	case Started:
		r.title(e)
	case Log:
		r.printf(e.Step, "%.2f %s", e.Seconds, e.Text)
	case Transfer:
		r.transfer(e)
	case Warning:
		r.title(e)
		r.printf(e.Step, "WARNING: %s", e.Text)
	case Done:
		r.printf(e.Step, "DONE %.1fs", e.Seconds)
	case Cached:
		r.title(e)
		r.printf(e.Step, "CACHED")
	case Canceled:
		r.printf(e.Step, "CANCELED")
	case Failed:
		r.title(e)
		r.printf(e.Step, "ERROR: %s", e.Text)
	}
}

// Err is the first error that the writer gave.
func (r *Renderer) Err() error { return r.err }

// title names a step once.
func (r *Renderer) title(e Event) {
	if e.Name == "" || r.named[e.Step] {
		return
	}
	r.named[e.Step] = true
	r.printf(e.Step, "%s", e.Name)
}

// transfer writes at most ten lines for one item.
func (r *Renderer) transfer(e Event) {
	key := transfer{e.Step, e.Item}
	if e.Total <= 0 {
		return
	}
	tenth := e.Current * 10 / e.Total
	if last, known := r.moved[key]; known && tenth <= last {
		return
	}
	r.moved[key] = tenth
	if tenth > 0 {
		r.printf(e.Step, "%s %s / %s", e.Item, size(e.Current), size(e.Total))
	}
}

// printf starts a new block, after an empty line, when another step speaks.
func (r *Renderer) printf(step int, format string, args ...any) {
	if r.err != nil {
		return
	}
	var b strings.Builder
	if r.current != 0 && r.current != step {
		b.WriteString("\n")
	}
	r.current = step
	fmt.Fprintf(&b, "#%d ", step)
	fmt.Fprintf(&b, format, args...)
	b.WriteString("\n")
	_, r.err = io.WriteString(r.w, b.String())
}

func size(n int64) string {
	switch {
	case n >= 1e9:
		return fmt.Sprintf("%.2fGB", float64(n)/1e9)
	case n >= 1e6:
		return fmt.Sprintf("%.2fMB", float64(n)/1e6)
	case n >= 1e3:
		return fmt.Sprintf("%.1fkB", float64(n)/1e3)
	}
	return fmt.Sprintf("%dB", n)
}
