package fleet

import (
	"context"
	"sync"

	"github.com/perigee-run/perigee/machine"
)

// Index keeps in memory what nodes published of their machines, found by id and
// by app. Whoever reads what is published puts it in. The zero value is not
// usable; see [NewIndex].
type Index struct {
	feed feed

	mu   sync.RWMutex // guards what follows
	byID map[string]*machine.Summary
	apps map[string]map[string]*machine.Summary // by app, then by id
	next chan struct{}                          // closed and replaced at each change
}

// NewIndex makes an empty index.
func NewIndex() *Index {
	return &Index{byID: map[string]*machine.Summary{}, apps: map[string]map[string]*machine.Summary{}, next: make(chan struct{})}
}

// Put takes a new summary of a machine. A machine that moved is the new owner's.
func (x *Index) Put(s machine.Summary) {
	x.mu.Lock()
	x.put(&s)
	x.moved()
	x.mu.Unlock()
	x.feed.tell(s.ID)
}

// put enters s; mu is held.
func (x *Index) put(s *machine.Summary) {
	if old := x.byID[s.ID]; old != nil && old.App != s.App {
		x.drop(old)
	}
	x.byID[s.ID] = s
	if x.apps[s.App] == nil {
		x.apps[s.App] = map[string]*machine.Summary{}
	}
	x.apps[s.App][s.ID] = s
}

// drop removes s; mu is held.
func (x *Index) drop(s *machine.Summary) {
	delete(x.byID, s.ID)
	if delete(x.apps[s.App], s.ID); len(x.apps[s.App]) == 0 {
		delete(x.apps, s.App)
	}
}

// moved wakes those who wait on Next; mu is held.
func (x *Index) moved() {
	close(x.next)
	x.next = make(chan struct{})
}

// Drop takes it that the node does not have the machine any more. What another
// node says of the machine stays.
func (x *Index) Drop(node, id string) {
	x.mu.Lock()
	s := x.byID[id]
	if s == nil || s.Node != node {
		x.mu.Unlock()
		return
	}
	x.drop(s)
	x.moved()
	x.mu.Unlock()
	x.feed.tell(id)
}

// Replace takes all that a node published, in place of what it did before; with
// nothing the node is forgotten.
func (x *Index) Replace(node string, all []machine.Summary) {
	var told []string
	x.mu.Lock()
	keep := make(map[string]bool, len(all))
	for i := range all {
		keep[all[i].ID] = true
		x.put(&all[i])
		told = append(told, all[i].ID)
	}
	for id, s := range x.byID {
		if s.Node == node && !keep[id] {
			x.drop(s)
			told = append(told, id)
		}
	}
	x.moved()
	x.mu.Unlock()
	x.feed.tell(told...)
}

// Find returns what is known of a machine.
func (x *Index) Find(id string) (machine.Summary, bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if s := x.byID[id]; s != nil {
		return *s, true
	}
	return machine.Summary{}, false
}

// List returns what is known of an app's machines, or of all with "", in no
// order.
func (x *Index) List(app string) []machine.Summary {
	x.mu.RLock()
	defer x.mu.RUnlock()
	from := x.apps[app]
	if app == "" {
		from = x.byID
	}
	out := make([]machine.Summary, 0, len(from))
	for _, s := range from {
		out = append(out, *s)
	}
	return out
}

// On returns what is known of the machines of a node, in no order.
func (x *Index) On(node string) (out []machine.Summary) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	for _, s := range x.byID {
		if s.Node == node {
			out = append(out, *s)
		}
	}
	return out
}

// At finds the machine with a private IPv6 address.
func (x *Index) At(private string) (machine.Summary, bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	for _, s := range x.byID {
		if s.PrivateIP == private {
			return *s, true
		}
	}
	return machine.Summary{}, false
}

// Next is closed with the next change.
func (x *Index) Next() <-chan struct{} {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.next
}

// Changes sends the id of every machine that there is, and then of each that
// changes or goes. A reader that is slow gets each id once. The channel is
// closed when ctx ends.
func (x *Index) Changes(ctx context.Context) <-chan string {
	x.mu.RLock()
	ids := make([]string, 0, len(x.byID))
	r := x.feed.join()
	for id := range x.byID {
		ids = append(ids, id)
	}
	x.mu.RUnlock()
	r.offer(ids...)
	out := make(chan string)
	go func() {
		defer close(out)
		defer x.feed.leave(r)
		r.pump(ctx, out)
	}()
	return out
}
