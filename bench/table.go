package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// samples are the times of one contender at one piece of work.
type samples []time.Duration

func (s samples) median() time.Duration {
	if len(s) == 0 {
		return 0
	}
	t := slices.Sorted(slices.Values(s))
	return t[len(t)/2]
}

func (s samples) String() string {
	if len(s) == 0 {
		return "-"
	}
	t := slices.Sorted(slices.Values(s))
	if t[len(t)/2] < 20*time.Millisecond {
		return fmt.Sprintf("%.1f (%.1f–%.1f)", ms(t[len(t)/2]), ms(t[0]), ms(t[len(t)-1]))
	}
	return fmt.Sprintf("%.0f (%.0f–%.0f)", ms(t[len(t)/2]), ms(t[0]), ms(t[len(t)-1]))
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func printTable(title string, header []string, rows [][]string) {
	fmt.Printf("\n%s\n", title)
	w := tabwriter.NewWriter(os.Stdout, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, strings.Join(header, "\t"))
	for _, r := range rows {
		fmt.Fprintln(w, strings.Join(r, "\t"))
	}
	w.Flush()
}
