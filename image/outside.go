package image

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"
)

// errOwn is the one answer for every address of the server's own, whatever listens
// there: more would tell a stranger which ports are open.
var errOwn = errors.New("its address belongs to this server")

// outside carries requests to registries and to where those lead, by redirects,
// token servers and addresses of blobs. All of these are chosen by strangers, so it
// goes to no address of the server's own.
type outside struct {
	private func() []netip.Prefix
	named   []string // host:port of a registry for which this does not hold

	direct, proxied *http.Transport
}

func newOutside(private func() []netip.Prefix, named ...string) *outside {
	o := &outside{private: private, named: named, direct: newTransport(), proxied: newTransport()}
	o.direct.Proxy, o.direct.DialContext = nil, o.dial
	o.direct.DisableKeepAlives = len(named) > 0 // no connection outlives the pull that may have it
	return o
}

func newTransport() *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DialContext = dialer().DialContext
	t.ResponseHeaderTimeout = 30 * time.Second
	t.DisableCompression = true // layers are compressed, and their digest is of what is sent
	return t
}

func dialer() *net.Dialer { return &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second} }

// RoundTrip goes through the proxy of the environment, if there is one for the
// request. It is the operator's, may be on the server, and looks up names itself.
func (o *outside) RoundTrip(r *http.Request) (*http.Response, error) {
	if proxy, err := http.ProxyFromEnvironment(r); proxy == nil && err == nil {
		return o.direct.RoundTrip(r)
	}
	if a, err := netip.ParseAddr(r.URL.Hostname()); err == nil && o.own(a) {
		return nil, errOwn
	}
	return o.proxied.RoundTrip(r)
}

// dial looks at addresses once names are resolved, so that no name gets around it.
func (o *outside) dial(ctx context.Context, network, address string) (net.Conn, error) {
	d := dialer()
	if !slices.Contains(o.named, address) {
		d.Control = o.control
	}
	return d.DialContext(ctx, network, address)
}

func (o *outside) control(_, address string, _ syscall.RawConn) error {
	if a, err := netip.ParseAddrPort(address); err != nil || o.own(a.Addr()) {
		return errOwn
	}
	return nil
}

// own tells the addresses of the server, its machines and its link from all others.
// Private networks beside the server are others: people run registries there.
func (o *outside) own(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	if a.IsLoopback() || a.IsUnspecified() || a.IsLinkLocalUnicast() || a.IsMulticast() {
		return true
	}
	return slices.ContainsFunc(o.private(), func(p netip.Prefix) bool { return p.Contains(a) }) || ofInterface(a)
}

// ofInterface reports whether one of the server's interfaces has the address now.
func ofInterface(a netip.Addr) bool {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return true // rather none than one of ours
	}
	return slices.ContainsFunc(all, func(i net.Addr) bool {
		p, err := netip.ParsePrefix(i.String())
		return err == nil && p.Addr().Unmap() == a
	})
}

func (o *outside) closeIdle() {
	o.direct.CloseIdleConnections()
	o.proxied.CloseIdleConnections()
}

// outside is the way to the registry that a reference names. One on the server's
// loopback ([Store.Loopback] tells those who ask for it), and one that the operator
// has listed with its port, is reached at that very host and port, and nothing else
// of the server with it.
func (s *Store) outside(r reference) *outside {
	host := r.remote.Context().RegistryStr()
	switch {
	case !isLoopback(host) && !slices.Contains(s.cfg.PlainHTTP, host):
		return s.http
	case hasPort(host):
		return newOutside(s.cfg.Private, host)
	case isLoopback(host):
		bare := strings.Trim(host, "[]")
		return newOutside(s.cfg.Private, net.JoinHostPort(bare, "80"), net.JoinHostPort(bare, "443"))
	}
	return s.http
}

// Loopback reports whether a reference names a registry on the server's own loopback
// by "localhost" or an address. Pull reaches it; whoever takes references from
// strangers must ask first whether these may.
func (s *Store) Loopback(ref string) bool {
	r, err := s.parse(ref)
	return err == nil && !r.local && isLoopback(r.registry)
}

func isLoopback(host string) bool {
	if bare, _, err := net.SplitHostPort(host); err == nil {
		host = bare
	}
	host = strings.Trim(host, "[]")
	a, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && a.Unmap().IsLoopback()
}

func hasPort(host string) bool {
	_, _, err := net.SplitHostPort(host)
	return err == nil
}
