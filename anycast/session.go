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
	n := s.neighbor
	reason := ""
	switch {
	case s.tooMany:
		reason = fmt.Sprintf("it sent more than %d prefixes, and none is wanted; have it send none (next try in %s)", cfg.MaxReceived, cfg.RetryAfter)
	case p.DisconnectReason == api.PeerState_DISCONNECT_REASON_BAD_PEER_AS:
		reason = fmt.Sprintf("it is not of AS %d; give its own AS number", n.ASN)
	case strings.Contains(p.DisconnectMessage, "bad peer as") || strings.Contains(p.DisconnectMessage, "bad-peer-as"):
		reason = s.badAS(cfg, p.DisconnectMessage)
	case p.DisconnectReason == api.PeerState_DISCONNECT_REASON_HOLD_TIMER_EXPIRED:
		reason = fmt.Sprintf("it was silent for %s", cfg.HoldTime)
	case p.DisconnectReason != api.PeerState_DISCONNECT_REASON_UNSPECIFIED && p.DisconnectMessage != "":
		reason = "the session ended: " + p.DisconnectMessage
	}
	if reason != "" {
		s.why = fmt.Sprintf("cannot talk to neighbor %s: %s", n.Address, reason)
	}
}

func (s *session) badAS(cfg Config, message string) string {
	if strings.Contains(message, "received") {
		return fmt.Sprintf("it does not expect AS %d from us; one of the two configurations has a wrong AS number", cfg.ASN)
	}
	return fmt.Sprintf("it is not of AS %d; give its own AS number", s.neighbor.ASN)
}

// onConnectFailure is told by overhear.
func (a *Announcer) onConnectFailure(neighbor netip.Addr, message string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.sessions[neighbor]
	if s == nil || s.state == "established" {
		return
	}
	why := fmt.Sprintf("cannot connect to neighbor %s: %s", neighbor, message)
	if strings.Contains(message, "timeout") && s.neighbor.Password != "" {
		why += "; with a password, silence mostly means that the neighbor has another one, or none"
	}
	if why != s.why {
		a.log.Warn("no BGP session", "neighbor", neighbor, "why", why)
	}
	s.why = why
}

// overhear is gobgp's log. It goes to ours as details; what it alone tells, why
// a connection failed, is picked out.
type overhear struct {
	a        *Announcer
	neighbor netip.Addr
}

// Enabled is for slog. Connection failures are told at debug level.
func (overhear) Enabled(context.Context, slog.Level) bool { return true }

// Handle is for slog.
func (o overhear) Handle(_ context.Context, r slog.Record) error {
	var details []any
	r.Attrs(func(at slog.Attr) bool {
		details = append(details, at)
		if at.Key == "Error" && r.Message == "failed to connect" {
			o.a.onConnectFailure(o.neighbor, at.Value.String())
		}
		return true
	})
	o.a.log.Debug("bgp: "+r.Message, append(details, "neighbor", text(o.neighbor))...)
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
