package placement

import (
	"context"
	"maps"
	"sync"
	"time"
)

// minPause and maxPause bound how long a step that failed waits.
const (
	minPause = time.Second
	maxPause = time.Minute
)

// jobs are the steps of moves that go on now, at most one for each move, and
// the pauses of those that failed. Nobody waits for a job but for its own move.
type jobs struct {
	now func() time.Time
	wg  sync.WaitGroup

	mu     sync.Mutex // guards what follows
	going  map[string]job
	pauses map[string]pause
}

type job struct {
	do     next
	cancel context.CancelFunc
}

// pause is until when a step is not tried again.
type pause struct {
	do   next
	long time.Duration
	till time.Time
}

func newJobs(now func() time.Time) *jobs {
	return &jobs{now: now, going: map[string]job{}, pauses: map[string]pause{}}
}

// start runs a step of the machine's move, unless one is under way or pauses.
// f reports whether it failed.
func (j *jobs) start(ctx context.Context, machine string, do next, f func(context.Context) (failed bool)) {
	j.mu.Lock()
	defer j.mu.Unlock()
	p, paused := j.pauses[machine]
	if _, busy := j.going[machine]; busy || paused && p.do == do && j.now().Before(p.till) {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	j.going[machine] = job{do, cancel}
	j.wg.Go(func() {
		defer cancel()
		j.end(machine, do, f(ctx))
	})
}

func (j *jobs) end(machine string, do next, failed bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	delete(j.going, machine)
	p := j.pauses[machine]
	if !failed {
		if p.do == do {
			delete(j.pauses, machine)
		}
		return
	}
	if p.do != do {
		p = pause{do: do}
	}
	p.long = min(max(2*p.long, minPause), maxPause)
	p.till = j.now().Add(p.long)
	j.pauses[machine] = p
}

// failedFor is the pause after the latest failures of the machine's move, 0 if it went
// well.
func (j *jobs) failedFor(machine string) time.Duration {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.pauses[machine].long
}

// callOff ends the waiting for a replacement that the move does not need now.
func (j *jobs) callOff(machine string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if g, ok := j.going[machine]; ok && g.do == settle {
		g.cancel()
	}
}

// tidy forgets the pauses of moves that are long over.
func (j *jobs) tidy() {
	j.mu.Lock()
	defer j.mu.Unlock()
	maps.DeleteFunc(j.pauses, func(_ string, p pause) bool { return j.now().Sub(p.till) > 2*maxPause })
}
