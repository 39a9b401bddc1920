package router

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"
)

// Waker brings a sleeping machine back: the machine room.
//
// Wake returns as soon as the machine's process runs, with its private address; the router then dials the service's
// port until it answers. It is called for machines that are paused, suspended, stopped or on their way to any of
// these, and now and then for one that runs already, which it must answer at once. The router never has two calls
// for one machine under way. An error means that this machine cannot serve now; its text reaches the visitor.
type Waker interface {
	Wake(ctx context.Context, machine string) (netip.Addr, error)
}

// Certificates gives the certificate for a TLS handshake and answers ACME's http-01 challenges.
type Certificates interface {
	GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error)
	// ServeChallenge answers r if it is an ACME http-01 challenge that it knows, else it returns false and does nothing.
	ServeChallenge(w http.ResponseWriter, r *http.Request) bool
}

// Config is what a Router needs. Every field may be left at its zero value; the comments state what that means.
type Config struct {
	// Waker wakes sleeping machines. Nil: sleeping machines stay asleep.
	Waker Waker
	// Certificates for TLS. Nil: port 443 is not opened, and ports with a tls handler are reported as a Problem.
	Certificates Certificates
	// Logger takes state changes and, at debug level, one line per request. Nil: nothing is logged.
	Logger *slog.Logger
	// Domain is the node's domain, named in the page for unknown hosts.
	Domain string
	// Region is this node's region: machines here are preferred; it is also sent to apps as Fly-Region.
	Region string

	// HostListen is the address at which this router takes requests of other nodes' routers for its machines: this node's
	// address in the mesh, port 4284. Empty: none are taken.
	HostListen string
	// PeerAllowed says whether an address may connect there: those of other nodes in the mesh. Nil: nobody may.
	PeerAllowed func(netip.Addr) bool
	// StickyKey signs the cookies of sticky services; all nodes must have the same. Nil: one of this process alone.
	StickyKey []byte
	// Own are sockets to which connections to App.Addrs and App.Private are led, on all ports: the local address of each
	// is the one that it was made to. The router closes them.
	Own []net.Listener
	// OrgOf says which organization a caller at a private address belongs to, empty for none. Nil: nobody does.
	OrgOf func(netip.Addr) string
	// Inherited are listeners by public port, as another process of ours had them ("80"; "host" for HostListen); see
	// [Router.Files]. They are used instead of opening anew.
	Inherited map[string]net.Listener

	// Listen maps a public port to the address that answers for it ("127.0.0.1:8080" for 80). A port that is missing
	// is opened as itself on all addresses, IPv4 and IPv6; "off" opens nothing for it.
	Listen map[int]string
	// TrustedProxies are peers whose X-Forwarded-For is believed. Default: nobody's; what a client claims is dropped.
	TrustedProxies []netip.Prefix
	// OnProblems is told all present problems each time they change. It must not block, nor call SetTable.
	OnProblems func([]Problem)
	// Dial opens connections to machines. Default: a net.Dialer.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)

	// WakeTimeout is how long a request is held for a machine that wakes, until its port answers. Default 30 s.
	WakeTimeout time.Duration
	// ConnectTimeout is how long a request is held while no running machine accepts connections. Default 5 s.
	ConnectTimeout time.Duration
	// QueueTimeout is how long a request waits when all machines are at their hard limit. Default 10 s.
	QueueTimeout time.Duration
	// QueueLength is how many requests of one service may wait so. Default 1000.
	QueueLength int
	// HeaderTimeout is how long a client may take to send the head of a request, or its TLS handshake. Default 10 s.
	HeaderTimeout time.Duration
	// BodyTimeout is how long a client may be silent in the middle of a request body. Default 60 s. HTTP/2 all the way to the
	// machine has no such limit: streams are silent there by design, and a port's IdleTimeout ends them.
	BodyTimeout time.Duration
	// KeptBodies is how many bytes of request bodies are kept for another try, for all requests together. Beyond it bodies
	// are sent without being kept. Default 64 MiB.
	KeptBodies int64
	// IdleTimeout is how long a client's connection may stay open between two requests. Default 75 s.
	IdleTimeout time.Duration
	// UpstreamIdle is how long an unused connection to a machine is kept. Default 30 s.
	UpstreamIdle time.Duration
	// StallTimeout is how long a client may refuse to take bytes that we have for it. Default 2 min.
	StallTimeout time.Duration
	// DrainTimeout is how long requests in flight may take to finish once Run's context ends. Default 10 s.
	DrainTimeout time.Duration
	// MaxHead is the largest head of a request or answer, in bytes. Default 32 KiB.
	MaxHead int
}

func (c Config) withDefaults() Config {
	def(&c.WakeTimeout, 30*time.Second)
	def(&c.ConnectTimeout, 5*time.Second)
	def(&c.QueueTimeout, 10*time.Second)
	def(&c.HeaderTimeout, 10*time.Second)
	def(&c.BodyTimeout, time.Minute)
	def(&c.KeptBodies, 64<<20)
	def(&c.IdleTimeout, 75*time.Second)
	def(&c.UpstreamIdle, 30*time.Second)
	def(&c.StallTimeout, 2*time.Minute)
	def(&c.DrainTimeout, 10*time.Second)
	def(&c.QueueLength, 1000)
	def(&c.MaxHead, 32<<10)
	c.StickyKey = stickyKey(c.StickyKey)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Dial == nil {
		c.Dial = (&net.Dialer{KeepAlive: 30 * time.Second}).DialContext
	}
	return c
}

func def[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}
