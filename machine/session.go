package machine

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/perigee-run/perigee/api"
)

// bySSH is the source of the events of those who come in by SSH.
const bySSH = "ssh"

// maxSessions is how many events of sessions are kept, so that a script which
// comes in again and again does not push out what else became of the machine.
const maxSessions = 10

// Session is somebody who came in.
type Session struct {
	// Who came in, as which User of the machine.
	Who, User string
	// Did names the program. Arguments and input are not to be in it: they may
	// hold secrets.
	Did string
}

// NoteSession adds an event about somebody who came in, which is amended by the
// function that it returns when they leave. It never fails: who is in must not
// be thrown out for it.
func (h *Host) NoteSession(ctx context.Context, id string, s Session) (ended func(exitCode int)) {
	m, err := h.find(ctx, id)
	if err != nil {
		return func(int) {}
	}
	began, event := time.Now(), ""
	m.record(func(v *view) {
		event = v.rec.note("ssh", bySSH, map[string]any{"who": s.Who, "user": s.User, "did": s.Did}).ID
		v.rec.Events = fewSessions(v.rec.Events)
	})
	return func(exitCode int) {
		m.record(func(v *view) {
			v.rec.endSession(event, map[string]any{"exit_code": exitCode, "duration_ms": milliseconds(time.Since(began))})
		})
	}
}

// fewSessions drops the oldest events of sessions beyond maxSessions.
func fewSessions(events []api.Event) []api.Event {
	n := 0
	return slices.DeleteFunc(slices.Clone(events), func(e api.Event) bool {
		if e.Source == bySSH {
			n++
		}
		return e.Source == bySSH && n > maxSessions
	})
}

// endSession adds facts to an event, if it is still kept, without touching what
// readers may hold.
func (r *Record) endSession(id string, facts map[string]any) {
	i := slices.IndexFunc(r.Events, func(e api.Event) bool { return e.ID == id })
	if i < 0 {
		return
	}
	r.Events = slices.Clone(r.Events)
	detail := maps.Clone(r.Events[i].Detail)
	maps.Copy(detail, facts)
	r.Events[i].Detail = detail
}
