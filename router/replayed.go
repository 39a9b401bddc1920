package router

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/router/http1"
)

// replay does what the app asks for instead of an answer.
func (x *exchange) replay(rest []byte) (again, retry bool) {
	rp, err := x.readReplay(rest)
	if x.endSender(); x.late || err != nil || x.res.Close {
		x.dropUp()
	} else {
		x.r.keep(&x.slot, x.up, 0)
	}
	if err == nil {
		err = x.mayReplay(rp)
	}
	if err != nil {
		return x.refuse(refuse(http.StatusBadGateway, "machine %q asked to replay the request: %v", x.slot.seat.door.id, err)), false
	}
	x.takeReplay(rp)
	return false, true
}

// takeReplay makes the next try one of the replay.
func (x *exchange) takeReplay(rp *replay) {
	x.replays++
	x.trip.replay(rp, &x.slot)
	x.notes = fmt.Appendf(x.notes[:0], "Fly-Replay-Src: %s\r\n", rp.source(x.slot.regionOf(), time.Now()))
}

// readReplay takes the request to replay from the answer's head or body.
func (x *exchange) readReplay(rest []byte) (*replay, error) {
	body := x.readBody(rest)
	if x.res.ReplayBody {
		if body == nil {
			return nil, fmt.Errorf("its body is not whole, or longer than %d bytes", maxReplayJSON)
		}
		return parseReplayJSON(body)
	}
	rp, err := parseReplay(string(x.res.Replay))
	if err == nil && body == nil {
		x.res.Close = true
	}
	return rp, err
}

// readBody reads a short body; nil if it is not short or not whole.
func (x *exchange) readBody(rest []byte) []byte {
	if x.res.Bodyless(x.head) {
		return []byte{}
	}
	_ = x.up.SetReadDeadline(time.Now().Add(5 * time.Second))
	return readReplayBody(x.up, rest, &x.res)
}

// readReplayBody is readShort; besides, a body that asks for a replay may end with the connection.
func readReplayBody(up io.Reader, rest []byte, res *http1.Response) []byte {
	if !res.ReplayBody || res.Chunked || res.ContentLength >= 0 {
		return readShort(up, rest, res)
	}
	res.Close = true
	body, err := io.ReadAll(io.LimitReader(io.MultiReader(bytes.NewReader(rest), up), maxReplayJSON+1))
	if err != nil || len(body) > maxReplayJSON {
		return nil
	}
	return body
}

// readShort reads the body that follows an answer's head, the beginning of which is rest.
func readShort(up io.Reader, rest []byte, res *http1.Response) []byte {
	in := io.MultiReader(bytes.NewReader(rest), up)
	if !res.Chunked {
		if res.ContentLength < 0 || res.ContentLength > maxReplayJSON {
			return nil
		}
		body := make([]byte, res.ContentLength)
		if _, err := io.ReadFull(in, body); err != nil {
			return nil
		}
		return body
	}
	var c http1.Chunks
	body, buf := []byte{}, make([]byte, 4<<10)
	for len(body) <= maxReplayJSON {
		n, err := in.Read(buf)
		var done bool
		var bad error
		if body, _, done, bad = c.Feed(body, buf[:n], true); done {
			return body
		}
		if err != nil && n == 0 || bad != nil {
			return nil
		}
	}
	return nil
}

const notKept = "its body is longer than %d bytes, or too much of others' is kept already"

// mayReplay says why a replay is not done.
func (x *exchange) mayReplay(rp *replay) error {
	if x.lost {
		return fmt.Errorf(notKept, maxReplayBody)
	}
	return x.r.mayReplay(x.slot.target, rp, x.replays)
}

func (r *Router) mayReplay(tg *target, rp *replay, replays int) error {
	if replays >= maxReplays {
		return fmt.Errorf("it was replayed %d times already: the apps send it in a loop", replays)
	}
	if rp.App == "" || rp.App == tg.app.name {
		return nil
	}
	if app := r.routes.Load().apps[rp.App]; app == nil || app.org != tg.app.org || tg.app.org == "" {
		return fmt.Errorf("app %q is not of the same organization", api.Clip(rp.App))
	}
	return nil
}

// replay turns the trip to where the app wants it to go.
func (tr *trip) replay(rp *replay, s *slot) {
	rp.self = s.seat.door.id
	rp.selfApp = s.target.app.name
	if rp.App == "" {
		rp.App = rp.selfApp // whatever host the request names
	}
	a := tr.ask
	a.replay, a.force, a.prefer, a.near, a.stick, a.cookie = rp, nil, nil, nil, nil, nil
	*tr = trip{ask: a, client: tr.client, failed: tr.failed[:0], careful: tr.careful}
	if rp.Timeout > 0 {
		tr.until = time.Now().Add(rp.Timeout)
	}
}

// fallBack sends a replay that found nobody back to who asked for it, if that one said so.
func (x *exchange) fallBack(rf *refusal) bool {
	note := x.trip.fallBack(rf)
	if note == "" {
		return false
	}
	x.notes = fmt.Appendf(x.notes, "Fly-Replay-Failed: %s\r\n", note)
	return true
}

func (tr *trip) fallBack(rf *refusal) string {
	rp := tr.ask.replay
	if rp == nil || rp.Fallback == "" || rf.status == statusClientGone || tr.fellBack {
		return ""
	}
	next := &replay{App: rp.selfApp, self: rp.self}
	if rp.Fallback == "force_self" {
		next.Instance = rp.self
	} else {
		next.Prefer = rp.self
	}
	tr.ask.replay = next
	*tr = trip{ask: tr.ask, client: tr.client, failed: tr.failed[:0], careful: tr.careful, fellBack: true}
	return fmt.Sprintf("status=%d", rf.status)
}

func (s *slot) regionOf() string {
	for i := range s.target.spots {
		if sp := &s.target.spots[i]; sp.seat == s.seat {
			return sp.region
		}
	}
	return ""
}
