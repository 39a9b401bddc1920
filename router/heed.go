package router

import (
	"fmt"
	"io"
	"net/http"
	"time"
)

// The edge's side of requests that go to another node.

// maxTries is how often a request is tried on other nodes.
const maxTries = 8

// order is what the other router is told. large says that the request's body may be too large to be sent twice.
func (s *slot) order(a *ask, large bool) *order {
	o := &order{machine: []byte(s.seat.door.id), port: s.target.inside, public: a.port}
	if s.insist {
		o.flags |= insist
	}
	if s.target.port.H2Backend {
		o.flags |= toH2
	}
	if large {
		o.flags |= announce
	}
	return o
}

// heed takes what the other router says of the request besides the answer. refused says that there is none.
func (x *exchange) heed(rest []byte) (refused, again, retry bool) {
	code, n, ok := parseReport(x.res.Host)
	if ok {
		x.slot.seat.heard(n)
	}
	if code == codeOK {
		return false, false, false
	}
	text := x.readText(rest)
	x.trip.fresh = false
	if x.endSender(); x.late || x.res.Close || text == nil {
		x.dropUp()
	} else {
		x.r.keep(&x.slot, x.up, 0)
	}
	if !ok {
		return true, x.refuse(refuse(http.StatusBadGateway, "node %q answered what no router of ours says", x.slot.peer.node)), false
	}
	rf := &refusal{status: x.res.Status, reason: string(text), code: code}
	if rf.status == http.StatusServiceUnavailable {
		rf.retry = 1
	}
	if x.lost || x.trip.final(&x.slot, rf) {
		return true, x.refuse(rf), false
	}
	return true, false, true
}

// readText reads a refusal's body; nil if it does not come whole.
func (x *exchange) readText(rest []byte) []byte {
	n := x.res.ContentLength
	if n < 0 || n > 8<<10 || x.res.Chunked {
		return nil
	}
	text := append(make([]byte, 0, n), rest...)
	_ = x.up.SetReadDeadline(time.Now().Add(time.Second))
	for int64(len(text)) < n {
		k, err := x.up.Read(text[len(text):n])
		if text = text[:len(text)+k]; err != nil {
			return nil
		}
	}
	return text
}

// final notes another router's refusal, and says whether it is the last word.
func (tr *trip) final(s *slot, rf *refusal) bool {
	tr.start()
	tr.tries++
	tr.afar = true
	switch {
	case rf.code == codeBroken, tr.tries > maxTries:
		return true
	case s.insist && (rf.code == codeFull || rf.code == codeSilent || rf.code == codeFailed):
		return true
	case rf.code == codeFull && s.target.limits.hard > 0:
		s.seat.full(s.target.limits.hard)
	default:
		s.seat.shun()
		tr.fail(s.seat, fmt.Errorf("node %q: %s", s.peer.node, rf.reason))
	}
	return false
}

// again says whether a request that found no answer on another node may be sent once more.
func (tr *trip) again(s *slot, u *upstream) bool {
	tr.start()
	tr.tries++
	if tr.tries > maxTries || !s.target.app.stats.retries.spend() {
		return false
	}
	if !u.used || s.peer.down.Load() {
		s.peer.doubt()
		tr.fail(s.seat, fmt.Errorf("the connection to node %q broke", s.peer.node))
		tr.afar = true
	}
	return true
}

// wakeAfar has another node wake a machine for requests to come.
func (r *Router) wakeAfar(tg *target, sp *spot) {
	d := sp.seat.door
	if d.rising.Swap(true) {
		return
	}
	r.goes.Go(func() {
		defer d.rising.Store(false)
		tr := trip{ask: &ask{}, client: patient{r.life}}
		s := sp.slot(tg)
		u, err := r.openPeer(&tr, &s)
		if err != nil {
			return // requests go where machines run
		}
		defer u.Close()
		o := s.order(tr.ask, false)
		o.flags |= justWake | insist
		out := o.append([]byte("GET / HTTP/1.1\r\nHost: wake\r\n"))
		_ = u.SetDeadline(time.Now().Add(r.cfg.WakeTimeout))
		if _, err := u.Write(append(out, "Connection: close\r\n\r\n"...)); err == nil {
			_, _ = io.Copy(io.Discard, io.LimitReader(u, 8<<10))
		}
	})
}
