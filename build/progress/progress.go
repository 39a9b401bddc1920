// Package progress holds the events of a running build and writes them as plain text lines. It imports nothing heavy:
// the builder makes the events, the API sends them as JSON lines, and the command line reads and shows them.
// It does not talk to the builder.
package progress

import "time"

// Kind says what happened.
type Kind string

// The kinds of events. Every step has one Started, then any number of Log and Transfer, then exactly one of Done,
// Cached, Failed or Canceled. A cached step may have no Started.
const (
	Started  Kind = "started"
	Done     Kind = "done"
	Cached   Kind = "cached"
	Failed   Kind = "failed"   // Text holds the error
	Canceled Kind = "canceled" // another step failed, or the build was called off
	Log      Kind = "log"      // Text holds one line without its line end
	Transfer Kind = "transfer" // Item, Current and Total tell what moves: a layer, the context, the image
	Warning  Kind = "warning"  // Text holds the warning
)

// Event is one thing that happened in a build, in the order in which it happened.
type Event struct {
	Time time.Time `json:"time"`
	Kind Kind      `json:"kind"`
	// Step numbers the steps of one build from 1, in the order in which they were first heard of.
	Step int `json:"step,omitempty"`
	// Name is the step as the Dockerfile has it, such as "[2/3] RUN make". Set on every event of the step but Log.
	Name string `json:"name,omitempty"`
	// Seconds is the time since the step started; on Done and Failed the step's duration.
	Seconds float64 `json:"seconds,omitempty"`
	// Stream is "stdout" or "stderr" on Log.
	Stream string `json:"stream,omitempty"`
	Text   string `json:"text,omitempty"`
	Item   string `json:"item,omitempty"`
	// Current and Total are bytes on Transfer; Total is 0 when it is not known.
	Current int64 `json:"current,omitempty"`
	Total   int64 `json:"total,omitempty"`
}
