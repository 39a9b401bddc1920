package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/perigee-run/perigee/api"
)

// atOnce is how many machines are made at the same time.
const atOnce = 50

// apiFigure measures what the API adds to an operation: the round trip of the call, less
// what the node says that the operation itself took; and what becomes of many machines
// that are made at the same time.
func (b *bench) apiFigure(ctx context.Context) error {
	ref, err := b.putTiny(ctx, "calls")
	if err != nil {
		return err
	}
	defer func() { _ = b.cloud.client.DeleteApp(context.WithoutCancel(ctx), "calls") }()
	if err := b.apiCalls(ctx, ref); err != nil {
		return err
	}
	return b.apiCrowd(ctx, ref)
}

func (b *bench) apiCalls(ctx context.Context, ref string) error {
	id, err := b.cloud.serve(ctx, "calls", ref, 64)
	if err != nil {
		return err
	}
	got := map[string]samples{}
	for range max(5, b.rounds) {
		if err := b.apiRound(ctx, id, got); err != nil {
			return err
		}
	}
	var rows [][]string
	for _, what := range []string{"stop", "stop, over the end of its process", "wait, after the end of its process", "start", "start, over the machine's own", "wait for a state that is there", "show"} {
		goal := ""
		if what != "stop" && what != "start" {
			goal = "10"
		}
		rows = append(rows, []string{what, got[what].String(), goal})
	}
	printTable(fmt.Sprintf("Calls of the API, ms, %d rounds", len(got["start"])), []string{"call", "ms", "goal"}, rows)
	return b.cloud.client.DestroyMachine(ctx, "calls", id, true)
}

// apiRound stops and starts the machine while somebody waits for it.
func (b *bench) apiRound(ctx context.Context, id string, got map[string]samples) error {
	c := b.cloud.client
	note := func(what string, d time.Duration) { got[what] = append(got[what], d) }
	heard := make(chan time.Time, 1)
	go func() {
		_, err := c.WaitMachine(ctx, "calls", id, api.WaitOptions{States: []string{api.StateStopped}, Timeout: 20 * time.Second})
		if err == nil {
			heard <- time.Now()
		}
		close(heard)
	}()
	time.Sleep(100 * time.Millisecond) // it is waited for by now
	began := time.Now()
	if err := c.StopMachine(ctx, "calls", id, api.StopRequest{Signal: "SIGKILL"}); err != nil {
		return err
	}
	took := time.Since(began)
	m, err := c.GetMachine(ctx, "calls", id)
	if err != nil {
		return err
	}
	ended, asked := eventAt(m, "exit"), eventAt(m, "stop")
	note("stop", took)
	note("stop, over the end of its process", max(0, took-ended.Sub(asked)))
	if at, ok := <-heard; ok {
		note("wait, after the end of its process", max(0, at.Sub(ended)))
	}
	time.Sleep(500 * time.Millisecond) // the pool is full again
	began = time.Now()
	if err := c.StartMachine(ctx, "calls", id); err != nil {
		return err
	}
	took = time.Since(began)
	note("start", took)
	began = time.Now()
	if _, err := c.WaitMachine(ctx, "calls", id, api.WaitOptions{}); err != nil {
		return err
	}
	note("wait for a state that is there", time.Since(began))
	began = time.Now()
	if m, err = c.GetMachine(ctx, "calls", id); err != nil {
		return err
	}
	note("show", time.Since(began))
	own, _ := m.Events[0].Detail["total_ms"].(float64)
	note("start, over the machine's own", max(0, took-time.Duration(own*float64(time.Millisecond))))
	return nil
}

// eventAt is when the latest event of a kind was.
func eventAt(m api.Machine, kind string) time.Time {
	i := slices.IndexFunc(m.Events, func(e api.Event) bool { return e.Type == kind })
	if i < 0 {
		return time.Time{}
	}
	return time.UnixMilli(m.Events[i].Timestamp)
}

// apiCrowd makes many machines at the same time.
func (b *bench) apiCrowd(ctx context.Context, ref string) error {
	var mu sync.Mutex // guards what follows
	var each samples
	faults := map[string]int{}
	var all sync.WaitGroup
	began := time.Now()
	for range atOnce {
		all.Go(func() {
			from := time.Now()
			m, err := b.cloud.client.CreateMachine(ctx, "calls", api.CreateMachineRequest{Config: &api.MachineConfig{Image: ref, Guest: &api.Guest{MemoryMB: 64}}})
			if err == nil && m.State != api.StateStarted {
				err = fmt.Errorf("it is %s", m.State)
			}
			mu.Lock()
			defer mu.Unlock()
			each = append(each, time.Since(from))
			if err != nil {
				faults[err.Error()]++
			}
		})
	}
	all.Wait()
	took := time.Since(began)
	failed := 0
	for _, n := range faults {
		failed += n
	}
	rows := [][]string{
		{"that failed", fmt.Sprint(failed), "0"}, {"until all run, ms", fmt.Sprintf("%.0f", ms(took)), ""}, {"one of them, ms", each.String(), ""},
	}
	for words, n := range faults {
		rows = append(rows, []string{words, fmt.Sprint(n), ""})
	}
	printTable(fmt.Sprintf("%d machines made at the same time", atOnce), []string{"machines", "figure", "goal"}, rows)
	return nil
}
