package dns

import (
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	systemResolvConf = "/etc/resolv.conf"
	// resolvedConf lists the real upstreams where systemd-resolved puts its stub
	// into /etc/resolv.conf. The stub serves the host's loopback and knows
	// nothing that these do not.
	resolvedConf = "/run/systemd/resolve/resolv.conf"
	// resolvConfAge is how long a list is trusted before its file is looked at again.
	resolvConfAge = 5 * time.Second
)

var resolvedStubs = []string{"127.0.0.53", "127.0.0.54"}

// upstreams is the list of resolvers to ask, kept as fresh as the files it comes from.
type upstreams struct {
	fixed []string // if set, the list
	files []string // the first, or the second where the first names a stub
	self  []netip.AddrPort
	log   *slog.Logger

	mu     sync.Mutex // guards what follows
	list   []string
	looked time.Time
	good   string // the one that answered last
}

// upstreamAddr completes "192.0.2.1", "fe80::1%eth0" or "[2001:db8::1]:5353" to host:port.
func upstreamAddr(s string) (string, error) {
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return ap.String(), nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return "", err
	}
	return net.JoinHostPort(a.String(), "53"), nil
}

// current returns the resolvers to ask, the one that answered last first.
func (u *upstreams) current() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	if time.Since(u.looked) > resolvConfAge {
		u.looked = time.Now()
		u.refresh()
	}
	if i := slices.Index(u.list, u.good); i > 0 {
		return slices.Concat(u.list[i:], u.list[:i])
	}
	return slices.Clone(u.list)
}

func (u *upstreams) refresh() {
	list := u.fixed
	if list == nil {
		list = readUpstreams(u.files)
	}
	list = slices.DeleteFunc(slices.Clone(list), u.isSelf)
	if !slices.Equal(list, u.list) {
		u.log.Info("upstream resolvers", "addresses", list)
	}
	u.list = list
}

// isSelf keeps us from asking ourselves.
func (u *upstreams) isSelf(addr string) bool {
	ap, err := netip.ParseAddrPort(addr)
	return err == nil && slices.Contains(u.self, ap)
}

func (u *upstreams) prefer(addr string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.good = addr
}

func readUpstreams(files []string) []string {
	var list []string
	for _, path := range files {
		servers, port := nameservers(path)
		if len(servers) == 0 || !slices.ContainsFunc(servers, isRealServer) {
			continue
		}
		for _, s := range slices.DeleteFunc(servers, func(s string) bool { return !isRealServer(s) }) {
			list = append(list, net.JoinHostPort(s, port))
		}
		break
	}
	return list
}

func isRealServer(s string) bool {
	_, err := netip.ParseAddr(s)
	return err == nil && !slices.Contains(resolvedStubs, s)
}

// nameservers returns nothing for a file that cannot be read: it may be there
// again in a moment, as network managers replace it.
func nameservers(path string) ([]string, string) {
	f, err := os.Open(path)
	if err != nil {
		return nil, ""
	}
	defer f.Close()
	conf, err := dns.ClientConfigFromReader(f)
	if err != nil {
		return nil, ""
	}
	return conf.Servers, conf.Port
}
