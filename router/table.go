package router

import (
	"net/netip"
	"time"
)

// Table is everything the router knows about who offers what. The node builds one from the catalog each time something
// changes and hands it over whole with [Router.SetTable]; nothing in it may be changed afterwards.
type Table struct {
	Apps []App
}

// App is one app as its visitors see it: the names it answers to and the ports it offers.
type App struct {
	// Name is the app's name, unique in the table.
	Name string
	// Hosts are the names the app answers to: "<app>.<domain>" and custom names. "*.example.com" stands for exactly one
	// label in place of the star, as in certificates; an exact name wins over a star.
	Hosts []string
	// Addrs are public addresses that belong to the app alone: a connection to one is for it, whatever host it names, and
	// all of its ports are there. They must be of those that are led to Config.Own.
	Addrs []netip.Addr
	// Private is the same for callers of the app's organization; besides, its services without public ports are there at
	// their internal ones, and no TLS is forced. The zero value: none.
	Private netip.Addr
	// Org is the organization that the app belongs to. Requests are replayed to other apps of the same one only, and
	// reach private services from the same one only.
	Org string
	// Services are the sets of ports the app offers.
	Services []Service
}

// Service is one internal port of an app, the public ports that lead to it, and the machines that serve it.
type Service struct {
	// Protocol is "tcp"; empty means tcp. Others are reported as a [Problem].
	Protocol string
	// InternalPort is the port that the machines listen on.
	InternalPort int
	// Ports are the public ports that lead here.
	Ports []Port
	// Concurrency limits what is in flight per machine.
	Concurrency Concurrency
	// AutoStart lets the router wake a sleeping machine for a request.
	AutoStart bool
	// Machines are all machines that serve this service, in whatever state.
	Machines []Machine
}

// Handler names: what the router does with the bytes of a public port. None at all means raw TCP.
const (
	HandlerHTTP       = "http"        // HTTP/1.1, HTTP/2 and WebSocket, by Host
	HandlerTLS        = "tls"         // TLS ends here, by server name
	HandlerPgTLS      = "pg_tls"      // TLS ends here after PostgreSQL's SSLRequest, by server name
	HandlerProxyProto = "proxy_proto" // the machine is told the client's address by the PROXY protocol
)

// Port is a public port, or a range of them, and how it is handled.
type Port struct {
	// Start and End are the first and last public port; End 0 means Start alone.
	Start, End int
	// Handlers are the Handler names above.
	Handlers []string
	// ForceHTTPS answers plain HTTP requests with a 301 to https.
	ForceHTTPS bool
	// H2Backend speaks HTTP/2 without TLS to the machine, as gRPC servers want it.
	H2Backend bool
	// Sticky sends a visitor's HTTP requests to the machine that answered the first one, as long as it can take them. The
	// visitor keeps a cookie for it.
	Sticky bool
	// ProxyProtoVersion is 1 or 2; 0 means 1. It counts only with HandlerProxyProto.
	ProxyProtoVersion int
	// IdleTimeout ends a connection or a request after so long a silence in both directions; 0 means never for
	// requests, streams and raw connections, and Config.IdleTimeout for a connection between two requests.
	IdleTimeout time.Duration
}

// Concurrency limits what one machine is given at once. What is counted is the same for both types, because every
// request in flight holds one connection to the machine: requests for HTTP, connections for everything else.
type Concurrency struct {
	// Type is "connections" or "requests"; empty means connections.
	Type string
	// Soft is where the router begins to prefer other machines and to wake another one; 0 means none.
	Soft int
	// Hard is never exceeded: further requests wait, and then are answered 503; 0 means none.
	Hard int
}

// Machine states as the router reads them; any other state means that the machine takes no requests.
const (
	StateStarted    = "started"
	StatePaused     = "paused"
	StateSuspended  = "suspended"
	StateStopped    = "stopped"
	StateStarting   = "starting"
	StateRestarting = "restarting"
	StatePausing    = "pausing"
	StateSuspending = "suspending"
	StateStopping   = "stopping"
)

// Machine is one machine that serves a service.
type Machine struct {
	// ID is the machine's id, unique in the fleet.
	ID string
	// Region is where it runs.
	Region string
	// Node is the name of the node that owns it, the key of [Router.SetDistances]. Empty: this node.
	Node string
	// Via is where the router of that node takes what is for its machines: its address in the mesh, port 4284. The zero
	// value says that the machine is on this node.
	Via netip.AddrPort
	// Addr is its private address as this host sees it; it may be missing while the machine sleeps.
	Addr netip.Addr
	// State is one of the State names.
	State string
	// Healthy says that its checks pass, or that it has none.
	Healthy bool
	// Cordoned machines get no new requests.
	Cordoned bool
	// Port overrides Service.InternalPort for this machine; 0 means it does not.
	Port int
}

func (m *Machine) local() bool { return !m.Via.IsValid() }

// Problem is something in the table that the router cannot do. It concerns only what it names; the rest is served.
type Problem struct {
	// App is the app that does not get what it asked for, Other the one that has it (empty if none of ours has).
	App, Other string
	// Port is the public port in question, or 0.
	Port int
	// Host is the name in question, or empty.
	Host string
	// Err says all of it in words, with the cure.
	Err error
}
