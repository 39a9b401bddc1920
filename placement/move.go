package placement

import "time"

// Placed is a machine of some node as the healer sees it.
type Placed struct {
	ID, App, Group string
	// Node has it. Region is where it belongs, which is not where it is if it
	// stands in for another region.
	Node, Region string
	// Allowed are the regions that the app's configuration allows.
	Allowed []string
	// Mounted machines have volumes.
	Mounted  bool
	Cordoned bool
	MemoryMB int
	CPUs     float64
	// Replaces is the machine that it was made to replace, as the healer asked.
	Replaces string
}

// Reason says why a machine is moved.
type Reason string

// The reasons of a [Move].
const (
	Dead  Reason = "dead"  // its node does not answer
	Drain Reason = "drain" // its node is to be emptied
	Home  Reason = "home"  // it stands in for a region that takes machines again
)

// Phase says how far a move is.
type Phase string

// The phases of a [Move].
const (
	// Open: the replacement is being made. If the old machine's node comes back
	// meanwhile, the machine is held: it serves only if the move is cancelled.
	Open Phase = "open"
	// Replaced: the replacement is there. The old one is destroyed by its node.
	Replaced Phase = "replaced"
	// Cancelled: the old machine stays; replacements are destroyed.
	Cancelled Phase = "cancelled"
)

// Move is the record of one machine that is made anew elsewhere, under the
// machine's id. What is to be done follows from the record alone, so whoever is
// killed in the middle, the next one goes on. It is deleted when no node holds
// anything any more that it is needed to judge.
type Move struct {
	Machine string `json:"machine"`
	App     string `json:"app"`
	Reason  Reason `json:"reason"`
	Phase   Phase  `json:"phase"`
	// From has the old machine, To is to have the new one; New is its id, once known.
	From string `json:"from"`
	To   string `json:"to,omitempty"`
	New  string `json:"new,omitempty"`
	// Home is the region that the machine belongs in.
	Home string `json:"home,omitempty"`
	// Tried are nodes that To was before: a copy may be there, and is destroyed.
	Tried []string `json:"tried,omitempty"`
	// Cordoned says that the old machine was so before it was held.
	Cordoned bool `json:"cordoned,omitempty"`
	// Left says that From has nothing of it any more, or keeps it for good.
	Left  bool      `json:"left,omitempty"`
	Begun time.Time `json:"begun"`
}

// over reports whether the record is not needed any more.
func (m Move) over() bool { return m.Phase != Open && m.Left && len(m.Tried) == 0 }

// Verdict is what a node does with a machine of its own.
type Verdict string

// The verdicts of [Judge].
const (
	Keep    Verdict = "keep"
	Hold    Verdict = "hold"    // it serves nothing until the move is decided
	Destroy Verdict = "destroy" // another one stands for it
)

// Judge says what the node that has machine m is to do with it. This is the
// fence: it needs nothing but the records, so a node that comes back asks it
// before it lets its machines serve.
func Judge(m Placed, moves map[string]Move) Verdict {
	if mv, ok := moves[m.ID]; ok && mv.From == m.Node {
		switch {
		case mv.Phase == Replaced:
			return Destroy
		case mv.Phase == Open && mv.Reason == Dead:
			return Hold
		}
	}
	if mv := moves[m.Replaces]; mv.madeFor(m) && mv.strange(m) {
		return Destroy
	}
	return Keep
}

// madeFor reports whether p was made to stand for the machine that moves.
func (m Move) madeFor(p Placed) bool {
	return m.Machine != "" && p.Replaces == m.Machine && p.App == m.App
}

// strange reports whether m, made for the move, is not the one it settled on.
func (m Move) strange(p Placed) bool {
	return m.Phase == Cancelled || m.To != p.Node || m.New != "" && m.New != p.ID
}
