package zone

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
	"github.com/perigee-run/perigee/dns/door"
)

// Edge is a router that clients enter.
type Edge struct {
	// Node is its name, Region the city code that says where it is.
	Node, Region string
	// IPv4 and IPv6 are its public addresses; the first of each is given out.
	IPv4, IPv6 []netip.Addr
	// Up says that it answers; Draining that it should get nobody new.
	Up, Draining bool
	// Load is the share of what it can carry that is in use, 0 to 1. Among edges
	// that are equally near, the less loaded is given more often.
	Load float64
}

// App is what the zone must know of an app.
type App struct {
	// Exists says that there is such an app; otherwise its name does not exist.
	Exists bool
	// IPs are dedicated addresses: those are answered, wherever the client is.
	IPs []netip.Addr
	// Regions are where it runs. The zone does not look at them: the edge nearest
	// to the client is right in any case, for it forwards on the shortest way.
	Regions []string
	// Wildcard says that every name below <app>.<zone> answers like the app.
	Wildcard bool
}

// Source is asked on every query, from many goroutines, and must answer from
// memory.
type Source interface {
	// Edges returns all edges in service, also those down or draining. They may be
	// shared: nobody changes a list that was given.
	Edges() []Edge
	// App returns the app of that name, which is in lower case.
	App(name string) (App, bool)
}

// NameServer is a server of this zone, as it was given to the registrar.
type NameServer struct {
	// Name is in full, "ns1.apps.example.com".
	Name string
	// Addrs are its addresses; needed, as glue, where the name is in the zone.
	Addrs []netip.Addr
}

// DefaultTTL is that of addresses unless the configuration says otherwise.
const DefaultTTL = 20 * time.Second

// Config says where the zone is served and what it answers. Listen, Zone, Source
// and NameServers are required.
type Config struct {
	// Listen are the addresses to serve UDP and TCP on. Port 0 picks one.
	Listen []netip.AddrPort
	// Open takes one of them. Default [door.Open].
	Open func(netip.AddrPort) (door.Door, error)
	// Zone is the domain, "apps.example.com".
	Zone string
	// Source knows edges and apps.
	Source Source
	// NameServers are those that the registrar points to. The first is the SOA's.
	NameServers []NameServer
	// Records are the operator's own, one line each as in a zone file, with names
	// relative to the zone: `@ CAA 0 issue "letsencrypt.org"`. Their names exist
	// beside the apps'. TTL, unless given, is 300 s.
	Records []string
	// Mailbox is who is responsible, "hostmaster@example.com". Default
	// hostmaster at the zone.
	Mailbox string

	// Prefixes is a file of lines "prefix region"; the longest prefix that holds
	// the client's address wins. It is read again when it changes. Default: none.
	Prefixes string
	// MMDB is a database with location.latitude and .longitude, as MaxMind's and
	// DB-IP's of cities are. It is asked where Prefixes knows nothing, held in
	// memory, and read again when it changes. Default: none.
	MMDB string

	// TTL of addresses. Default 20 s: so long may a resolver give out an edge that
	// is gone.
	TTL time.Duration
	// NegativeTTL is how long a resolver may remember that a name does not exist.
	// Default 20 s, so that a new app is soon reached.
	NegativeTTL time.Duration
	// Answers is the most addresses of shared edges in an answer. Default 2.
	Answers int
	// Spread is how many kilometres farther than the nearest a further edge may be
	// to be in the answer too: clients pick any of the addresses. Default 300.
	Spread float64
	// RateLimit is how many UDP answers a second the clients of one network (IPv4
	// /24, IPv6 /56) get, after a burst of as many. Of the questions beyond it,
	// every second is answered with "ask by TCP" and the rest with silence: a real
	// resolver gets through, a forged address is not flooded. Default 500.
	RateLimit int
	// Logger receives what changes. Default: none.
	Logger *slog.Logger
}

func (c *Config) setDefaults() error {
	if c.Source == nil || len(c.Listen) == 0 {
		return errors.New("cannot make zone: it needs a source and an address to listen on")
	}
	zone, err := fullName(c.Zone)
	if err != nil || zone == "." {
		return fmt.Errorf("cannot make zone %q: want a domain such as apps.example.com", c.Zone)
	}
	c.Zone = zone
	setDefault(&c.TTL, DefaultTTL)
	setDefault(&c.NegativeTTL, 20*time.Second)
	setDefault(&c.Answers, 2)
	setDefault(&c.Spread, 300)
	setDefault(&c.RateLimit, 500)
	setDefault(&c.Mailbox, "hostmaster@"+strings.TrimSuffix(zone, "."))
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c.check()
}

func setDefault[T comparable](v *T, to T) {
	var zero T
	if *v == zero {
		*v = to
	}
}

func (c *Config) check() error {
	if c.TTL < time.Second || c.NegativeTTL < time.Second || c.TTL > time.Hour || c.NegativeTTL > time.Hour {
		return fmt.Errorf("cannot make zone %q: TTLs are from 1 s to 1 h", c.Zone)
	}
	if c.Answers < 1 || c.Answers > 8 || c.Spread < 0 || c.RateLimit < 1 {
		return fmt.Errorf("cannot make zone %q: want 1 to 8 answers, a spread of 0 km or more and a rate limit of 1 or more", c.Zone)
	}
	if !strings.Contains(c.Mailbox, "@") {
		return fmt.Errorf("cannot make zone %q: mailbox %q is not an address such as hostmaster@example.com", c.Zone, c.Mailbox)
	}
	if len(c.NameServers) == 0 {
		return fmt.Errorf("cannot make zone %q: it needs the names of its name servers, as given to the registrar", c.Zone)
	}
	seen := map[string]bool{}
	for _, ns := range c.NameServers {
		name, err := c.checkServer(ns)
		if err != nil {
			return err
		}
		if seen[name] {
			return fmt.Errorf("cannot use name server %q twice: give its addresses at once, with commas between", ns.Name)
		}
		seen[name] = true
	}
	return nil
}

func (c *Config) checkServer(ns NameServer) (name string, err error) {
	if name, err = fullName(ns.Name); err != nil {
		return "", fmt.Errorf("cannot use name server %q: %w", ns.Name, err)
	}
	if dns.IsSubDomain(c.Zone, name) && len(ns.Addrs) == 0 {
		return "", fmt.Errorf("cannot use name server %q: its name is in the zone, so it needs an address as glue", ns.Name)
	}
	return name, nil
}

// fullName is a name in lower case with the final dot.
func fullName(name string) (string, error) {
	full := dns.CanonicalName(name)
	if _, ok := dns.IsDomainName(full); !ok || name == "" || strings.ContainsAny(full, " \\\"") {
		return "", fmt.Errorf("%q is not a domain name", name)
	}
	return full, nil
}
