package anycast

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	"github.com/osrg/gobgp/v4/pkg/packet/bgp"
)

// session is what we know of one neighbor. Announcer.mu guards it.
type session struct {
	neighbor Neighbor
	state    string
	since    time.Time
	why      string // there is no session
	tooMany  bool   // it sent too many prefixes
}

func (s *session) status() Session {
	out := Session{Neighbor: s.neighbor.Address, ASN: s.neighbor.ASN, State: s.state, Since: s.since, Established: s.state == "established"}
	if !out.Established {
		if out.Error = s.why; out.Error == "" {
			out.Error = fmt.Sprintf("cannot talk to neighbor %s yet: connecting", s.neighbor.Address)
		}
	}
	return out
}

// words are BGP's states.
var words = map[bgp.FSMState]string{
	bgp.BGP_FSM_IDLE: "idle", bgp.BGP_FSM_CONNECT: "connect", bgp.BGP_FSM_ACTIVE: "active",
	bgp.BGP_FSM_OPENSENT: "opensent", bgp.BGP_FSM_OPENCONFIRM: "openconfirm", bgp.BGP_FSM_ESTABLISHED: "established",
}

// onPeer follows a neighbor's state.
func (a *Announcer) onPeer(e *apiutil.WatchEventMessage_PeerEvent) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.sessions[e.Peer.State.NeighborAddress]
	if s == nil || e.Type != apiutil.PEER_EVENT_STATE && e.Type != apiutil.PEER_EVENT_INIT {
		return
	}
	was := s.state
	if now := words[e.Peer.State.SessionState]; now != "" && now != was {
		s.state, s.since = now, time.Now()
	}
	s.tooMany = e.Peer.State.AdminState == api.PeerState_ADMIN_STATE_PFX_CT
	s.explain(a.cfg, e.Peer.State)
	a.logState(s, was)
}

// logState needs mu.
func (a *Announcer) logState(s *session, was string) {
	switch up := s.state == "established"; {
	case up && was != "established":
		s.why = ""
		a.log.Info("BGP session is up", "neighbor", s.neighbor.Address, "as", s.neighbor.ASN)
	case !up && was == "established":
		a.log.Warn("BGP session is down", "neighbor", s.neighbor.Address, "as", s.neighbor.ASN, "why", s.why)
	}
}

// explain puts why there is no session into words.
func (s *session) explain(cfg Config, p apiutil.PeerState) {
	reason := ""
	switch p.DisconnectReason {
	case api.PeerState_DISCONNECT_REASON_UNSPECIFIED, api.PeerState_DISCONNECT_REASON_IDLE_TIMER_EXPIRED:
	case api.PeerState_DISCONNECT_REASON_BAD_PEER_AS:
		reason = s.badAS()
	case api.PeerState_DISCONNECT_REASON_INVALID_MSG: // so gobgp says it while the session is opened
		reason = fmt.Sprintf("it refuses our opening message; it may expect another AS from us than %d, or have the router id %s itself", cfg.ASN, cfg.RouterID)
	case api.PeerState_DISCONNECT_REASON_HOLD_TIMER_EXPIRED:
		reason = fmt.Sprintf("it was silent for %s", cfg.HoldTime)
	case api.PeerState_DISCONNECT_REASON_READ_FAILED:
		reason = "it closed the connection"
	default:
		reason = "the session ended: " + p.DisconnectMessage
	}
	if s.tooMany {
		reason = fmt.Sprintf("it sent more than %d prefixes, and none is wanted; have it send none (next try within %s)", cfg.MaxReceived, cfg.RetryAfter)
	}
	if reason != "" {
		s.why = s.cannot(reason)
	}
}

func (s *session) cannot(reason string) string {
	return fmt.Sprintf("cannot talk to neighbor %s: %s", s.neighbor.Address, reason)
}

func (s *session) badAS() string {
	return fmt.Sprintf("it is not of AS %d; give its own AS number", s.neighbor.ASN)
}

// onFailure is told by overhear why there is no session.
func (a *Announcer) onFailure(neighbor netip.Addr, reason func(*session) string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.sessions[neighbor]
	if s == nil || s.state == "established" {
		return
	}
	if why := s.cannot(reason(s)); why != s.why {
		s.why = why
		a.log.Warn("no BGP session", "neighbor", neighbor, "why", why)
	}
}

func unreachable(message string) func(*session) string {
	return func(s *session) string {
		if s.neighbor.Password != "" && strings.Contains(message, "timeout") {
			message += "; with a password, silence mostly means that the neighbor has another one, or none"
		}
		return message
	}
}

// overhear is gobgp's log. It goes to ours as details; what it alone tells, why
// a session does not come about, is picked out.
type overhear struct {
	a        *Announcer
	neighbor netip.Addr
}

// Enabled is for slog. Connection failures are told at debug level.
func (overhear) Enabled(context.Context, slog.Level) bool { return true }

// Handle is for slog.
func (o overhear) Handle(_ context.Context, r slog.Record) error {
	details, all := map[string]slog.Value{}, []any{"neighbor", text(o.neighbor)}
	r.Attrs(func(at slog.Attr) bool {
		details[at.Key], all = at.Value, append(all, at)
		return true
	})
	switch r.Message {
	case "failed to connect":
		o.a.onFailure(o.neighbor, unreachable(details["Error"].String()))
	case "sent notification":
		if details["Code"].Any() == int64(bgp.BGP_ERROR_OPEN_MESSAGE_ERROR) && details["Subcode"].Any() == int64(bgp.BGP_ERROR_SUB_BAD_PEER_AS) {
			o.a.onFailure(o.neighbor, (*session).badAS)
		}
	}
	o.a.log.Debug("bgp: "+r.Message, all...)
	return nil
}

// WithAttrs is for slog: gobgp gives each neighbor a log with its address.
func (o overhear) WithAttrs(attrs []slog.Attr) slog.Handler {
	for _, at := range attrs {
		if a, err := netip.ParseAddr(at.Value.String()); at.Key == "Key" && err == nil {
			o.neighbor = a
		}
	}
	return o
}

// WithGroup is for slog.
func (o overhear) WithGroup(string) slog.Handler { return o }
