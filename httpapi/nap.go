package httpapi

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/perigee-run/perigee/api"
)

// napTime bounds what a machine asked for itself.
const napTime = 5 * time.Minute

// nap is an endpoint without a body that silences the machine which it is about. One
// that asks for itself is answered before: while it sleeps it could not listen, and
// a connection does not outlive a suspension. How that went is in the audit log.
type nap struct{ verb[none, api.OKResponse] }

// silence is act for calls that silence the machine.
func silence(do func(c *call) error) endpoint { return nap{act(do)} }

func (n nap) serve(c *call) error {
	id := c.path("machine_id")
	if c.who.Machine == "" || c.who.Machine != id {
		return n.verb.serve(c)
	}
	if _, already := c.server.naps.LoadOrStore(id, true); already {
		return api.Errorf(api.CodeConflict, "machine %q is being put to sleep at its own word", id)
	}
	defer c.server.naps.Delete(id)
	ctx, cancel := c.alone(napTime)
	defer cancel()
	c.goodbye()
	c.r = c.r.WithContext(ctx)
	if _, err := n.do(c, none{}); err != nil {
		c.code = asError(err).Code
		c.server.cfg.Logger.Debug("a machine that asked for it was not put to sleep", "machine", id, "error", err)
	}
	return nil
}

// goodbye is the whole answer, sent at once.
func (c *call) goodbye() {
	const ok = "{\"ok\":true}\n"
	c.w.Header().Set("Content-Type", "application/json")
	c.w.Header().Set("Content-Length", strconv.Itoa(len(ok)))
	_, _ = c.w.Write([]byte(ok)) // the machine may have gone already
	_ = http.NewResponseController(c.w).Flush()
}

// alone is the call's context without its connection, for some time. It ends with
// the server that took the call.
func (c *call) alone(most time.Duration) (context.Context, func()) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.r.Context()), most)
	server, ok := ctx.Value(http.ServerContextKey).(*http.Server)
	if !ok || server.BaseContext == nil {
		return ctx, cancel
	}
	stop := context.AfterFunc(server.BaseContext(nil), cancel)
	return ctx, func() { stop(); cancel() }
}
