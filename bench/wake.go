package main

import (
	"context"
	"fmt"
	"sort"
	"strings"
	"time"

	"github.com/perigee-run/perigee/api"
)

// goals are the medians promised, in milliseconds.
var goals = map[string]map[string]string{
	"cold":      {"tiny": "60", "node": "150", "express": "350"},
	"paused":    {"tiny": "10", "node": "10", "express": "10"},
	"suspended": {"tiny": "-", "node": "60", "express": "120"},
}

var depths = []string{"cold", "paused", "suspended"}

// rest is how long everything is left alone before a measurement, so that the
// pool is full again and nothing of the last one still runs.
const rest = 900 * time.Millisecond

// wakeFigure measures the time from a request to the first byte of the answer
// for a machine that is stopped, paused and suspended, and for peers that start
// the same app from nothing.
func (b *bench) wakeFigure(ctx context.Context) error {
	apps, err := b.apps()
	if err != nil {
		return err
	}
	var rows [][]string
	parts := map[string][]string{}
	for _, img := range apps {
		got, err := b.wakeRounds(ctx, img, parts)
		if err != nil {
			return err
		}
		for _, depth := range depths {
			rows = append(rows, []string{img.name, depth, got[depth].String(), goals[depth][img.name], ""})
		}
		for _, p := range b.peers() {
			ratio := float64(got["cold"].median()) / float64(got[p.name].median())
			rows = append(rows, []string{img.name, p.name, got[p.name].String(), "", fmt.Sprintf("our cold start takes %.2f of it", ratio)})
		}
	}
	printTable(fmt.Sprintf("Request to first byte, ms: median (best–worst) of %d interleaved rounds", b.rounds), []string{"app", "from", "ms", "goal", ""}, rows)
	fmt.Println("\nWhere the time of the last start and wake went:")
	for _, img := range apps {
		for _, line := range parts[img.name] {
			fmt.Printf("  %-8s %s\n", img.name, line)
		}
	}
	return nil
}

func (b *bench) wakeRounds(ctx context.Context, img *benchImage, parts map[string][]string) (map[string]samples, error) {
	ref, err := b.cloud.put(ctx, img.name, img.archive)
	if err != nil {
		return nil, err
	}
	id, err := b.cloud.serve(ctx, img.name, ref, img.memory)
	if err != nil {
		return nil, err
	}
	defer b.cloud.client.DestroyMachine(ctx, img.name, id, true)
	if _, err := b.cloud.firstByte(img.name); err != nil {
		return nil, err
	}
	got := map[string]samples{}
	for round := range b.rounds {
		for _, depth := range depths {
			took, err := b.wakeOnce(ctx, img.name, id, depth)
			if err != nil {
				return nil, fmt.Errorf("%s from %s: %w", img.name, depth, err)
			}
			got[depth] = append(got[depth], took)
			if round == b.rounds-1 {
				parts[img.name] = append(parts[img.name], b.lastWake(ctx, img.name, id))
			}
		}
		for _, p := range b.peers() {
			time.Sleep(rest / 3)
			took, err := p.cold(b, img, round)
			if err != nil {
				return nil, fmt.Errorf("%s with %s: %w", img.name, p.name, err)
			}
			got[p.name] = append(got[p.name], took)
		}
	}
	return got, nil
}

func (b *bench) wakeOnce(ctx context.Context, app, id, depth string) (time.Duration, error) {
	var err error
	switch depth {
	case "cold":
		err = b.cloud.client.StopMachine(ctx, app, id, api.StopRequest{Signal: "SIGKILL"})
	case "paused":
		err = b.cloud.client.PauseMachine(ctx, app, id)
	case "suspended":
		err = b.cloud.client.SuspendMachine(ctx, app, id)
	}
	if err != nil {
		return 0, err
	}
	time.Sleep(rest)
	return b.cloud.firstByte(app)
}

// lastWake tells what the node noted about the latest start or resume.
func (b *bench) lastWake(ctx context.Context, app, id string) string {
	m, err := b.cloud.client.GetMachine(ctx, app, id)
	if err != nil {
		return err.Error()
	}
	for _, e := range m.Events {
		if len(e.Detail) == 0 {
			continue
		}
		var facts []string
		for k, v := range e.Detail {
			facts = append(facts, fmt.Sprintf("%s %v", k, v))
		}
		sort.Strings(facts)
		return e.Type + ": " + strings.Join(facts, ", ")
	}
	return "nothing noted"
}
