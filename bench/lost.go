package main

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/perigee-run/perigee/lab"
)

// watch is a visitor who makes a new request every 50 ms, whether or not the
// earlier ones are answered.
type watch struct {
	from *lab.Host
	to   string
	app  string

	mu   sync.Mutex // guards seen
	seen []visit
	quit chan struct{}
	wg   sync.WaitGroup
}

type visit struct {
	began time.Time
	took  time.Duration
	err   error
}

func startWatch(from *lab.Host, to, app string) *watch {
	w := &watch{from: from, to: to, app: app, quit: make(chan struct{})}
	w.wg.Go(func() {
		for {
			w.wg.Go(w.visit)
			select {
			case <-w.quit:
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
	})
	return w
}

func (w *watch) visit() {
	v := visit{began: time.Now()}
	v.took, v.err = firstByteOver(dialFrom(w.from), w.to, host(w.app), 5*time.Second)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen = append(w.seen, v)
}

// stop waits for the last answers and returns all requests in their order.
func (w *watch) stop() []visit {
	close(w.quit)
	w.wg.Wait()
	slices.SortFunc(w.seen, func(a, b visit) int { return a.began.Compare(b.began) })
	return w.seen
}

// outage is what a visitor saw of a fault.
type outage struct {
	asked, failed int
	errors        time.Duration // from the first request that failed to the first after it that did not
	after         int           // requests that failed after that one
	slowest       time.Duration // of those answered
	last          error
}

func look(seen []visit, fault time.Time) (o outage) {
	var first, well time.Time
	for _, v := range seen {
		if v.began.Add(v.took).Before(fault) {
			continue
		}
		o.asked++
		switch {
		case v.err != nil:
			o.failed, o.last = o.failed+1, v.err
			if first.IsZero() {
				first = v.began
			}
			if !well.IsZero() {
				o.after++
			}
		default:
			o.slowest = max(o.slowest, v.took)
			if !first.IsZero() && well.IsZero() {
				well = v.began
				o.errors = well.Sub(first)
			}
		}
	}
	return o
}

func (o outage) row(who string) []string {
	why := ""
	if o.last != nil {
		why = fmt.Sprintf("%.60s", o.last)
	}
	return []string{who, fmt.Sprint(o.asked), fmt.Sprint(o.failed), fmt.Sprintf("%.2f", o.errors.Seconds()), "2", fmt.Sprint(o.after), "0",
		fmt.Sprintf("%.2f", o.slowest.Seconds()), why}
}

var outageHeader = []string{"visitor", "requests", "failed", "errors for, s", "goal", "failed after", "goal", "slowest answer, s", ""}

// faultRounds is how often a city is cut off, and a node killed.
const faultRounds = 3

// cutFigure cuts a city off and prints what visitors of the others see.
func (c *cities) cutFigure(ctx context.Context) error {
	if err := c.deploy(ctx, "pair", "fra", "syd"); err != nil {
		return err
	}
	shared := net.JoinHostPort(anycastAddr, "80")
	if err := c.until(ctx, time.Minute, "everybody reaches an edge at the shared address", func() (bool, error) {
		for _, h := range c.visitors {
			if _, err := c.visit(h, shared, "near"); err != nil {
				return false, err
			}
		}
		return true, nil
	}); err != nil {
		return err
	}
	var rows [][]string
	for range faultRounds {
		seen, err := c.during(ctx, "syd", map[string]*watch{
			"nrt, whose edge was in syd": startWatch(c.visitors["nrt"], shared, "near"), "iad": startWatch(c.visitors["iad"], shared, "near"),
			"fra": startWatch(c.visitors["fra"], shared, "near"), "syd, cut off with its edge": startWatch(c.visitors["syd"], shared, "near"),
		})
		if err != nil {
			return err
		}
		rows = append(rows, seen...)
	}
	slices.SortFunc(rows, func(a, b []string) int { return slices.Compare(a, b) })
	printTable(fmt.Sprintf("Sydney is cut off, %d times for 4 s; a machine in iad, fra and syd; edges found by BGP", faultRounds), outageHeader, rows)
	rows = nil
	for range faultRounds {
		seen, err := c.during(ctx, "fra", map[string]*watch{"iad, whose nearest machine was in fra": startWatch(c.visitors["iad"], c.at("iad-1"), "pair")})
		if err != nil {
			return err
		}
		rows = append(rows, seen...)
	}
	printTable("Frankfurt is cut off; machines in fra and syd alone", outageHeader, rows)
	return nil
}

// during cuts a city off for a while, less than makes others take it for dead.
func (c *cities) during(ctx context.Context, city string, watches map[string]*watch) (rows [][]string, err error) {
	time.Sleep(time.Second)
	fault := time.Now()
	if err := c.lab.Isolate(city); err != nil {
		return nil, err
	}
	time.Sleep(4 * time.Second)
	for who, w := range watches {
		rows = append(rows, look(w.stop(), fault).row(who))
	}
	c.lab.Heal()
	return rows, c.whole(ctx)
}

// whole waits until all see all.
func (c *cities) whole(ctx context.Context) error {
	return c.until(ctx, time.Minute, "all nodes see all others", func() (bool, error) {
		for _, n := range c.nodes {
			list, err := n.Client().ListNodes(ctx)
			if err != nil {
				return false, err
			}
			for _, o := range list {
				if o.State != "up" {
					return false, nil
				}
			}
		}
		return true, nil
	})
}

// killFigure kills a node's daemon and measures how long its machine is missing.
func (c *cities) killFigure(ctx context.Context) error {
	shared := net.JoinHostPort(anycastAddr, "80")
	w := startWatch(c.visitors["nrt"], shared, "near")
	other := startWatch(c.visitors["iad"], shared, "near")
	time.Sleep(time.Second)
	fault := time.Now()
	if err := c.nodes["syd-1"].Kill(); err != nil {
		return err
	}
	err := c.until(ctx, 2*time.Minute, "the lost machine is made anew", func() (bool, error) {
		list, err := c.client().ListMachines(ctx, "near")
		alive := 0
		for _, m := range list {
			if m.Node != "syd-1" && m.State == "started" {
				alive++
			}
		}
		return alive == 3, err
	})
	if err != nil {
		return err
	}
	took := time.Since(fault)
	printTable("Sydney's node is killed", outageHeader, [][]string{look(w.stop(), fault).row("nrt, whose edge was in syd"), look(other.stop(), fault).row("iad")})
	fmt.Printf("its machine runs elsewhere %.1f s after the kill, with --dead-after %s\n", took.Seconds(), deadAfter)
	return nil
}
