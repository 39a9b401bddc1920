//go:build linux

package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/perigee-run/perigee/lab/control"
	"github.com/perigee-run/perigee/lab/fabric"
	"github.com/perigee-run/perigee/region"
)

// Serve answers `perigee lab` on the unix socket in the lab's directory, until
// ctx ends or somebody asks the lab to end. Closing is the caller's.
func (l *Lab) Serve(ctx context.Context) error {
	ctx, down := context.WithCancel(ctx)
	defer down()
	ln, err := net.Listen("unix", l.path(control.Socket))
	if err != nil {
		return fmt.Errorf("cannot open the lab's socket: %w", err)
	}
	srv := &http.Server{Handler: l.handler(down), ReadHeaderTimeout: 10 * time.Second}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(ln) }()
	select {
	case err = <-ended:
		return err
	case <-ctx.Done():
	}
	last, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = srv.Shutdown(last) // answers that take longer are cut
	_ = srv.Close()
	<-ended
	return nil
}

func (l *Lab) handler(down func()) http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) { reply(w, l.Status(), nil) })
	m.HandleFunc("GET /routes", func(w http.ResponseWriter, _ *http.Request) { reply(w, l.Routes(), nil) })
	m.HandleFunc("POST /change", func(w http.ResponseWriter, r *http.Request) {
		var c control.Change
		err := json.NewDecoder(r.Body).Decode(&c)
		if err == nil {
			err = l.apply(c)
		}
		reply(w, struct{}{}, err)
	})
	m.HandleFunc("POST /visit", func(w http.ResponseWriter, r *http.Request) {
		var req control.VisitRequest
		var v control.Visit
		err := json.NewDecoder(r.Body).Decode(&req)
		if err == nil {
			v, err = l.Visit(r.Context(), req)
		}
		reply(w, v, err)
	})
	m.HandleFunc("POST /down", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, struct{}{}, nil)
		down()
	})
	return m
}

func reply(w http.ResponseWriter, v any, err error) {
	if err != nil {
		status := http.StatusBadRequest
		if errors.As(err, new(fabric.NotFound)) {
			status = http.StatusNotFound
		}
		http.Error(w, err.Error(), status)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

// apply does what was asked.
func (l *Lab) apply(c control.Change) error {
	switch c.Op {
	case control.OpCut:
		return l.Cut(c.A, c.B)
	case control.OpCutOneWay:
		return l.CutOneWay(c.A, c.B)
	case control.OpMend:
		return l.Mend(c.A, c.B)
	case control.OpIsolate:
		return l.Isolate(c.A)
	case control.OpHeal:
		l.Heal()
		return nil
	case control.OpLoss:
		return l.SetLoss(c.A, c.B, c.Share)
	case control.OpRTT:
		return l.SetRTT(c.A, c.B, c.Delay)
	case control.OpJitter:
		return l.SetJitter(c.A, c.B, c.Delay)
	case control.OpDelegate:
		return l.Delegate(c.A, c.Servers...)
	}
	return errors.New("cannot change the lab: unknown change " + string(c.Op))
}

// Status says what the lab is.
func (l *Lab) Status() control.Status {
	s := control.Status{Dir: l.cfg.Dir, Pid: os.Getpid(), Since: l.began, Faults: l.fabric.Faults(), Stats: l.Stats(), Hosts: []control.Host{}}
	for i, code := range l.cfg.Cities {
		c, _ := region.Lookup(code)
		s.Cities = append(s.Cities, control.City{Code: code, Name: c.Name, Router4: addr4(i, 1), Router6: addr6(i, 1)})
		var row []control.RoundTrip
		for _, other := range l.cfg.Cities {
			row = append(row, control.RoundTrip(float64(l.RTT(code, other))/float64(time.Millisecond)))
		}
		s.RTT = append(s.RTT, row)
	}
	for _, h := range l.Hosts() {
		s.Hosts = append(s.Hosts, control.Host{Name: h.Name, City: h.City, Addr4: h.Addr4, Addr6: h.Addr6, Pid: h.Pid(), Node: l.nodeStatus(h)})
	}
	return s
}

func (l *Lab) nodeStatus(h *Host) *control.Node {
	for _, n := range l.Nodes() {
		if n.Host == h {
			return &control.Node{Running: n.Running(), Socket: n.Socket, Data: n.Data, Log: n.Log}
		}
	}
	return nil
}
