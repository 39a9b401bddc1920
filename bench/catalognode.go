package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/catalog"
	"github.com/perigee-run/perigee/machine"
)

// catalogNode is a process on a host of the lab that does nothing but hold the
// catalog, as a node would. It reads one question a line and answers each.
type catalogNode struct {
	cfg      catalogConfig
	catalog  *catalog.Catalog
	clock    *catalog.Published[moment]
	machines *catalog.Published[machine.Summary]
	records  *catalog.Table[moment]

	mu    sync.Mutex // guards heard
	heard map[string][]time.Duration
}

// catalogConfig is the first line that a catalogNode reads.
type catalogConfig struct {
	Dir, Name, Addr string
	Members         []catalog.Member
	CA, Cert, Key   []byte
}

// moment is a record that says when it was made. All hosts of a lab share one
// clock.
type moment struct {
	At time.Time `json:"at"`
}

type question struct {
	Do      string           // members, tick, fill, await, put, has, report
	Key     string           `json:",omitempty"`
	N       int              `json:",omitempty"`
	Members []catalog.Member `json:",omitempty"`
}

type answer struct {
	Error    string                     `json:",omitempty"`
	OK       bool                       `json:",omitempty"`
	Took     time.Duration              `json:",omitempty"`
	Heard    map[string][]time.Duration `json:",omitempty"` // since the last report, by who said it
	HeapMiB  float64                    `json:",omitempty"`
	Status   catalog.StateStatus
	Replicas int `json:",omitempty"`
}

// serveCatalogNode is the main program of such a process.
func serveCatalogNode() error {
	debug.SetGCPercent(50) // as perigeed does
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 1<<20)
	n := &catalogNode{heard: map[string][]time.Duration{}}
	if !in.Scan() {
		return errors.New("there is no configuration")
	}
	if err := json.Unmarshal(in.Bytes(), &n.cfg); err != nil {
		return err
	}
	if err := n.open(); err != nil {
		return err
	}
	out := json.NewEncoder(os.Stdout)
	for in.Scan() {
		var q question
		if err := json.Unmarshal(in.Bytes(), &q); err != nil {
			return err
		}
		a := n.answer(q)
		if err := out.Encode(a); err != nil {
			return err
		}
	}
	return n.catalog.Close()
}

func (n *catalogNode) open() (err error) {
	pair, err := tls.X509KeyPair(n.cfg.Cert, n.cfg.Key)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(n.cfg.CA)
	self := memberAt(n.cfg.Name, n.cfg.Addr)
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	n.catalog, err = catalog.Open(context.Background(), catalog.Config{
		Dir: n.cfg.Dir, Node: n.cfg.Name, Members: n.cfg.Members, ClientListen: self.ClientAddr, RouteListen: self.RouteAddr,
		TLS: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}}, Logger: log,
	})
	if err != nil {
		return err
	}
	if n.records, err = catalog.NewTable[moment](n.catalog, "records"); err != nil {
		return err
	}
	if n.clock, err = catalog.NewPublished[moment](n.catalog, "clock"); err != nil {
		return err
	}
	n.machines, err = catalog.NewPublished[machine.Summary](n.catalog, "machines")
	go n.listen()
	n.clock.Set("began", moment{time.Now()})
	return err
}

func (n *catalogNode) listen() {
	for c := range n.clock.Watch(context.Background()) {
		took := time.Since(c.Value.At)
		if c.Deleted || c.Node == n.cfg.Name {
			continue
		}
		n.mu.Lock()
		n.heard[c.Node+" "+c.Key] = append(n.heard[c.Node+" "+c.Key], took)
		n.mu.Unlock()
	}
}

func (n *catalogNode) answer(q question) (a answer) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	var err error
	switch q.Do {
	case "members":
		err = n.catalog.SetMembers(q.Members)
	case "tick":
		n.clock.Set(q.Key, moment{time.Now()})
	case "put":
		_, err = n.records.Put(ctx, q.Key, moment{time.Now()})
	case "has":
		_, a.OK = n.records.Get(q.Key)
	case "hears":
		_, a.OK = n.clock.Get(q.Key, "began")
	case "fill":
		n.machines.Replace(benchSummaries(n.cfg.Name, q.N))
	case "await":
		err = n.await(ctx, q.N)
	case "report":
		a.Heard, a.HeapMiB = n.report()
		a.Status = n.catalog.StateStatus()
	}
	a.Took = time.Since(began)
	if err != nil {
		a.Error = err.Error()
	}
	return a
}

func (n *catalogNode) await(ctx context.Context, want int) error {
	for len(n.machines.List()) < want {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}

func (n *catalogNode) report() (map[string][]time.Duration, float64) {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	n.mu.Lock()
	defer n.mu.Unlock()
	heard := n.heard
	n.heard = map[string][]time.Duration{}
	return heard, float64(m.HeapAlloc) / (1 << 20)
}

// benchSummaries are machines as a node would tell of them: a hundred of each
// app, with one service and one check.
func benchSummaries(node string, n int) map[string]machine.Summary {
	out := make(map[string]machine.Summary, n)
	now := time.Now().UTC().Truncate(time.Millisecond)
	for i := range n {
		app, id := fmt.Sprintf("%s-app%d", node, i/100), fmt.Sprintf("%014x", i)
		out[id] = machine.Summary{
			ID: id, App: app, Org: "personal", Name: fmt.Sprintf("quiet-river-%d", i), Node: node, Region: node, Group: "app",
			PrivateIP: fmt.Sprintf("fdaa:0:%x:a7b:1::%x", i/65536+1, i%65536), State: api.StateStarted, Since: now, Healthy: true,
			Checks: []machine.CheckSummary{{Name: "up", Status: "passing"}}, Version: fmt.Sprintf("01HZZZ%020d", i), Release: 3,
			Config:    benchConfig(app),
			Image:     api.ImageRef{Registry: "registry.perigee.internal", Repository: app, Tag: "v3", Digest: fmt.Sprintf("sha256:%064x", i/100)},
			CreatedAt: now, UpdatedAt: now,
		}
	}
	return out
}

func benchConfig(app string) *api.MachineConfig {
	start := true
	return &api.MachineConfig{
		Image: "registry.perigee.internal/" + app + ":v3", Env: map[string]string{"PORT": "8080", "APP_ENV": "production"},
		Guest: &api.Guest{MemoryMB: 256, CPUs: 1}, Metadata: map[string]string{"process_group": "app"},
		Services: []api.Service{{Protocol: "tcp", InternalPort: 8080, Autostart: &start, Ports: []api.Port{
			{Port: 80, Handlers: []string{"http"}}, {Port: 443, Handlers: []string{"tls", "http"}}}}},
	}
}
