package main

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
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
// for a machine that is stopped, paused and suspended, and for peers that do
// the same with the same image.
func (b *bench) wakeFigure(ctx context.Context) error {
	apps, err := b.apps()
	if err != nil {
		return err
	}
	d, reason := startDocker(ctx, filepath.Join(b.work, "docker"))
	if d != nil {
		defer d.stop()
	}
	peers, absent := b.contenders(d)
	if d == nil {
		absent["docker"] = reason.Error()
	}
	var rows, where [][]string
	for _, img := range apps {
		if d != nil {
			if err := d.load(img); err != nil {
				return err
			}
		}
		got, parts, err := b.wakeRounds(ctx, img, peers)
		if err != nil {
			return err
		}
		rows = append(rows, wakeRows(img.name, got, peers, absent)...)
		for _, depth := range depths {
			where = append(where, append([]string{img.name, depth}, parts[depth].row(got[depth])...))
		}
	}
	printTable(fmt.Sprintf("Request to first byte, ms: median (best–worst) of %d interleaved rounds, with %s", b.rounds, b.nodejs), []string{"app", "from", "ms", "goal", ""}, rows)
	printTable("Where the time goes, ms, medians of the same rounds",
		[]string{"app", "from", "first byte", "=", "prepare", "assign", "sandbox", "other in node", "router and app", "prepared ahead"}, where)
	return nil
}

func wakeRows(app string, got map[string]samples, peers []contender, absent map[string]string) (rows [][]string) {
	for _, depth := range depths {
		rows = append(rows, []string{app, depth, got[depth].String(), goals[depth][app], ""})
	}
	for _, p := range peers {
		ratio := float64(got[p.kin].median()) / float64(got[p.name].median())
		rows = append(rows, []string{app, p.name, got[p.name].String(), "", fmt.Sprintf("ours from %s takes %.2f of it", p.kin, ratio)})
	}
	for _, name := range slices.Sorted(maps.Keys(absent)) {
		rows = append(rows, []string{app, name, "-", "", absent[name]})
	}
	return rows
}

func (b *bench) wakeRounds(ctx context.Context, img *benchImage, peers []contender) (map[string]samples, map[string]split, error) {
	ref, err := b.cloud.put(ctx, img.name, img.archive)
	if err != nil {
		return nil, nil, err
	}
	id, err := b.cloud.serve(ctx, img.name, ref, img.memory)
	if err != nil {
		return nil, nil, err
	}
	defer b.cloud.client.DestroyMachine(ctx, img.name, id, true)
	if _, err := b.cloud.firstByte(img.name); err != nil {
		return nil, nil, err
	}
	got, parts := map[string]samples{}, map[string]split{"cold": {}, "paused": {}, "suspended": {}}
	for range b.rounds {
		if err := b.wakeRound(ctx, img, id, peers, got, parts); err != nil {
			return nil, nil, err
		}
	}
	return got, parts, nil
}

func (b *bench) wakeRound(ctx context.Context, img *benchImage, id string, peers []contender, got map[string]samples, parts map[string]split) error {
	for _, depth := range depths {
		took, err := b.wakeOnce(ctx, img.name, id, depth)
		if err != nil {
			return fmt.Errorf("%s from %s: %w", img.name, depth, err)
		}
		got[depth] = append(got[depth], took)
		m, err := b.cloud.client.GetMachine(ctx, img.name, id)
		if err != nil {
			return err
		}
		parts[depth].note(detailOf(m), took)
	}
	for _, p := range peers {
		time.Sleep(rest / 3)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		took, err := p.start(img)
		if err != nil {
			return fmt.Errorf("%s with %s: %w", img.name, p.name, err)
		}
		got[p.name] = append(got[p.name], took)
	}
	return nil
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
