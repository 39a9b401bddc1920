package volume

import (
	"context"
	"slices"
	"strings"
)

// A volume may have one problem of each kind. What it is about begins its words, so
// that its end, or another one, does not wipe it.
const (
	snapshotProblem = "snapshots: "
	growthProblem   = "growth: "
	mountProblem    = "mount: "
	unmountProblem  = "unmount: "
)

// kindOf is "" for a problem of no kind.
func kindOf(problem string) string {
	for _, kind := range []string{snapshotProblem, growthProblem, mountProblem, unmountProblem} {
		if strings.HasPrefix(problem, kind) {
			return kind
		}
	}
	return ""
}

// complain notes a problem with a volume, in place of another of its kind.
func (s *Store) complain(ctx context.Context, v *volume, problem string) {
	r := v.now()
	if r.noted(problem); r.Problem != v.now().Problem {
		s.warn("cannot note a volume's problem", v, s.save(ctx, v, func(r *Record) { r.noted(problem) }))
	}
}

// solve forgets a problem of that kind.
func (s *Store) solve(ctx context.Context, v *volume, kind string) {
	r := v.now()
	if r.solved(kind); r.Problem != v.now().Problem {
		s.warn("cannot note the end of a volume's problem", v, s.save(ctx, v, func(r *Record) { r.solved(kind) }))
	}
}

// noted keeps the order, so that what is noted again changes nothing.
func (r *Record) noted(problem string) {
	problem = strings.Join(strings.Fields(problem), " ") // tools say much in lines
	all := r.problems()
	if i := slices.IndexFunc(all, func(o string) bool { return kindOf(o) == kindOf(problem) }); i >= 0 {
		all[i] = problem
	} else {
		all = append(all, problem)
	}
	r.Problem = strings.Join(all, "\n")
}

func (r *Record) solved(kind string) {
	r.Problem = strings.Join(slices.DeleteFunc(r.problems(), func(o string) bool { return kindOf(o) == kind }), "\n")
}

func (r *Record) problems() []string {
	if r.Problem == "" {
		return nil
	}
	return strings.Split(r.Problem, "\n")
}
