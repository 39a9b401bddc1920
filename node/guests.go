package node

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"sync"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/httpapi"
	"github.com/perigee-run/perigee/sandbox"
	"github.com/perigee-run/perigee/token"
)

// guests are the machines of this node as callers of the API. Each has a socket
// that leads here, and needs no token: the supervisor says who calls.
type guests struct {
	n *Node
}

// guestClasses are what a machine may do with its app, and with nothing else.
var guestClasses = []token.Class{token.Reads, token.Changes, token.Execs}

type guestKey struct{}

// enter keeps with a connection which machine is at its other end.
func (g *guests) enter(ctx context.Context, c net.Conn) context.Context {
	if visitor, ok := c.(*visitor); ok {
		return context.WithValue(ctx, guestKey{}, visitor.Name)
	}
	return ctx
}

// Authenticate goes by the connection, whatever the request says of itself.
func (g *guests) Authenticate(r *http.Request) (httpapi.Principal, error) {
	id, _ := r.Context().Value(guestKey{}).(string)
	s, ok := g.n.machines.Status(id)
	if !ok {
		return httpapi.Principal{}, api.Errorf(api.CodeUnauthorized, "the call comes from no machine of this node")
	}
	org := g.n.orgOfApp(s.App)
	if org == "" {
		return httpapi.Principal{}, api.Errorf(api.CodeUnauthorized, "the machine's app is gone")
	}
	return httpapi.Principal{Name: "machine:" + id, App: s.App, Machine: id, Scope: token.Grant(org, []string{s.App}, guestClasses...)}, nil
}

// maxVisits bounds the connections of one machine.
const maxVisits = 128

// lobby is the door, with so many of each machine at most; further ones are closed.
type lobby struct {
	net.Listener
	mu     sync.Mutex // guards inside
	inside map[string]int
}

func newLobby(l net.Listener) *lobby {
	return &lobby{Listener: sandbox.NewDoor(l), inside: map[string]int{}}
}

// Accept implements net.Listener.
func (l *lobby) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		v := &visitor{Guest: c.(*sandbox.Guest), lobby: l}
		if l.come(v.Name) {
			return v, nil
		}
		v.Guest.Close()
	}
}

func (l *lobby) come(name string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.inside[name] >= maxVisits {
		return false
	}
	l.inside[name]++
	return true
}

func (l *lobby) leave(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.inside[name]--; l.inside[name] <= 0 {
		delete(l.inside, name)
	}
}

// visitor is a connection that is counted.
type visitor struct {
	*sandbox.Guest
	lobby *lobby
	left  sync.Once
}

// Close implements net.Conn.
func (v *visitor) Close() error {
	v.left.Do(func() { v.lobby.leave(v.Name) })
	return v.Guest.Close()
}

// publicIP is the first address at which clients reach the node, "" if it has
// none, or a name.
func (n *Node) publicIP() string {
	for _, a := range n.publicAddrs() {
		if ip, err := netip.ParseAddr(a); err == nil {
			return ip.String()
		}
	}
	return ""
}
