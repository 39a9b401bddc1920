package node

import (
	"context"
	"log/slog"
	"time"

	"github.com/perigee-run/perigee/logs"
)

// console carries what machines say, and what the node says about them, to the
// log.
type console struct {
	collector *logs.Collector
	store     *logs.Store
	region    string
	log       *slog.Logger
}

// Follow implements machine.Console.
func (c console) Follow(app, machine, path string) {
	if err := c.collector.Follow(logs.Machine{App: app, Region: c.region, ID: machine, Path: path}); err != nil {
		c.log.Error("cannot follow console", "machine", machine, "err", err)
	}
}

// Unfollow implements machine.Console.
func (c console) Unfollow(machine string) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := c.collector.Unfollow(ctx, machine); err != nil {
		c.log.Warn("cannot ship the console to its end", "machine", machine, "err", err)
	}
}

// Say implements machine.Console.
func (c console) Say(app, machine, text string) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	line := logs.Line{App: app, Region: c.region, Machine: machine, Source: logs.SourcePlatform, Text: text}
	if err := c.store.Append(ctx, line); err != nil {
		c.log.Warn("cannot add to the log", "machine", machine, "err", err)
	}
}
