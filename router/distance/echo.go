package distance

import "time"

// Distance is what is known of the way to a node.
type Distance struct {
	// RTT is the smoothed time there and back, 0 if no answer ever came.
	RTT time.Duration
	// Up says that the node answers.
	Up bool
}

const (
	busyEvery  = 500 * time.Millisecond // between two probes of a node with traffic, or of one that is silent
	quietEvery = time.Second
	silence    = time.Second // from the first unanswered probe on, to be down
	misses     = 3           // unanswered probes, at least
	window     = 8           // probes whose answers still count
)

// echo is what is known of one node. All its methods take the time, and none reads a clock.
type echo struct {
	known    bool // an answer came, or enough silence was heard: it has a Distance
	up       bool
	rtt      time.Duration
	told     time.Duration // rtt as Changes last told
	due      time.Time     // of the next probe
	asked    time.Time     // when the last one was sent
	every    time.Duration // as it was then
	seq      uint64
	sent     [window]time.Time // by seq modulo window; zero once answered
	pending  int               // probes since the last answer
	silentAt time.Time         // when the first of them was sent
}

// send notes a probe and returns its number. The next one is due after every if this one is answered, and sooner if not:
// the node may be down. One that is long silent is asked no oftener than others.
func (e *echo) send(now time.Time, every time.Duration) uint64 {
	if e.pending == 0 {
		e.silentAt = now
	}
	e.pending++
	e.seq++
	e.sent[e.seq%window] = now
	e.asked, e.every, e.due = now, every, now.Add(every)
	if now.Sub(e.silentAt) < 10*silence {
		e.due = now.Add(min(every, busyEvery))
	}
	return e.seq
}

// answer takes the answer to a probe and says whether something changed that others want to know.
func (e *echo) answer(seq uint64, now time.Time) (changed bool) {
	if seq == 0 || seq > e.seq || seq+window <= e.seq || e.sent[seq%window].IsZero() {
		return false
	}
	rtt := max(now.Sub(e.sent[seq%window]), 1)
	e.sent[seq%window] = time.Time{}
	e.pending = 0
	e.due = e.asked.Add(e.every)
	if e.rtt == 0 {
		e.rtt = rtt
	} else {
		e.rtt += (rtt - e.rtt) / 8
	}
	changed = !e.up || !e.known || moved(e.told, e.rtt)
	e.up, e.known = true, true
	if changed {
		e.told = e.rtt
	}
	return changed
}

// moved says that a round trip changed by more than noise.
func moved(old, now time.Duration) bool {
	d := old - now
	return d.Abs() > max(old/8, 200*time.Microsecond)
}

// judge looks whether the node has been silent for too long, and says whether that is news.
func (e *echo) judge(now time.Time) (changed bool) {
	if e.pending < misses || now.Sub(e.silentAt) < silence || e.known && !e.up {
		return false
	}
	e.known, e.up = true, false
	return true
}
