package appconfig

import (
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/perigee-run/perigee/api"
)

var handlers = []string{"http", "tls", "pg_tls", "proxy_proto"}

// claims are the public ports taken so far, by process group.
type claims map[string]map[int]string

func (c check) services() {
	taken := claims{}
	if h := c.cfg.HTTPService; h != nil {
		key := "http_service"
		c.common(key, h.InternalPort, h.Processes, h.MinMachinesRunning, h.Concurrency)
		for i, hc := range h.Checks {
			c.httpCheck(index(key+".checks", i), hc)
		}
		c.httpOptions(key, h.HTTPOptions)
		for _, p := range []int{80, 443} {
			c.claim(taken, key, h.Processes, p, p)
		}
	}
	for i, s := range c.cfg.ServiceList {
		c.service(index("services", i), s, taken)
	}
}

func (c check) service(key string, s Service, taken claims) {
	if strings.EqualFold(s.Protocol, "udp") {
		c.errorf(key+".protocol", "udp services are not available yet; leave the service out")
	} else {
		c.oneOf(key+".protocol", s.Protocol, "tcp")
	}
	if s.InternalPort == 0 {
		c.errorf(key+".internal_port", "is missing: the port that the app listens on")
	}
	c.common(key, s.InternalPort, s.Processes, s.MinMachinesRunning, s.Concurrency)
	for i, p := range s.Ports {
		c.servicePort(index(key+".ports", i), p)
		if first, last := p.span(); first > 0 && last <= 65535 {
			c.claim(taken, index(key+".ports", i), s.Processes, first, last)
		}
	}
	for i, tc := range s.TCPChecks {
		c.times(index(key+".tcp_checks", i), tc)
	}
	for i, hc := range s.HTTPChecks {
		c.httpCheck(index(key+".http_checks", i), hc)
	}
}

func (c check) common(key string, port int, groups []string, least *int, l *Concurrency) {
	if port != 0 {
		c.port(key+".internal_port", port)
	}
	c.groups(key, groups)
	if least != nil && *least < 0 {
		c.errorf(key+".min_machines_running", "is %d; it cannot be negative", *least)
	}
	if l == nil {
		return
	}
	key += ".concurrency"
	c.oneOf(key+".type", l.Type, "connections", "requests")
	switch {
	case l.SoftLimit < 0:
		c.errorf(key+".soft_limit", "is %d; it cannot be negative", l.SoftLimit)
	case l.HardLimit < 0:
		c.errorf(key+".hard_limit", "is %d; it cannot be negative", l.HardLimit)
	case l.HardLimit > 0 && l.SoftLimit > l.HardLimit:
		c.errorf(key+".soft_limit", "is %d, more than the hard limit of %d", l.SoftLimit, l.HardLimit)
	}
}

func (c check) port(key string, p int) {
	if p < 1 || p > 65535 {
		c.errorf(key, "is %d; a port is 1 to 65535", p)
	}
}

func (p Port) span() (first, last int) {
	if p.StartPort == 0 && p.EndPort == 0 {
		return p.Port, p.Port
	}
	return p.StartPort, p.EndPort
}

func (c check) servicePort(key string, p Port) {
	switch {
	case p.Port != 0 && (p.StartPort != 0 || p.EndPort != 0):
		c.errorf(key+".port", "is there beside a range; give port, or start_port and end_port")
	case p.StartPort != 0 || p.EndPort != 0:
		c.port(key+".start_port", p.StartPort)
		c.port(key+".end_port", p.EndPort)
		if p.StartPort > p.EndPort && p.EndPort > 0 {
			c.errorf(key+".end_port", "is %d, less than start_port %d", p.EndPort, p.StartPort)
		}
	default:
		c.port(key+".port", p.Port)
	}
	c.handlers(key, p)
	c.httpOptions(key, p.HTTPOptions)
	if o := p.ProxyProtoOptions; o != nil {
		c.oneOf(key+".proxy_proto_options.version", o.Version, "v1", "v2")
	}
}

func (c check) handlers(key string, p Port) {
	has := func(h string) bool { return slices.Contains(p.Handlers, h) }
	for i, h := range p.Handlers {
		at := index(key+".handlers", i)
		if !slices.Contains(handlers, h) {
			c.errorf(at, "%s is not a handler; there is %s", show(h), strings.Join(handlers, ", "))
		} else if slices.Index(p.Handlers, h) < i {
			c.errorf(at, "%s is there twice", show(h))
		}
	}
	switch {
	case has("pg_tls") && (has("tls") || has("http")), has("proxy_proto") && has("http"):
		c.errorf(key+".handlers", "%s do not go together", strings.Join(p.Handlers, " and "))
	case p.ForceHTTPS && !has("http"):
		c.errorf(key+".force_https", "needs the handler \"http\"")
	}
}

func (c check) httpOptions(key string, o *HTTPOptions) {
	if o != nil && o.IdleTimeout != nil && (*o.IdleTimeout < 0 || *o.IdleTimeout > 24*3600) {
		c.errorf(key+".http_options.idle_timeout", "is %d; it can be 0 to 86400 seconds", *o.IdleTimeout)
	}
}

// claim refuses two services of one process group on one public port.
func (c check) claim(taken claims, key string, groups []string, first, last int) {
	for _, g := range c.cfg.members(groups) {
		if taken[g] == nil {
			taken[g] = map[int]string{}
		}
		for p := first; p <= last; p++ {
			if owner, ok := taken[g][p]; ok {
				c.errorf(key, "public port %d is taken by %s already", p, owner)
				break
			}
			taken[g][p] = key
		}
	}
}

func (c check) namedChecks() {
	for _, name := range slices.Sorted(maps.Keys(c.cfg.Checks)) {
		key, nc := join("checks", name), c.cfg.Checks[name]
		if !checkForm.MatchString(name) {
			c.errorf(key, "%s cannot name a check; use letters, digits and _ . : / -", show(name))
		}
		c.oneOf(key+".type", nc.Type, "tcp", "http")
		c.oneOf(key+".kind", nc.Kind, "informational", "readiness")
		switch {
		case nc.Type == "":
			c.errorf(key+".type", "is missing: tcp or http")
		case nc.Port != 0:
			c.port(key+".port", nc.Port)
		case c.cfg.HTTPService == nil && len(c.cfg.ServiceList) == 0:
			c.errorf(key+".port", "is missing, and there is no service whose port could be meant")
		}
		c.groups(key, nc.Processes)
		c.httpCheck(key, nc.HTTPCheck)
	}
}

func (c check) httpCheck(key string, h HTTPCheck) {
	c.times(key, h.TCPCheck)
	c.oneOf(key+".protocol", h.Protocol, "http", "https")
	if h.Method != "" && !methodForm.MatchString(h.Method) {
		c.errorf(key+".method", "%s is not an HTTP method", show(h.Method))
	}
	if h.Path != "" && (h.Path[0] != '/' || strings.ContainsFunc(h.Path, notPrintable)) {
		c.errorf(key+".path", "%s is not a path that begins with a slash", show(h.Path))
	}
	if h.TLSServerName != "" && !hostForm.MatchString(h.TLSServerName) {
		c.errorf(key+".tls_server_name", "%s is not a host name", show(h.TLSServerName))
	}
	for _, name := range slices.Sorted(maps.Keys(h.Headers)) {
		bad := func(v string) bool { return strings.ContainsAny(v, "\r\n\x00") }
		if !headerForm.MatchString(name) || slices.ContainsFunc(h.Headers[name], bad) {
			c.errorf(join(key+".headers", name), "is not a header that can be sent")
		}
	}
}

func notPrintable(r rune) bool { return r <= ' ' || unicode.IsControl(r) }

func (c check) times(key string, t TCPCheck) {
	c.span(key+".interval", orNil(t.Interval, 15*time.Second), time.Second, time.Hour)
	c.span(key+".timeout", orNil(t.Timeout, 2*time.Second), 10*time.Millisecond, time.Minute)
	c.span(key+".grace_period", t.GracePeriod, 0, time.Hour)
	if interval, timeout := t.Interval.Or(15*time.Second), t.Timeout.Or(2*time.Second); timeout > interval && interval >= time.Second {
		c.warnf(key+".timeout", "is %s, longer than the interval of %s: a failure is noticed late", timeout, interval)
	}
}

func orNil(d *api.Duration, def time.Duration) *api.Duration { return api.D(d.Or(def)) }
