package main

import (
	"fmt"
	"time"

	"github.com/perigee-run/perigee/api"
)

// split holds where the time of starts went, by part.
type split map[string]samples

func (s split) add(part string, d time.Duration) { s[part] = append(s[part], d) }

// note takes in one start: the node's own account of it, and the whole time as
// the client saw it. What the node does not account for is the router's and
// the app's: the way there, and the app's own first steps.
func (s split) note(detail map[string]any, took time.Duration) {
	total := fact(detail, "total_ms")
	known := time.Duration(0)
	for _, part := range []string{"prepare_ms", "assign_ms", "sandbox_ms"} {
		s.add(part, fact(detail, part))
		known += fact(detail, part)
	}
	s.add("other", total-known)
	s.add("router", took-total)
	if detail["prepared"] == true {
		s.add("prepared", 0)
	}
}

func (s split) row(whole samples) []string {
	row := []string{fmt.Sprintf("%.1f", ms(whole.median())), ""}
	for _, part := range []string{"prepare_ms", "assign_ms", "sandbox_ms", "other", "router"} {
		row = append(row, fmt.Sprintf("%.1f", ms(s[part].median())))
	}
	return append(row, fmt.Sprintf("%d of %d", len(s["prepared"]), len(whole)))
}

// detailOf is what the node noted about the machine's latest start or wake.
func detailOf(m api.Machine) map[string]any {
	for _, e := range m.Events {
		if e.Type == "start" || e.Type == "resume" {
			return e.Detail
		}
	}
	return nil
}

func fact(detail map[string]any, name string) time.Duration {
	v, _ := detail[name].(float64)
	return time.Duration(v * float64(time.Millisecond))
}
